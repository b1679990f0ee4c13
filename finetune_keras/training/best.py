"""The best weights over all phases."""

import math

import keras
import numpy as np

from finetune_keras.models import graph
from finetune_keras.training import resume
from finetune_keras.training.callbacks import is_rising


class Best:
    """Remembers the weights of the best epoch, of whatever phase.

    Only what has trained so far is copied: the rest is as it was.

    Args:
        monitor: String, the metric to watch, or `None` to keep the last
            epoch. It is to rise if its name says accuracy, AUC and the like,
            and to fall otherwise.
    """

    def __init__(self, monitor):
        self.monitor = monitor
        self.rising = is_rising(monitor)
        self.variables = {}
        self.values = {}

    def watch(self, model):
        """Adds the variables that a phase may move, before it begins."""
        statistics = _moving_statistics(model)
        for path, variable in graph.weights_by_path(model).items():
            moves = variable.trainable or id(variable) in statistics
            if moves and path not in self.variables:
                self.variables[path] = variable
                # Frozen until now, so it is what it was at the best epoch.
                self.values[path] = _copy(variable)

    def value_of(self, logs):
        """Reads the monitored metric."""
        if self.monitor not in logs:
            raise ValueError(
                "The monitored metric is not among those of the model. "
                f"Received: monitor={self.monitor!r}, and the metrics are "
                f"{sorted(logs)}"
            )
        return float(logs[self.monitor])

    def is_better(self, value, than):
        """Tells whether a value is an improvement; any is one on NaN."""
        if math.isnan(than):
            return not math.isnan(value)
        return value > than if self.rising else value < than

    def offer(self, epoch, value, history):
        """Keeps the weights if the value is the best so far."""
        best = history.best_value
        if best is not None and not self.is_better(value, best):
            return
        history.best_value, history.best_epoch = value, epoch
        self.keep()

    def keep(self):
        """Keeps the weights of now; without a monitor, of the last epoch."""
        for path, variable in self.variables.items():
            self.values[path] = _copy(variable)

    def restore(self):
        """Gives the model the weights of the best epoch.

        Before there is one, they are those with which training began.
        """
        for path, variable in self.variables.items():
            variable.assign(self.values[path])

    def watched_paths(self):
        """Returns the paths of what is remembered, in order."""
        return list(self.variables)

    def pack(self):
        """Returns the remembered values for a checkpoint."""
        return resume.pack("best", self.values.values())

    def unpack(self, model, paths, arrays):
        """Takes remembered values from a checkpoint."""
        weights = graph.weights_by_path(model)
        self.variables = {path: weights[path] for path in paths}
        self.values = {
            path: resume.as_array(arrays[f"best{i}"], weights[path].dtype)
            for i, path in enumerate(paths)
        }


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
    if monitor is None and validation is not None:
        return "val_loss"
    return monitor


def _moving_statistics(model):
    return {
        id(statistic)
        for layer in graph.leaf_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        for statistic in layer.non_trainable_variables
    }


def _copy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))
