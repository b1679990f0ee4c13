"""Words with a tag each: sub-word tokens and the words they belong to."""

import warnings

import keras
import numpy as np

from finetune_keras.data.labels import check_classes
from finetune_keras.data.task import Task
from finetune_keras.models.text_encoder import TextEncoder, as_text, check_texts


class TokenTask(Task):
    """A task of sequences in which some tokens count, by their weights."""

    is_judged = False
    are_sequences = True

    def compile_arguments(self, one_hot=False):
        loss = keras.losses.SparseCategoricalCrossentropy(
            reduction="mean_with_sample_weight"
        )
        return {"loss": loss, "weighted_metrics": ["accuracy"]}


class Tags(TokenTask):
    """A tag for each word."""

    name, activation = "tags", "softmax"


@keras.saving.register_keras_serializable(package="finetune_keras")
class TagEncoder(TextEncoder):
    """Turns lists of words, and a tag for each word, into arrays.

    A string is a sentence as well: its words stand between blanks. The first
    token of a word carries its tag; the others weigh nothing.
    """

    sample = [["a", "sample", "text"]]

    def __init__(self, tokenizer, sequence_length=128, classes=()):
        classes = check_classes(classes, "tags") if len(classes) else []
        super().__init__(tokenizer, sequence_length, classes or None)
        if len(classes) < 2:
            raise ValueError(
                "`tags` must be a list of at least two different names. "
                f"Received: tags={list(classes)!r}"
            )
        self.task = Tags(self.classes, len(classes))

    def count(self, x):
        # A tuple of sentences is no pair.
        return len(x)

    def encode(self, x):
        rows = self._rows(x)
        return self.arrays([(ids, len(ids)) for ids, _ in rows])

    def prepare(self, x, y=None, sample_weight=None):
        x = _sentences(x)
        rows = self._rows(x)
        arrays, lengths = self.arrays([(ids, len(ids)) for ids, _ in rows])
        if y is None:
            return arrays, lengths, ()
        tags = np.zeros(arrays["token_ids"].shape, "int32")
        weights = np.zeros(tags.shape, "float32")
        numbers = {name: i for i, name in enumerate(self.classes)}
        for i, (_, starts) in enumerate(rows):
            known = self._numbers(y[i], numbers, len(x[i]), i)[: len(starts)]
            tags[i, starts] = known
            weights[i, starts] = (
                1 if sample_weight is None else sample_weight[i]
            )
        return arrays, lengths, (tags, weights)

    def finish(self, outputs, x):
        """Lists a tag for each word of each sentence."""
        default = "O" if "O" in self.classes else self.classes[0]
        found = np.asarray(outputs).argmax(axis=-1)
        x, tags = _sentences(x, told=True), []
        for words, (_, starts), best in zip(
            x, self._rows(x), found, strict=True
        ):
            named = [self.classes[best[start]] for start in starts]
            tags.append(named + [default] * (len(words) - len(named)))
        return tags

    def _rows(self, sentences):
        """Lists the ids of each sentence, and where each word begins."""
        sentences = _sentences(sentences, told=True)
        flat = check_texts([word for words in sentences for word in words])
        known = self.ids_of_words(flat)
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        rows = []
        for words in sentences:
            ids, starts = [start], []
            for word in words:
                part = known[as_text(word)]
                if len(ids) + len(part) >= self.sequence_length:
                    break
                starts.append(len(ids))
                ids += part
            rows.append(([*ids, end], starts))
        return rows

    def _numbers(self, tags, numbers, count, sentence):
        if len(tags) != count:
            raise ValueError(
                "Each word needs one tag. Received: "
                f"{count} words and {len(tags)} tags in sentence {sentence}"
            )
        found = [numbers.get(as_text(tag), tag) for tag in tags]
        bad = [t for t in found if isinstance(t, (str, bytes))]
        if bad or not all(0 <= tag < len(self.classes) for tag in found):
            raise ValueError(
                f"The tags are {self.classes}. Received: {list(tags)!r} in "
                f"sentence {sentence}"
            )
        return found


def _sentences(x, told=False):
    """Lists the words of each sentence; a string is split at its blanks."""
    strings = [isinstance(words, (str, bytes)) for words in x]
    sentences = [
        as_text(words).split() if is_string else list(words)
        for words, is_string in zip(x, strings, strict=True)
    ]
    longest = max(map(len, sentences), default=0)
    if not told and all(strings) and len(strings) > 1 and longest < 2:
        warnings.warn(
            f"Each of {len(strings)} strings is taken for a sentence, and each "
            "has one word only. Of one sentence pass a list of it: "
            f"`[{[as_text(word) for word in x[:3]]}]`",
            stacklevel=2,
        )
    return sentences
