"""The best weights over all phases."""

import math
import warnings

import keras
import numpy as np

from finetune_keras.engine import graph
from finetune_keras.engine.optimizer_values import (
    copy_of,
    optimizer_values,
    restore_optimizer,
)
from finetune_keras.training import resume
from finetune_keras.training.history import as_plain
from finetune_keras.training.monitor import (
    is_skipped,
    rises,
    weight_penalty,
)


class Best:
    """Remembers the best epoch, of whatever phase.

    These are the weights that have trained so far, as the rest is as it was,
    and the state of the optimizer that belongs to them.

    Args:
        monitor: String, the metric to watch, or `None` to keep the last
            epoch. A loss is compared without what the regularisers of weights
            add to it, which changes when layers begin to train.
        model: Compiled `keras.Model`, or `None`. Defaults to `None`.
        mode: `"max"` if the metric is to rise, `"min"` if it is to fall, or
            `"auto"`: as the metric itself or its name says. Defaults to
            `"auto"`.
        validation_freq: As in `fit`; epochs without validation are then left
            out. Defaults to `1`.

    Raises:
        ValueError: If `mode` is `"auto"` and cannot be told.
    """

    def __init__(self, monitor, model=None, mode="auto", validation_freq=1):
        self.monitor = monitor
        self.model = model
        self.rising = rises(monitor, mode, model)
        self.may_skip = validation_freq != 1
        self.variables = {}
        self.values = {}
        self.optimizer_values = None

    def watch(self, groups):
        """Adds the variables that a phase may move, before it begins.

        Args:
            groups: The `LayerGroups` of the model.
        """
        weights = self._know(groups)
        if self.optimizer_values is None:
            self.optimizer_values = self._of_optimizer()
        statistics = _moving_statistics(groups.leaves)
        for place, variable in enumerate(weights):
            moves = variable.trainable or id(variable) in statistics
            if moves and place not in self.variables:
                self.variables[place] = variable
                # Frozen until now, so it is what it was at the best epoch.
                self.values[place] = copy_of(variable)

    def value_of(self, logs):
        """Reads the monitored metric; `None` in an epoch to be left out."""
        if self.may_skip and is_skipped(self.monitor, logs):
            return None
        if self.monitor not in logs:
            raise ValueError(
                "The monitored metric is not among those of the model. "
                f"Received: monitor={self.monitor!r}, and the metrics are "
                f"{sorted(logs)}"
            )
        value = as_plain(logs[self.monitor])
        if isinstance(value, list):
            raise ValueError(
                "The monitored metric has a value for each class. Give it an "
                'average, such as `F1Score(average="macro")`. '
                f"Received: monitor={self.monitor!r}"
            )
        return value - weight_penalty(self.monitor, self.model)

    def is_better(self, value, than):
        """Tells whether a value is an improvement; no number is none."""
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value > than if self.rising else value < than

    def offer(self, value, best):
        """Keeps the state of now, if its value is the best so far.

        Args:
            value: Float, the monitored value.
            best: Float, the best so far, or `None`.

        Returns:
            Boolean, whether it was kept.

        Raises:
            FloatingPointError: If its weights are no numbers.
        """
        if math.isnan(value):
            self._copies()
            warnings.warn(
                f"The monitored metric {self.monitor!r} is NaN, so that no "
                "epoch is the best. Where the loss is a number, look for NaN "
                "among the validation data.",
                stacklevel=2,
            )
        is_best = self.is_better(value, math.nan if best is None else best)
        if is_best:
            self.keep()
        return is_best

    def keep(self):
        """Keeps the state of now; without a monitor, of the last epoch.

        Raises:
            FloatingPointError: If a weight is no number. What was kept before
                stays.
        """
        self.values = self._copies()
        self.optimizer_values = self._of_optimizer()

    def _copies(self):
        values = {p: copy_of(v) for p, v in self.variables.items()}
        for place, value in values.items():
            if not np.all(np.isfinite(value)):
                path = self.variables[place].path
                raise FloatingPointError(f"The weight {path!r} is no number")
        return values

    def restore(self, clock=True):
        """Gives the model the weights of the best epoch, and its optimizer.

        Before there is one, they are those with which training began.

        Args:
            clock: Boolean, whether the optimizer's count of steps goes back
                too. Defaults to `True`.
        """
        for place, variable in self.variables.items():
            variable.assign(self.values[place])
        if self.variables:
            values, places = self.optimizer_values, self.places
            restore_optimizer(self.model, values, places, clock)

    def _know(self, groups):
        self.model, weights = groups.model, _weights(groups.leaves)
        self.places = {id(v): place for place, v in enumerate(weights)}
        return weights

    def _of_optimizer(self):
        return optimizer_values(self.model.optimizer, self.places)

    def watched(self):
        """Returns the places of what is remembered among the weights."""
        return list(self.variables)

    def pack(self):
        """Returns the remembered values for a checkpoint."""
        return {
            **resume.pack("best", self.values.values()),
            **resume.pack("slot/", self.optimizer_values),
        }

    def unpack(self, groups, places, arrays):
        """Takes remembered values from a checkpoint."""
        weights = self._know(groups)
        self.variables = {place: weights[place] for place in places}
        self.values = {
            place: resume.as_array(arrays[f"best{i}"], weights[place].dtype)
            for i, place in enumerate(places)
        }
        self.optimizer_values = resume.unpacked("slot/", arrays)


def check_monitor(plan, monitor, validation):
    """Returns the metric to watch; refuses to wait for one without data."""
    waiting = any(phase.patience for phase in plan)
    if validation is None and monitor is None and waiting:
        raise ValueError(
            "A phase with `patience` waits for the validation loss, and there "
            "is no validation data. Pass `validation`, or the name of a "
            'training metric as `monitor`, such as "loss". '
            f"Received: validation={validation!r}"
        )
    if validation is None and (monitor or "").startswith("val_"):
        raise ValueError(
            "The monitored metric is one of validation, and there is no "
            "validation data. Pass `validation`, or monitor a metric of "
            f"training. Received: monitor={monitor!r}, validation=None"
        )
    if monitor is None and validation is not None:
        return "val_loss"
    return monitor


def _weights(layers):
    """Lists the weights in an order that a model built again has too.

    Paths would not do: two layers of a block may have one name.
    """
    weights = {id(v): v for x in layers for v in graph.own_variables(x)}
    return list(weights.values())


def _moving_statistics(layers):
    return {
        id(statistic)
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        for statistic in layer.non_trainable_variables
    }
