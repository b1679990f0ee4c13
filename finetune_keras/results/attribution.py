"""What inside a model speaks for a prediction: gradients times activations."""

import keras
import numpy as np
from keras import ops

from finetune_keras.data.outputs import as_columns
from finetune_keras.engine import graph
from finetune_keras.engine.calls import (
    changed_calls,
    without_activation,
)
from finetune_keras.engine.gradients import gradients
from finetune_keras.results.calibration import Calibration
from finetune_keras.results.temperature import logits_of, scaled_logits

# Of the way from nothing to what there is; four give nearly the same.
_PARTS = 8


class Attribution:
    """The share that each tensor inside a model has in the odds of a class.

    `taps` is a function that is given `swap`, and returns changes of calls by
    which `swap` sees each such tensor, and replaces it. Without taps it is the
    input, of which there is one.
    """

    def __init__(self, model, task, taps):
        self.model = model
        self.task = task
        self.taps = taps
        self.tensors = []

    def scores(self, x):
        """Predicts a batch, as the task judges it, and notes the tensors."""
        self.tensors = []

        def note(tensor):
            self.tensors.append(tensor)
            return tensor

        x = keras.tree.map_structure(ops.convert_to_tensor, x)
        if self.taps is None:
            keras.tree.map_structure(note, x)
        with changed_calls(self.taps(note) if self.taps else []):
            outputs = self.model(x, training=False)
        return self.task.scores(as_columns(ops.convert_to_numpy(outputs)))

    def starts(self, x):
        """What the tensors are of another batch; those noted stay."""
        ends = self.tensors
        self.scores(x)
        found, self.tensors = self.tensors, ends
        return found

    def products(self, x, columns, starts=None):
        """Lists for each tensor noted its product with its gradient.

        The gradient is that of the log-odds of one class an example. With
        `starts`, tensors of the same shapes, it is the mean over the way from
        there, and is multiplied by the difference.
        """
        ends, total = self.tensors, lambda y: self._total(x, columns, y)
        if starts is None:
            found, ways = gradients(total, ends), ends
        else:
            ways = [y - x for x, y in zip(starts, ends, strict=True)]
            found = _mean_gradients(total, starts, ways)
        pairs = zip(ways, found, strict=True)
        products = [_to_numpy(x) * _to_numpy(y) for x, y in pairs]
        if not all(np.isfinite(one).all() for one in products):
            raise ValueError(
                "The gradients are NaN or infinite, and explain nothing. Look "
                "at the weights of the model and at these inputs. "
                f"Received: model={self.model.name!r}"
            )
        return products

    def _total(self, x, columns, tensors):
        left = iter(tensors)
        end = _without_end(self.model) if _is_softened(self.task) else []
        changes = end or []
        if self.taps is None:
            x = keras.tree.map_structure(lambda _: next(left), x)
        else:
            changes = [*self.taps(lambda _: next(left)), *changes]
        with changed_calls(changes):
            outputs = self.model(x, training=False)
        outputs = ops.cast(outputs, "float32")
        outputs = ops.reshape(outputs, (ops.shape(outputs)[0], -1))
        if end is None:
            kind = self.task.output_activation
            outputs = logits_of(outputs, kind, ops)
        return ops.sum(_log_odds(self.task, outputs, columns))


def _mean_gradients(function, starts, ways):
    """Gradients at the middles of equal parts of the ways, averaged."""
    sums = [0.0 for _ in ways]
    for part in (np.arange(_PARTS) + 0.5) / _PARTS:
        pairs = zip(starts, ways, strict=True)
        here = gradients(function, [x + float(part) * y for x, y in pairs])
        sums = [x + y / _PARTS for x, y in zip(sums, here, strict=True)]
    return sums


def _is_softened(task):
    return task.has_chances and not task.logits


def _log_odds(task, logits, columns):
    """Log-odds of one class an example against all others, or a value."""
    kind, width = task.output_activation, logits.shape[-1]
    if kind == "sigmoid" and width == 1 and task.count == 2:
        return logits[:, 0] * ops.cast(np.where(columns == 1, 1, -1), "float32")
    chosen = ops.one_hot(columns, width, dtype="float32")
    own = ops.sum(logits * chosen, axis=-1)
    if kind != "softmax":
        return own
    others = ops.logsumexp(logits - 1e9 * chosen, axis=-1)
    return own - others


def _to_numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


# === The end of a model ===


def _without_end(model):
    """Changes of calls by which a model gives logits, or `None`.

    Beside a probability of one, in float32, is nothing more to be told.
    """
    steps, _, (key,) = graph.walk(model)
    made = {key: step for step in steps for key in step.outputs}
    changes = []
    while key in made:
        operation, inputs = made[key].operation, made[key].inputs
        if isinstance(operation, Calibration):
            changes.append((operation, _calibrated_logits(operation)))
        elif _softens(operation):
            return [*changes, (operation, without_activation(operation))]
        elif not isinstance(operation, _PASSING):
            return None
        key = inputs[0]
    return None


_PASSING = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
)


def _softens(operation):
    if isinstance(operation, (keras.layers.Activation, keras.layers.Dense)):
        known = keras.activations.softmax, keras.activations.sigmoid
        return operation.activation in known
    return type(operation).__name__ in ("Softmax", "Sigmoid")


def _calibrated_logits(layer):
    def change(function):
        def call(logits, *args, **kwargs):
            return scaled_logits(logits, layer.scale, layer.bias, ops)

        return call

    return change
