"""Questions with several choices: a score for each, of which one is right."""

import keras
import numpy as np
from keras import ops

from finetune_keras.data.labels import as_array, as_text
from finetune_keras.data.task import Task
from finetune_keras.models.text_encoder import TextEncoder, check_texts

_NOTHING = -1e9


@keras.saving.register_keras_serializable(package="finetune_keras")
class ChoiceLoss(keras.losses.Loss):
    """Cross-entropy of the right choice among those of its question.

    Labels have a row for each choice: the number of its question, and 1 where
    it is right. All choices of a question stand in one batch.
    """

    def call(self, y_true, y_pred):
        scores, right, same = _by_question(y_true, y_pred)
        totals = ops.where(same, scores[None, :], _NOTHING)
        likely = scores - ops.logsumexp(totals, axis=1)
        return -right * likely / ops.mean(right)


@keras.saving.register_keras_serializable(package="finetune_keras")
def choice_accuracy(y_true, y_pred):
    """Share of questions whose right choice scores more than all others."""
    scores, right, same = _by_question(y_true, y_pred)
    others = same & ops.logical_not(ops.eye(ops.shape(scores)[0], dtype="bool"))
    best = ops.max(ops.where(others, scores[None, :], _NOTHING), axis=1)
    first = ops.cast(scores > best, scores.dtype)
    return right * first / ops.mean(right)


def _by_question(y_true, y_pred):
    scores = ops.cast(ops.reshape(y_pred, (-1,)), "float32")
    questions, right = y_true[:, 0], ops.cast(y_true[:, 1], "float32")
    return scores, right, ops.equal(questions[:, None], questions[None, :])


class Choices(Task):
    """One of several texts, by a score for each; judged as a class."""

    name, activation = "choices", "linear"
    is_judged, judged_as = False, "classification"
    has_chances = weighs_classes = False

    def compile_arguments(self, one_hot=False):
        return {"loss": ChoiceLoss(), "metrics": [choice_accuracy]}

    def as_judged(self, x, y, outputs):
        found = np.array([one["probabilities"] for one in outputs], "float32")
        return places_of(y, x[1]), found


@keras.saving.register_keras_serializable(package="finetune_keras")
class ChoiceEncoder(TextEncoder):
    """Turns questions with their choices into pairs of texts, and back."""

    sample = (["a question"], [["a sample", "text"]])

    def __init__(self, tokenizer, sequence_length=128):
        super().__init__(tokenizer, sequence_length)
        self.task = Choices()

    def count(self, x):
        return len(_questions(x)[0])

    def together(self, x):
        return _questions(x)[1].shape[1]

    def encode(self, x):
        questions, choices = _questions(x)
        questions = np.repeat(np.array(questions, object), choices.shape[1])
        return super().encode((list(questions), list(choices.ravel())))

    def prepare(self, x, y=None, sample_weight=None):
        arrays, lengths = self.encode(x)
        if y is None:
            return arrays, lengths, ()
        choices = _questions(x)[1]
        count, width = choices.shape
        questions = np.repeat(np.arange(count), width)
        right = places_of(y, choices)[:, None] == np.arange(width)
        labels = (np.stack([questions, right.ravel()], 1).astype("int32"),)
        if sample_weight is not None:
            weight = np.asarray(sample_weight, "float32").reshape(-1)
            labels += (np.repeat(weight, width),)
        return arrays, lengths, labels

    def finish(self, outputs, x):
        """Lists the best choice of each question, with all probabilities."""
        choices = _questions(x)[1]
        scores = np.asarray(outputs, "float64").reshape(choices.shape)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        return [
            {
                "choice": int(i),
                "text": texts[i],
                "score": float(row[i]),
                "probabilities": row.tolist(),
            }
            for i, texts, row in zip(
                shares.argmax(axis=1), choices, shares, strict=True
            )
        ]

    def get_config(self):
        config = super().get_config()
        del config["classes"]
        return config


def _questions(x):
    """A list of questions, and their choices: an array, a row each."""
    if not isinstance(x, (tuple, list)) or len(x) != 2:
        raise ValueError(
            "Questions come with their choices: pass a tuple `(questions, "
            "choices)` of a list of strings and a list of lists of strings. "
            f"Received: x of type {type(x).__name__}"
        )
    questions = check_texts(x[0])
    rows = x[1].to_numpy() if hasattr(x[1], "to_numpy") else x[1]
    rows = rows.numpy() if hasattr(rows, "numpy") else rows
    rows = [[*row] if _is_row(row) else row for row in rows]
    widths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(rows) != len(questions) or len(widths) != 1 or min(widths) < 2:
        raise ValueError(
            "Each question needs a list of at least two choices, all as many: "
            "leave out questions with others. Received: "
            f"{len(questions)} questions, and {len(rows)} rows of "
            f"{sorted(widths)} choices"
        )
    flat = check_texts([text for row in rows for text in row])
    choices = np.empty(len(flat), object)
    choices[:] = flat
    return questions, choices.reshape(len(rows), -1)


def _is_row(row):
    return isinstance(row, (list, tuple, np.ndarray))


def places_of(y, choices):
    """Labels, places of the right choices or their texts, as places."""
    y = as_array(y).reshape(-1)
    if y.dtype.kind in "OSU":
        y = _places_of_texts(list(map(as_text, y)), choices)
    width = np.shape(choices)[1]
    whole = y.dtype.kind in "iu" or (y == np.floor(y)).all()
    if not whole or y.min() < 0 or y.max() >= width:
        raise ValueError(
            f"The right choices are numbers from 0 to {width - 1}. Received: "
            f"labels from {y.min()} to {y.max()}"
        )
    return y.astype("int64")


def _places_of_texts(y, choices):
    rows = [list(map(as_text, row)) for row in choices]
    pairs = list(zip(rows, y, strict=True))
    lost = [i for i, (row, one) in enumerate(pairs) if row.count(one) != 1]
    if lost:
        row, one = pairs[lost[0]]
        raise ValueError(
            "The label of a question is the place of its right choice, or its "
            "text, which stands once among them. Received: "
            f"{one!r} for {row}, and {len(lost) - 1} more"
        )
    return np.array([row.index(one) for row, one in pairs])
