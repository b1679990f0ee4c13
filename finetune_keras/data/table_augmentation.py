"""Augmentation of tables (batch, features): noise, cells that change rows."""

import keras
import numpy as np
from keras import ops

from finetune_keras.arguments import check, number, share
from finetune_keras.data.augmentation import STRENGTH, Augmentation
from finetune_keras.data.random_layer import RandomLayer
from finetune_keras.data.sequence_augmentation import NOISE


def table_augmentation(strength="medium", numeric=None, seed=None):
    """Makes a layer that augments rows of a table while training.

    For batches `(batch, features)`. `"light"` adds Gaussian noise (5 % of the
    spread of each column in the batch), `"medium"` and `"strong"` add 10 % and
    20 %, and give 10 % and 20 % of the cells the value of another row.

    Args:
        strength: String, `"light"`, `"medium"` or `"strong"`. Defaults to
            `"medium"`.
        numeric: List of integers, the columns that may get noise: those that
            are measured, not codes or flags. Defaults to `None`, all of them.
        seed: Integer, or `None` for a random one. Defaults to `None`.

    Returns:
        An `Augmentation`.

    Raises:
        ValueError: If `strength` is unknown.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    x = np.random.normal(size=(16, 3)).astype("float32")
    augmentation = ft.table_augmentation("strong", numeric=[0, 1], seed=0)
    print(augmentation(x, training=True)[:2])
    ```
    """
    check(strength=(strength, STRENGTH))
    noise, swap = {
        "light": (0.05, 0.0),
        "medium": (0.1, 0.1),
        "strong": (0.2, 0.2),
    }[strength]
    layers = [RandomCellNoise(noise, numeric, dtype="float32")]
    if swap:
        layers.insert(0, RandomCellSwap(swap, dtype="float32"))
    return Augmentation(layers, seed=seed)


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomCellNoise(RandomLayer):
    """Adds noise, `factor` times the spread of a column in the batch.

    `columns` are those that get noise, `None` all of them. A batch of one row
    has no spread, and gets no noise. Active with `training=True` only.
    """

    def __init__(self, factor=0.1, columns=None, seed=None, **kwargs):
        check(factor=(factor, number(0), NOISE))
        super().__init__(seed, **kwargs)
        self.factor = factor
        self.columns = None if columns is None else list(columns)

    def augment(self, x):
        spread = ops.std(x, axis=0, keepdims=True)
        noise = self.factor * spread * self.normal(ops.shape(x))
        return x + noise * self._allowed(x.shape[-1])

    def _allowed(self, features):
        allowed = np.zeros(features, "float32")
        columns = range(features) if self.columns is None else self.columns
        if any(not -features <= column < features for column in columns):
            raise ValueError(
                f"The input has {features} columns, numbered from 0. "
                f"Received: columns={self.columns!r}"
            )
        allowed[list(columns)] = 1.0
        return ops.cast(allowed, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "factor": self.factor,
            "columns": self.columns,
        }


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomCellSwap(RandomLayer):
    """Swap noise: a cell takes the value of its column in another row.

    It does with probability `rate`, with `training=True` only. Each value
    stays one that the column has, so that codes and flags are safe.
    """

    def __init__(self, rate=0.1, seed=None, **kwargs):
        check(rate=(rate, share))
        super().__init__(seed, **kwargs)
        self.rate = rate

    def augment(self, x):
        rows = ops.shape(x)[0]
        others = ops.cast(rows - 1, "float32")
        # `floor(uniform * others)` is at most `others - 1`, but for rounding.
        offset = ops.floor(self.uniform(ops.shape(x)) * others)
        offset = ops.minimum(offset, ops.maximum(others - 1.0, 0.0)) + 1.0
        place = ops.expand_dims(ops.arange(rows, dtype="int32"), 1)
        other = ops.mod(place + ops.cast(offset, "int32"), rows)
        swapped = self.uniform(ops.shape(x)) < self.rate
        return ops.where(swapped, ops.take_along_axis(x, other, axis=0), x)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
