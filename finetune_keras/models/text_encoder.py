"""From texts to what a transformer takes: the tokeniser and its packing."""

import keras
import numpy as np

from finetune_keras.arguments import check, integer
from finetune_keras.data.labels import (
    as_array,
    check_classes,
    ids_of_names,
    is_missing,
    one_column,
)
from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf


@keras.saving.register_keras_serializable(package="finetune_keras")
class TextEncoder:
    """Turns texts, or pairs of them, into arrays of token ids.

    A tokeniser of KerasHub splits the texts; this packs them as the backbone
    was trained: start, text, end, and where there is a second text that one
    and its end, `sequence_length` tokens at most. Longer inputs lose the end
    of their longer text. `classes` are names of the classes, or `None`.
    """

    # A `Task` of tokens; `None` to tell it by the head.
    task = None
    sample = ["a sample text"]
    # Whether each pass over the data gives other arrays.
    is_random = False

    def __init__(self, tokenizer, sequence_length=128, classes=None):
        meaning = "the most tokens of one input"
        check(sequence_length=(sequence_length, integer(4), meaning))
        self.tokenizer = tokenizer
        self.sequence_length = int(sequence_length)
        self.classes = None if classes is None else check_classes(classes)
        # How many end tokens stand between two texts.
        self.separators = 2 if "Roberta" in type(tokenizer).__name__ else 1

    # === Texts ===

    def count(self, x):
        """Tells how many examples there are in what `encode` takes."""
        first, _ = _first_and_second(x)
        return 1 if isinstance(first, (str, bytes)) else len(first)

    def together(self, x):
        """How many rows of arrays an example has, which stay in one batch.

        1 where rows may be parted.
        """
        return 1

    def encode(self, x):
        """`(arrays, lengths)` of texts, or of a tuple of two lists of them.

        Integer arrays (texts, longest) by name, and the tokens of each.
        """
        first, second = _first_and_second(x)
        first = self.token_ids(first)
        if second is None:
            rows = [self._pack(ids) for ids in first]
        else:
            second = self.token_ids(second)
            if len(first) != len(second):
                raise ValueError(
                    "Pairs of texts need as many second texts as first ones. "
                    f"Received: {len(first)} and {len(second)}"
                )
            rows = [
                self._pack(*pair) for pair in zip(first, second, strict=True)
            ]
        return self.arrays(rows)

    def labels(self, y):
        """Turns labels into arrays; class names into their numbers."""
        y = one_column(as_array(y))
        if y.dtype.kind not in "OSU":
            return y
        missing = [i for i, name in enumerate(y) if is_missing(name)]
        if missing:
            raise ValueError(
                f"{len(missing)} of the {len(y)} texts have no label. Leave "
                f"them out. Received: missing labels at {missing[:10]}"
            )
        return ids_of_names(y, self.classes)

    def prepare(self, x, y=None, sample_weight=None):
        """`(arrays, lengths, labels)` of a data set; labels is a tuple."""
        arrays, lengths = self.encode(x)
        labels = () if y is None else (self.labels(y),)
        if sample_weight is not None:
            labels += (np.asarray(sample_weight, "float32"),)
        return arrays, lengths, labels

    # === Tokens ===

    def token_ids(self, texts):
        """Tokenises texts; a list of lists of integers."""
        texts = check_texts(texts)
        if len(texts) > MANY and backend.on("tensorflow"):
            return self._in_parallel(texts)
        found = self.tokenizer(texts) if texts else []
        found = found.to_list() if hasattr(found, "to_list") else found
        return [list(map(int, row)) for row in found]

    def _in_parallel(self, texts):
        """Tokenises on all cores; below a few thousand it is not worth it."""
        batches = tf.data.Dataset.from_tensor_slices(texts).batch(512)
        found = batches.map(self.tokenizer, tf.data.AUTOTUNE)
        return [row for batch in found for row in batch.to_list()]

    def ids_of_words(self, words):
        """Dict from each word to its token ids, at least one."""
        known = self.ids_of_pieces([(True, word) for word in words])
        unknown = self._unknown()
        return {word: ids or [unknown] for (_, word), ids in known.items()}

    def ids_of_pieces(self, pieces):
        """Dict from `(after a space, text)` to token ids, each done once."""
        pieces = list(dict.fromkeys(pieces))
        # Byte-pair tokenisers tell a word from the middle of one by its space.
        blank = " " if "BytePair" in str(type(self.tokenizer).__mro__) else ""
        texts = [blank + text if space else text for space, text in pieces]
        return dict(zip(pieces, self.token_ids(texts), strict=True))

    def _unknown(self):
        for name in ("oov_token", "unk_token"):
            token = getattr(self.tokenizer, name, None)
            if token is not None:
                return self.tokenizer.token_to_id(token)
        return self.tokenizer.end_token_id

    def _pack(self, first, second=None):
        """Packs one input: its ids, and how many of them are the first's."""
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        if second is None:
            ids = [start, *first[: self.sequence_length - 2], end]
            return ids, len(ids)
        room = self.sequence_length - 2 - self.separators
        first, second = _shorten(first, second, room)
        ids = [start, *first, end]
        ends = [end] * (self.separators - 1)
        return [*ids, *ends, *second, end], len(ids)

    def arrays(self, rows):
        """Pads packed inputs to the longest of them."""
        lengths = np.array([len(ids) for ids, _ in rows], "int64")
        longest = max(lengths, default=0)
        pad = self.tokenizer.pad_token_id
        tokens = np.full((len(rows), longest), pad, "int32")
        segments = np.zeros_like(tokens)
        for i, (ids, first) in enumerate(rows):
            tokens[i, : len(ids)] = ids
            segments[i, first : len(ids)] = 1
        mask = (np.arange(longest) < lengths[:, None]).astype("int32")
        arrays = {"token_ids": tokens, "padding_mask": mask}
        return {**arrays, "segment_ids": segments}, lengths

    # === Keras ===

    def finish(self, outputs, x):
        """Turns the outputs for `x` into what a person asked for."""
        return outputs

    def get_config(self):
        return {
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "sequence_length": self.sequence_length,
            "classes": self.classes,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config["tokenizer"], dict):
            config["tokenizer"] = keras.saving.deserialize_keras_object(
                config["tokenizer"]
            )
        return cls(**config)


MANY = 4096


def _first_and_second(x):
    """The columns of pairs of texts; the second of single ones is `None`."""
    if not isinstance(x, tuple):
        return x, None
    if len(x) != 2:
        raise ValueError(
            "Texts are a list, `list(texts)`; a tuple holds two lists, the "
            "first and second texts of pairs. "
            f"Received: a tuple of {len(x)}"
        )
    return x


def check_texts(texts):
    """Makes a list of strings of texts, or says which one is none."""
    texts = _column(texts)
    if isinstance(texts, (str, bytes)):
        texts = [texts]
    if hasattr(texts, "numpy"):
        texts = texts.numpy()
    texts = [as_text(text) for text in texts]
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                "Every text must be a string; a missing one can be given as "
                f'"". Received: {text!r} of type {type(text).__name__} at '
                f"position {i}"
            )
    return texts


def _column(texts):
    """Texts out of a frame or an array of one column."""
    if not _is_frame(texts):
        return one_column(texts) if hasattr(texts, "ndim") else texts
    if len(texts.columns) != 1:
        raise ValueError(
            "Texts are one column of a frame, `frame['text']`, and pairs of "
            "them a tuple of two, `(frame['first'], frame['second'])`. "
            f"Received: a frame with the columns {list(texts.columns)}"
        )
    return texts.iloc[:, 0]


def _is_frame(x):
    return hasattr(x, "iloc") and hasattr(x, "columns")


def as_text(text):
    """A string, where it can be told; anything else as it is."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    # Tokenisers differ in what they make of it.
    return text.replace("\0", " ") if isinstance(text, str) else text


def is_raw(x):
    """Tells texts from arrays of token ids."""
    if isinstance(x, dict) or x is None:
        return False
    if isinstance(x, (str, bytes)):
        return True
    if _is_frame(x):
        return any(is_raw(x.iloc[:, i]) for i in range(x.shape[1]))
    dtype = getattr(x, "dtype", None)
    if dtype is not None:
        return str(dtype) in ("string", "object", "str") or (
            getattr(dtype, "name", "").startswith(("string", "str", "object"))
        )
    if isinstance(x, (list, tuple)):
        return not x or any(one is None or is_raw(one) for one in x[:2])
    return False


def _shorten(first, second, room):
    """Cuts the longer of two until both fit, as BERT was trained."""
    excess = len(first) + len(second) - room
    if excess <= 0:
        return first, second
    half = (room + 1) // 2
    if len(first) <= half:
        return first, second[: room - len(first)]
    if len(second) <= room - half:
        return first[: room - len(second)], second
    return first[:half], second[: room - half]
