"""Learning-rate schedules that Keras lacks: one-cycle, slanted triangular."""

import math

import keras
from keras import ops

from finetune_keras.arguments import check, integer, number, part, positive

_STEPS = "epochs times batches an epoch"


@keras.saving.register_keras_serializable(package="finetune_keras")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """One cycle: a rise to the maximum, then a long fall to almost nothing.

    Both slopes are half cosines, as in fastai. The rise starts at
    `max_learning_rate / start_divisor`, reaches `max_learning_rate` after
    `warmup_fraction * total_steps` steps, and the fall ends after `total_steps`
    at `max_learning_rate / end_divisor`, where it stays. The momentum of the
    optimizer is not cycled.

    For a plain cosine with a linear warm-up, use Keras's own
    `keras.optimizers.schedules.CosineDecay`.

    Args:
        max_learning_rate: Positive float. The peak, for example the
            `suggestion` of `find_learning_rate`.
        total_steps: Positive integer. Steps (batches) of the whole cycle:
            epochs times batches an epoch.
        warmup_fraction: Float in [0, 1). Share of the steps that rise.
            Defaults to `0.25`.
        start_divisor: Float, at least 1. The peak over the first learning rate.
            Defaults to `25.0`.
        end_divisor: Float, at least 1. The peak over the last learning rate.
            Defaults to `1e5`.
        name: String. Name of the schedule. Defaults to `"one_cycle"`.

    Example:

    ```python
    import keras
    import finetune_keras as ft

    schedule = ft.OneCycle(1e-2, total_steps=100)
    print([round(float(schedule(step)), 6) for step in (0, 25, 100)])
    optimizer = keras.optimizers.Adam(schedule)
    ```

    Reference:

    - [Smith and Topin, 2017](https://arxiv.org/abs/1708.07120)
    """

    def __init__(
        self,
        max_learning_rate,
        total_steps,
        warmup_fraction=0.25,
        start_divisor=25.0,
        end_divisor=1e5,
        name="one_cycle",
    ):
        check(
            max_learning_rate=(max_learning_rate, positive, "the peak"),
            total_steps=(total_steps, integer(1), _STEPS),
            warmup_fraction=(warmup_fraction, part, "that of the steps"),
            start_divisor=(start_divisor, number(1), "it divides the peak"),
            end_divisor=(end_divisor, number(1), "it divides the peak"),
        )
        self.max_learning_rate = max_learning_rate
        self.total_steps = total_steps
        self.warmup_fraction = warmup_fraction
        self.start_divisor = start_divisor
        self.end_divisor = end_divisor
        self.name = name

    def __call__(self, step):
        peak = self.max_learning_rate
        rise = self.warmup_fraction * self.total_steps
        step = ops.cast(step, "float32")
        up = ops.minimum(step / (rise or 1.0), 1.0)
        down = ops.clip((step - rise) / (self.total_steps - rise), 0.0, 1.0)
        return ops.where(
            step < rise,
            _half_cosine(peak / self.start_divisor, peak, up),
            _half_cosine(peak, peak / self.end_divisor, down),
        )

    def get_config(self):
        return {
            "max_learning_rate": self.max_learning_rate,
            "total_steps": self.total_steps,
            "warmup_fraction": self.warmup_fraction,
            "start_divisor": self.start_divisor,
            "end_divisor": self.end_divisor,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="finetune_keras")
class SlantedTriangular(keras.optimizers.schedules.LearningRateSchedule):
    """A short linear rise and a long linear fall, from ULMFiT.

    The learning rate rises from `max_learning_rate / ratio` to
    `max_learning_rate` in the first `cut_fraction` of the steps, then falls
    back in a straight line, and stays there after `total_steps`.

    Args:
        max_learning_rate: Positive float. The peak.
        total_steps: Positive integer. Steps (batches) of the whole triangle:
            epochs times batches an epoch.
        cut_fraction: Float in [0, 1). Share of the steps that rise. Defaults to
            `0.1`.
        ratio: Float, at least 1. The peak over the lowest learning rate.
            Defaults to `32`.
        name: String. Name of the schedule. Defaults to `"slanted_triangular"`.

    Example:

    ```python
    import keras
    import finetune_keras as ft

    schedule = ft.SlantedTriangular(1e-2, total_steps=100)
    print([round(float(schedule(step)), 6) for step in (0, 10, 100)])
    optimizer = keras.optimizers.Adam(schedule)
    ```

    Reference:

    - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)
    """

    def __init__(
        self,
        max_learning_rate,
        total_steps,
        cut_fraction=0.1,
        ratio=32,
        name="slanted_triangular",
    ):
        check(
            max_learning_rate=(max_learning_rate, positive, "the peak"),
            total_steps=(total_steps, integer(1), _STEPS),
            cut_fraction=(cut_fraction, part, "that of the steps"),
            ratio=(ratio, number(1), "it divides the peak"),
        )
        self.max_learning_rate = max_learning_rate
        self.total_steps = total_steps
        self.cut_fraction = cut_fraction
        self.ratio = ratio
        self.name = name

    def __call__(self, step):
        cut = math.floor(self.cut_fraction * self.total_steps)
        step = ops.cast(step, "float32")
        up = step / max(cut, 1)
        # The paper divides by `cut * (1 / cut_fraction - 1)`: the same where
        # `cut` was not rounded, a negative rate at the end where it was.
        down = 1.0 - (step - cut) / (self.total_steps - cut)
        share = ops.maximum(ops.where(step < cut, up, down), 0.0)
        factor = (1.0 + share * (self.ratio - 1.0)) / self.ratio
        return self.max_learning_rate * factor

    def get_config(self):
        return {
            "max_learning_rate": self.max_learning_rate,
            "total_steps": self.total_steps,
            "cut_fraction": self.cut_fraction,
            "ratio": self.ratio,
            "name": self.name,
        }


# Those that a phase may name.
SCHEDULES = ("constant", "linear", "cosine", "one_cycle")


def rate_factor(name, num_steps, warmup_fraction=None, step_size=1.0):
    """Makes the function from a step to its share of the full rate.

    `None` where all steps have the full one. Counted in epochs, a step has
    the size 0, as if there were many; the first of a few is no step at rate 0.
    """
    if name == "one_cycle":
        rise = 0.25 if warmup_fraction is None else warmup_fraction
        return OneCycle(1.0, num_steps, rise)
    rise = (warmup_fraction or 0.0) * num_steps
    fall = _fall(name, num_steps - rise)
    if not rise:
        return fall

    def factor(step):
        step = ops.cast(step, "float32")
        up = ops.minimum((step + step_size) / (rise + step_size), 1.0)
        return up * fall(ops.maximum(step - rise, 0.0)) if fall else up

    return factor


def _fall(name, num_steps):
    if name == "linear":
        return keras.optimizers.schedules.PolynomialDecay(1.0, num_steps, 0.0)
    if name == "cosine":
        return keras.optimizers.schedules.CosineDecay(1.0, num_steps)
    return None


def _half_cosine(start, end, share):
    return end + (start - end) * (1.0 + ops.cos(math.pi * share)) / 2.0
