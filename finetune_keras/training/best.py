"""The best weights over all phases, and the end of one that stands still."""

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
from finetune_keras.training.history import as_plain
from finetune_keras.training.monitor import is_skipped, rises, weight_penalty
from finetune_keras.training.observer import Observer


class NoNumber(FloatingPointError):
    """A loss or a weight is no number; where, the run says in full."""

    def __init__(self, what, epoch, batch, step):
        super().__init__(what)
        self.epoch, self.batch, self.step = epoch, batch, step


class Best(Observer):
    """Remembers the best epoch, of whatever phase.

    These are the weights that have trained so far, as the rest is as it was,
    and the state of the optimizer that belongs to them.

    Args:
        monitor: String, the metric to watch, or `None` to keep the last
            epoch. A loss is compared without what the regularisers of weights
            add to it, which changes when layers begin to train.
        groups: The `LayerGroups` of a compiled `keras.Model`, or `None`.
            Defaults to `None`.
        mode: `"max"` if the metric is to rise, `"min"` if it is to fall, or
            `"auto"`: as the metric itself or its name says. Defaults to
            `"auto"`.
        may_skip: Boolean, whether epochs without validation are left out.
            Defaults to `False`.
        clock: Boolean, whether the optimizer's count of steps goes back with
            the weights. Defaults to `True`.

    Attributes:
        epoch: Integer, the best epoch; -1 is before the first, and `None` is
            none.
        value: Float, its value, or `None`.
        seen: Float, the value of the last epoch, or `None`.
        noise: Float, by how much an epoch must be better than a solved head,
            so that this is no chance. 0 until it is set.

    Raises:
        ValueError: If `mode` is `"auto"` and cannot be told.
    """

    def __init__(
        self, monitor, groups=None, mode="auto", may_skip=False, clock=True
    ):
        self.monitor, self.groups = monitor, groups
        self.model = groups and groups.model
        self.rising = rises(monitor, mode, self.model)
        self.may_skip, self.clock = may_skip, clock
        self.weights = _weights(groups.leaves) if groups else []
        self.places = {id(v): i for i, v in enumerate(self.weights)}
        # Of the best epoch, the variables by their places.
        self.values, self.optimizer_values = {}, None
        self.epoch, self.value, self.noise = None, None, 0.0
        self.seen, self.returns, self.running, self.batch = None, False, 0, 0

    def begin_phase(self, phase):
        """Adds the variables that the phase may move, before it begins."""
        self.returns = phase.returns_to_best
        if self.optimizer_values is None:
            self.optimizer_values = self._of_optimizer()
        statistics = _moving_statistics(self.groups.leaves)
        for place, variable in enumerate(self.weights):
            moves = variable.trainable or id(variable) in statistics
            if moves and place not in self.values:
                # Frozen until now, so it is what it was at the best epoch.
                self.values[place] = copy_of(variable)

    def begin_epoch(self, epoch):
        self.running = epoch

    def end_batch(self, batch, logs):
        self.batch, loss = batch, logs.get("loss", 0.0)
        if not np.isfinite(loss):
            step = f"step {batch + 1}"
            what = f"The loss became {loss}"
            raise NoNumber(what, self.running, batch, step)

    def end_epoch(self, epoch, logs):
        if self.monitor is None:
            self.keep()
        else:
            self.seen = self.value_of(logs)
            if self.seen is not None:
                self.offer(epoch, self.seen)

    def end_phase(self):
        # None has been judged where validation is rarer than phases.
        if self.returns and self.epoch is not None:
            self.restore(self.clock)

    def end(self):
        if self.epoch is not None:
            self.restore(self.clock)

    def fail(self):
        self.restore()

    def value_of(self, logs):
        """Reads the monitored metric; `None` in an epoch to be left out."""
        if self.may_skip and is_skipped(self.monitor, logs):
            return None
        if self.monitor not in logs:
            names = sorted({*logs} - {"learning_rate", "seconds"})
            raise ValueError(
                "The monitored metric is not among those of the model. "
                f"Received: monitor={self.monitor!r}, and the metrics are "
                f"{names}"
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

    def offer(self, epoch, value):
        """Keeps the state of now, if its value is the best so far.

        Raises:
            NoNumber: If its weights are no numbers.
        """
        if math.isnan(value):
            self._copies()
            warnings.warn(
                f"The monitored metric {self.monitor!r} is NaN, so that no "
                "epoch is the best. Where the loss is a number, look for NaN "
                "among the validation data.",
                stacklevel=2,
            )
        best = math.nan if self.value is None else self.value
        if self.epoch == -1:
            best += self.noise if self.rising else -self.noise
        if self.is_better(value, best):
            self.keep()
            self.epoch, self.value = epoch, value

    def keep(self):
        """Keeps the state of now; without a monitor, of the last epoch.

        Raises:
            NoNumber: If a weight is no number. What was kept before stays.
        """
        self.values = self._copies()
        self.optimizer_values = self._of_optimizer()

    def _copies(self):
        values = {place: copy_of(self.weights[place]) for place in self.values}
        for place, value in values.items():
            if not np.all(np.isfinite(value)):
                what = f"The weight {self.weights[place].path!r} is no number"
                raise NoNumber(what, self.running, self.batch, "its end")
        return values

    def restore(self, clock=True):
        """Gives the model the weights of the best epoch, and its optimizer.

        Before there is one, they are those with which training began. With
        `clock`, the optimizer's count of steps goes back too.
        """
        for place, value in self.values.items():
            self.weights[place].assign(value)
        if self.values:
            values, places = self.optimizer_values, self.places
            restore_optimizer(self.model, values, places, clock)

    def _of_optimizer(self):
        return optimizer_values(self.model.optimizer, self.places)

    def state(self):
        names = "epoch", "value", "noise", "values", "optimizer_values"
        return {name: getattr(self, name) for name in names}

    def load_state(self, state):
        for name, value in state.items():
            setattr(self, name, value)


class Patience(Observer):
    """Ends a phase once its `patience` is over.

    Args:
        best: The `Best` of the run, which says what improves.
        place: The `RunState`.
    """

    def __init__(self, best, place):
        self.best, self.place, self.patience = best, place, None
        self.value, self.wait, self.ends_phase = None, 0, False

    def begin_phase(self, phase):
        self.patience, self.ends_phase = phase.patience, False
        if not self.place.phase_epoch:
            self.value, self.wait = None, 0

    def end_epoch(self, epoch, logs):
        value = self.best.seen
        if value is None:
            return
        if self.value is None or self.best.is_better(value, self.value):
            self.value, self.wait = value, 0
            return
        self.wait += 1
        if self.patience and self.wait >= self.patience:
            self.ends_phase = True

    def state(self):
        return {"value": self.value, "wait": self.wait}

    def load_state(self, state):
        self.value, self.wait = state["value"], state["wait"]


def check_monitor(plan, monitor, validation):
    """Returns the metric to watch; refuses to wait for one without data."""
    waiting = any(phase.patience or phase.returns_to_best for phase in plan)
    if validation is None and monitor is None and waiting:
        raise ValueError(
            "A phase with `patience` or `restore_best_weights` goes by the "
            "validation loss, and there is no validation data. Pass "
            "`validation`, or the name of a training metric as `monitor`, such "
            'as "loss". '
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
