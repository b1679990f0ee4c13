"""Augmentation of series and audio features (batch, time, features)."""

import keras
from keras import ops

from finetune_keras.arguments import check, number, share
from finetune_keras.data.augmentation import STRENGTH, Augmentation
from finetune_keras.data.random_layer import RandomLayer

NOISE = "the noise as a share of the spread of the data"


def sequence_augmentation(strength="medium", seed=None):
    """Makes a layer that augments sequences while training.

    For batches `(batch, time, features)`: signals, spectrograms. `"light"`
    adds noise and changes the scale, `"medium"` and `"strong"` do more of it
    and also hide stretches of time and bands of features. All is relative to
    the spread of each feature over time, so that no scaling is asked for.

    Args:
        strength: String, `"light"`, `"medium"` or `"strong"`. Defaults to
            `"medium"`.
        seed: Integer, or `None` for a random one. Defaults to `None`.

    Returns:
        An `Augmentation`.

    Raises:
        ValueError: If `strength` is unknown.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    x = np.random.normal(size=(4, 100, 6)).astype("float32")
    print(ft.sequence_augmentation("strong")(x, training=True).shape)
    ```

    Reference:

    - [Um et al., 2017](https://arxiv.org/abs/1706.00527)
    - [Park et al., 2019](https://arxiv.org/abs/1904.08779)
    """
    check(strength=(strength, STRENGTH))
    noise, scale, time, features, count = {
        "light": (0.02, 0.05, 0.0, 0.0, 0),
        "medium": (0.05, 0.1, 0.1, 0.1, 1),
        "strong": (0.1, 0.2, 0.15, 0.15, 2),
    }[strength]
    layers = [
        RandomJitter(noise, dtype="float32"),
        RandomScaling(scale, dtype="float32"),
    ]
    if count:
        layers.append(SpecAugment(time, features, count, dtype="float32"))
    return Augmentation(layers, seed=seed)


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomJitter(RandomLayer):
    """Adds noise, `factor` times the spread of each feature over time.

    Active with `training=True` only.
    """

    def __init__(self, factor=0.05, seed=None, **kwargs):
        check(factor=(factor, number(0), NOISE))
        super().__init__(seed, **kwargs)
        self.factor = factor

    def augment(self, x):
        spread = ops.std(x, axis=1, keepdims=True)
        return x + self.factor * spread * self.normal(ops.shape(x))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomScaling(RandomLayer):
    """Multiplies each feature of a sequence by a number near one.

    The number is normal around 1, with `factor` as its deviation. Active with
    `training=True` only.
    """

    def __init__(self, factor=0.1, seed=None, **kwargs):
        check(factor=(factor, number(0), NOISE))
        super().__init__(seed, **kwargs)
        self.factor = factor

    def augment(self, x):
        batch, _, features = ops.shape(x)
        return x * (1.0 + self.factor * self.normal((batch, 1, features)))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="finetune_keras")
class SpecAugment(RandomLayer):
    """Hides stretches of time and bands of features.

    What is hidden gets the mean of its feature over time. Each of `count`
    masks has a random width, up to the share `time` or `features`, and a
    random place; it may be of width zero. Give 0 for `features` where
    neighbours do not belong together, as frequencies do. Active with
    `training=True` only.
    """

    def __init__(self, time=0.1, features=0.1, count=1, seed=None, **kwargs):
        check(time=(time, share), features=(features, share))
        super().__init__(seed, **kwargs)
        self.time = time
        self.features = features
        self.count = count

    def augment(self, x):
        batch, steps, features = ops.shape(x)
        over_time = self._masks(batch, steps, self.time)
        over_features = self._masks(batch, features, self.features)
        hidden = ops.logical_or(
            ops.expand_dims(over_time, 2), ops.expand_dims(over_features, 1)
        )
        return ops.where(hidden, ops.mean(x, axis=1, keepdims=True), x)

    def _masks(self, batch, size, share):
        """Marks what is hidden along one axis, (batch, size)."""
        total = ops.cast(size, "float32")
        draws = self.uniform((batch, max(self.count, 1), 2))
        width = ops.floor(draws[..., :1] * (ops.floor(share * total) + 1.0))
        width = ops.minimum(width, total) if self.count else width * 0.0
        start = ops.floor(draws[..., 1:] * (total - width + 1.0))
        place = ops.arange(size, dtype="float32")
        covered = ops.logical_and(place >= start, place < start + width)
        return ops.any(covered, axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "time": self.time,
            "features": self.features,
            "count": self.count,
        }
