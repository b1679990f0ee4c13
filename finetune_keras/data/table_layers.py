"""Layers that make numbers of the columns of a table, and a `FeatureSpace`."""

import collections
import math

import keras
import numpy as np
from keras import ops

from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf

_MOST_CATEGORIES, _MOST_WORDS = 100, 1000
_YEAR, _WEEK, _DAY = 365.2425, 7.0, 1.0


class _Column(keras.layers.Layer):
    """Encodes a column (batch, 1) as floats; what it knows is in its config."""

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})


@keras.saving.register_keras_serializable(package="finetune_keras")
class NumberEncoding(_Column):
    """Standardises numbers: `(batch, 2)`, the number and whether it is missing.

    A missing one is NaN, and becomes the mean. Where none was missing in
    training, the second column stays 0, for its weights never learn.
    """

    def __init__(self, mean=0.0, deviation=1.0, missing=True, **kwargs):
        super().__init__(**kwargs)
        self.mean = mean
        self.deviation = deviation
        self.missing = missing

    def call(self, x):
        lacks = ops.isnan(x)
        x = (x - self.mean) / self.deviation
        told = ops.cast(lacks, x.dtype) * float(self.missing)
        return ops.concatenate([ops.where(lacks, 0.0, x), told], axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "mean": self.mean,
            "deviation": self.deviation,
            "missing": self.missing,
        }


@keras.saving.register_keras_serializable(package="finetune_keras")
class DateEncoding(_Column):
    """Encodes days since 1970: `(batch, 8)`.

    The standardised day and whether it is missing, as of `NumberEncoding`;
    then sine and cosine of its place in the year, in the week, and, where
    `hours` is true, in the day. All is 0 where the date is missing.
    """

    def __init__(
        self, mean=0.0, deviation=1.0, missing=True, hours=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.mean = mean
        self.deviation = deviation
        self.missing = missing
        self.hours = hours

    def call(self, x):
        lacks = ops.isnan(x)
        told = ops.cast(lacks, x.dtype) * float(self.missing)
        parts = [(x - self.mean) / self.deviation]
        for period in (_YEAR, _WEEK, _DAY):
            turn = ops.mod(x, period) * (2 * math.pi / period)
            seen = float(period != _DAY or self.hours)
            parts += [ops.sin(turn) * seen, ops.cos(turn) * seen]
        known = [ops.where(lacks, 0.0, part) for part in parts]
        return ops.concatenate([known[0], told, *known[1:]], axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "mean": self.mean,
            "deviation": self.deviation,
            "missing": self.missing,
            "hours": self.hours,
        }


@keras.saving.register_keras_serializable(package="finetune_keras")
class CategoryEncoding(_Column):
    """One column for each known category, and a first one for all others.

    A category that is not known, as one that is missing, is in the first
    column. Where none was in training, that column stays 0, for its weights
    never learn. TensorFlow backend only, as `keras.layers.StringLookup`.
    """

    def __init__(self, vocabulary, others=True, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary = list(vocabulary)
        self.others = others
        self.lookup = self._lookup()

    def build(self, input_shape):
        self.lookup.build(input_shape)

    def _lookup(self):
        return keras.layers.StringLookup(
            vocabulary=self.vocabulary, output_mode="one_hot"
        )

    def call(self, x):
        x = ops.cast(self.lookup(x), self.compute_dtype)
        return x if self.others else x * ops.cast(_known(x), x.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary": self.vocabulary,
            "others": self.others,
        }


@keras.saving.register_keras_serializable(package="finetune_keras")
class TextEncoding(CategoryEncoding):
    """One column for each known word, 1 where a text has it.

    The first one is for all other words, as in `CategoryEncoding`.
    """

    def _lookup(self):
        # By itself this layer tells another shape than it gives.
        return keras.layers.TextVectorization(
            vocabulary=self.vocabulary, output_mode="multi_hot"
        )


def _known(x):
    return ops.arange(x.shape[-1]) > 0


def make_feature_space(kinds, columns):
    """A `keras.utils.FeatureSpace` that knows the columns of the training.

    `columns` are those that `read_column` makes, of the training alone.
    """
    if not backend.on("tensorflow") and set(kinds.values()) & {
        "category",
        "text",
    }:
        raise ValueError(
            "A model takes strings on the TensorFlow backend only. Set "
            "KERAS_BACKEND=tensorflow, or make numbers of the categories: "
            "`pandas.get_dummies(frame, dtype=float)`. Received: "
            f"backend={backend.name()!r}, kinds={kinds}"
        )
    _check_known(kinds, columns)
    space = keras.utils.FeatureSpace(
        {
            input_name(name): _FEATURES[kind](columns[input_name(name)])
            for name, kind in kinds.items()
        }
    )
    # A layer wraps its dicts, and a model warns where a plain one comes in.
    vars(space)["inputs"] = dict(space.inputs)
    return space


def _check_known(kinds, columns):
    """Refuses columns of which training would have nothing to learn from."""
    for name in kinds:
        column = columns[input_name(name)]
        lacks = column == "" if column.dtype == object else np.isnan(column)
        if lacks.all():
            raise ValueError(
                f"Column {name!r} has no value in the training data, and what "
                "a model makes of later ones would be chance. Leave it out of "
                f"`features`. Received: {len(column)} missing values"
            )


def input_name(column):
    """What the input of a model for a column is called."""
    return str(column).replace("/", "_")


def _number(column):
    return _feature("float32", NumberEncoding(**_spread(column)))


def _date(column):
    known = column[np.isfinite(column)]
    hours = bool((known != np.floor(known)).any())
    return _feature("float32", DateEncoding(**_spread(column), hours=hours))


def _category(column):
    counts = collections.Counter(column[:, 0])
    counts.pop("", None)
    # One example teaches nothing of a category.
    often = [(-n, value) for value, n in counts.items() if n > 1]
    often = sorted(often or [(-n, value) for value, n in counts.items()])
    vocabulary = [value for _, value in often[:_MOST_CATEGORIES]]
    others = bool((~np.isin(column[:, 0], vocabulary)).any())
    return _feature("string", CategoryEncoding(vocabulary, others))


def _text(column):
    layer = keras.layers.TextVectorization(_MOST_WORDS, output_mode="multi_hot")
    layer.adapt(tf.data.Dataset.from_tensor_slices(column).batch(1024))
    found = ops.convert_to_numpy(layer(column))
    words = layer.get_vocabulary(include_special_tokens=False)
    return _feature("string", TextEncoding(words, bool(found[:, 0].any())))


_FEATURES = {
    "number": _number,
    "date": _date,
    "category": _category,
    "text": _text,
}


def _feature(dtype, layer):
    return keras.utils.FeatureSpace.feature(
        dtype=dtype, preprocessor=layer, output_mode="float"
    )


def _spread(column):
    known = column[np.isfinite(column)].astype("float64")
    mean, deviation = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
    # A constant column stays at 0.
    return {
        "mean": float(mean),
        "deviation": float(deviation) or 1.0,
        "missing": len(known) < len(column),
    }
