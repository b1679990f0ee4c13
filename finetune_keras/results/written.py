"""What a language model writes, and how likely it holds what is true."""

import hashlib
import json
import re

import keras
import numpy as np

from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.data.prompts import Prompts
from finetune_keras.engine.packages import keras_hub
from finetune_keras.models.layer_groups import as_groups
from finetune_keras.results.outcomes import Outcomes
from finetune_keras.text.generation import (
    TextGeneration,
    for_answers,
    write,
)
from finetune_keras.text.prompt_tokens import (
    arrays_of,
    as_prompts,
    buckets,
    length_to_write,
)
from finetune_keras.text.sound_tokens import hears

# Scores of so many tokens and words of the vocabulary at once.
_MOST_SCORES = 2**27
# Its column has what was wrong, which is divided by the words of all.
WORD_ERRORS = "word_error_rate"


class Written(Outcomes):
    """What a model wrote for each example, and what was true.

    `y_true` and `y_pred` are arrays of strings; `outputs` are columns of
    numbers: the loss of an example, its tokens, and a column for each of
    `measures`.
    """

    arrays = ("texts", "outputs", "keys")

    def __init__(self, y_true, y_pred, outputs, measures, keys=None):
        task = TextGeneration([])
        super().__init__(y_true, outputs, task, keys=keys)
        self.measures = measures
        self._written = y_pred

    @property
    def scores(self):
        return self.outputs

    @property
    def y_pred(self):
        return self._written

    @property
    def words(self):
        """Words of each true text."""
        return np.array([len(_words(text)) for text in self.y_true], float)

    @property
    def losses(self):
        """Mean loss of a token of each example."""
        return self.outputs[:, 0] / np.maximum(self.outputs[:, 1], 1)

    @property
    def label_digest(self):
        text = json.dumps([str(self.task), self.y_true.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def texts(self):
        """Both arrays of strings as an array of bytes, for a file."""
        texts = json.dumps([self.y_true.tolist(), self.y_pred.tolist()])
        return np.frombuffer(texts.encode(), "uint8")

    @classmethod
    def read(cls, measures, texts, outputs, keys):
        """Makes it of the arrays in a file."""
        parts = (np.array(part, object) for part in json.loads(texts.tobytes()))
        return cls(*parts, outputs, measures, keys)

    def take(self, rows):
        parts = self.y_true[rows], self.y_pred[rows], self.outputs[rows]
        keys = None if self.keys is None else self.keys[rows]
        return Written(*parts, self.measures, keys)


def read_written(model, data, metrics, worst, batch_size):
    """`(outcomes, worst)` of a model that writes, as `collect` has them."""
    data = as_prompts(data)
    if not isinstance(data, Prompts):
        raise ValueError(
            "A model that writes is judged on texts: pass what `ft.prompts` "
            "returns, or (texts,) or (questions, answers). Received: data of "
            f"type {type(data).__name__}"
        )
    measures, told = {}, dict(metrics or {})
    if WORD_ERRORS in told:
        raise ValueError(
            f"{WORD_ERRORS!r} is told of models that hear. Give a metric of "
            f"your own another name. Received: metrics={list(told)}"
        )
    columns = list(token_losses(model, data, batch_size))
    if data.have_questions:
        texts, true = data.names or data.questions, data.answers
        length = length_to_write(model, data)
        written = write(model, data.questions, length, batch_size)
        written = [text.strip() for text in written]
        measures = {"exact_match": exact_match, "rouge_l": rouge_l}
        if hears(model):
            measures = {WORD_ERRORS: word_edits, "exact_match": exact_match}
        measures.update(told)
    else:
        texts = ["".join(t for t, _ in pieces) for pieces in data.examples]
        true, written = texts, [""] * len(data)
    if told and not measures:
        raise ValueError(
            "`metrics` judge what a model writes after a question, and the "
            "data have none. Pass `ft.prompts(questions, answers)`. Received: "
            f"metrics={list(told)}"
        )
    for name, function in measures.items():
        columns.append(_column(name, function(true, written), len(data)))
    found = Written(
        np.array(true, object),
        np.array(written, object),
        np.stack(columns, axis=1).astype("float64"),
        list(measures),
        np.array([_key(*pair) for pair in zip(texts, true, strict=True)]),
    )
    order = np.argsort(-found.losses, kind="stable")[:worst]
    return found, [(float(found.losses[i]), int(i), texts[i]) for i in order]


def _column(name, values, count):
    values = np.asarray(values, "float64").reshape(-1)
    if values.shape == (1,):
        values = np.repeat(values, count)
    if values.shape != (count,):
        raise ValueError(
            "A function of `metrics` takes lists of what is true and what was "
            f"written, and returns a number for each of the {count} examples. "
            f"Received: shape {values.shape} of {name!r}"
        )
    return values


def _key(*texts):
    found = hashlib.blake2b("\0".join(texts).encode(), digest_size=8)
    return np.uint64(int.from_bytes(found.digest(), "little"))


# === Losses ===


def token_losses(model, data, batch_size=32):
    """Sums of the losses of the learnt tokens of each example, and how many.

    A long example is read in windows, and each token judged once.
    """
    *arrays, owners = arrays_of(model, data, packing=False)
    # What is heard must not hang on the sounds that are judged beside it.
    parts = buckets(arrays, 1 if hears(model) else batch_size, model)
    sums = np.zeros((2, len(data)))
    flat = FlatModel(as_groups(model), for_answers)
    with flat.opened() as opened:
        judge, vocabulary = _with_losses(opened), opened.output.shape[-1]
        most = max(_MOST_SCORES // vocabulary, 1)
        for rows, part in zip(parts.rows, parts.parts, strict=True):
            size = min(batch_size, max(most // part[1].shape[1], 1))
            for places, found, weights in _batches(judge, part, size):
                one = owners[rows[places]]
                np.add.at(sums[0], one, (found * weights).sum(axis=1))
                np.add.at(sums[1], one, weights.sum(axis=1))
    return sums


def _with_losses(model):
    """The model with the losses of its tokens for an output."""
    y = keras.Input((None,), dtype="int32", name="targets")
    losses = keras.ops.sparse_categorical_crossentropy(
        y, keras.ops.cast(model.output, "float32"), from_logits=True
    )
    return keras.Model({**model.input, "targets": y}, losses)


def _batches(judge, part, size):
    """Yields places, losses and weights of the batches of a part."""
    x, y, weights = part
    for start in range(0, len(y), size):
        places = np.arange(start, start + size) % len(y)
        batch = {name: array[places] for name, array in x.items()}
        found = judge.predict_on_batch({**batch, "targets": y[places]})
        places = places[: len(y) - start]
        count = len(places)
        yield places, np.asarray(found[:count]), weights[places]


# === Texts ===


def exact_match(true, written):
    """1 for each text that is what was true, blanks around it aside."""
    pairs = zip(true, written, strict=True)
    return np.array([float(a.strip() == b.strip()) for a, b in pairs])


def rouge_l(true, written):
    """F1 of the longest common subsequence of words, for each text.

    As in [Lin, 2004](https://aclanthology.org/W04-1013/), without stemming.
    """
    return np.array(
        [
            _rouge_l(*map(_words, pair))
            for pair in zip(true, written, strict=True)
        ]
    )


def word_edits(true, written):
    """Words to put in, leave out or change to have what was true.

    Without regard to case and punctuation.
    """
    pairs = zip(map(_words, true), map(_words, written), strict=True)
    return np.array([_edits(*pair) for pair in pairs])


def _edits(one, other):
    if not one or not other:
        return float(max(len(one), len(other)))
    metric = keras_hub.metrics.EditDistance(normalize=False)
    metric.update_state(one, other)
    return float(metric.result())


def _words(text):
    return re.findall(r"\w+", text.lower())


def _rouge_l(one, other):
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for i, found in enumerate(other, 1):
            above = row[i]
            row[i] = diagonal + 1 if word == found else max(above, row[i - 1])
            diagonal = above
    return 2 * row[-1] / max(len(one) + len(other), 1)
