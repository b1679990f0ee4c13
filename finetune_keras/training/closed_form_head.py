"""A linear head solved in closed form, so that training starts ahead."""

import keras
import numpy as np

from finetune_keras.data.labels import check_class_ids, one_column
from finetune_keras.data.outputs import activation_of
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.outside_graph import own_methods


class ClosedFormHead:
    """The closed-form start that a plan asks for.

    Args:
        model: A `keras.Model`.
        plan: A `Plan`.

    Attributes:
        is_due: Boolean, whether the head is to be solved.
        report: String, what was done, for the history.

    Raises:
        ValueError: If the plan insists on it, and the head is not linear or
            does not tell one class among several apart.
    """

    def __init__(self, model, plan):
        self.plan = plan
        self.optional = plan.head_initializer == "auto"
        self.head, self.report = None, "off"
        if plan.head_initializer is not None:
            try:
                _check_graph(model)
                _check_task(model, self.optional)
                self.head = linear_head(model)
                _check_methods(model)
            except ValueError as error:
                self._leave(error)
        self.is_due = self.head is not None

    def solve(self, model, batches):
        """Solves the head, by batches that `model` takes, once over all.

        Returns:
            Boolean, whether the first phase has nothing left to do.
        """
        method = "ridge" if self.optional else self.plan.head_initializer
        try:
            start_head(model, self.head, batches, method)
        except ValueError as error:
            self._leave(error)
            return False
        self.report = method
        return self.optional and self.plan[0].layers in ("head", 0)

    def _leave(self, error):
        if not self.optional:
            raise error
        self.report = f"off: {error}"


def _check_graph(model):
    if graph.graph_of(model) is None:
        raise ValueError(
            "The head of a subclassed model cannot be solved in closed form: "
            "no graph tells what it reads. Leave out `head_initializer`. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )


def _check_task(model, optional):
    """Raises where a head does not tell one class among several apart."""
    task = Task.of(model)
    fits = task == "classification" or (task is None and not optional)
    softmax = activation_of(model) == "softmax" or (task and task.logits)
    if not fits or (optional and not softmax):
        raise ValueError(
            "Only a head that tells one class among several apart can be "
            "solved in closed form: it ends in a softmax, or in the logits of "
            f"one, and this one ends in no softmax. Received: {task=}, "
            f"model={model.name!r} that ends in {activation_of(model)!r}"
        )


def _check_methods(model):
    lost = own_methods(model)
    if lost:
        raise ValueError(
            f"{type(model).__name__} has {lost} of its own, and what they do "
            "to the data cannot be told, so that the head cannot be solved "
            "for it. Leave out `head_initializer`. "
            f"Received: model={model.name!r}"
        )


def linear_head(model):
    """Finds the one dense layer that is the head of a model.

    Raises:
        ValueError: If the head is anything else.
    """
    head = layer_groups(model).head
    layers = head.layers if head else []
    if len(layers) != 1 or not isinstance(layers[0], keras.layers.Dense):
        raise ValueError(
            "Only a linear head can be solved in closed form: a single dense "
            "layer on features. Build the head without `hidden_units`, or "
            "leave out `head_initializer`. "
            f"Received: model={model.name!r} with head {layers}"
        )
    return layers[0]


def start_head(model, head, batches, method):
    """Sets the weights of a linear head by one pass over the data.

    `"ridge"` is least squares on the classes; `"lda"` is linear discriminant
    analysis with a shrunk covariance, whose logits are those of its posterior
    probabilities (Ledoit and Wolf, 2004, doi 10.1016/S0047-259X(03)00096-4).

    Raises:
        ValueError: If the labels are not classes, or a class has no example.
    """
    features = keras.Model(model.input, _input_of(model, head))
    x, y = [], []
    for batch in batches:
        y.append(np.asarray(batch[1]))
        # Of several replicas each predicts the batch, one after the other.
        found = features.predict_on_batch(batch[0])[: len(y[-1])]
        x.append(_rows(found))
    x, y = np.concatenate(x), np.concatenate(y)
    y = one_column(y)
    y = y.argmax(axis=1) if y.ndim > 1 else y
    check_class_ids(y, max(head.units, 2), "train")
    missing = set(range(head.units)) - set(np.unique(y).tolist())
    if missing or head.units < 2:
        raise ValueError(
            "A closed-form start of the head needs examples of each of its "
            f"{head.units} classes. Received: no example of {sorted(missing)}"
        )
    kernel, bias = _solve(x, y, method)
    head.kernel.assign(kernel)
    if head.use_bias:
        head.bias.assign(bias)


def _input_of(model, head):
    tensors = {}
    for step in graph.walk(model)[0]:
        if step.operation is head:
            return tensors.get(step.inputs[0], model.inputs[0])
        tensors.update(zip(step.outputs, step.tensors, strict=True))
    raise ValueError(f"The head {head.name!r} is not in the model.")


def _rows(features):
    return np.asarray(features, "float32").reshape(len(features), -1)


def _solve(x, y, method):
    if method == "lda":
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        lda.fit(x, y)
        kernel, bias = lda.coef_.T, lda.intercept_
        if kernel.shape[1] == 1:
            # Two classes come as one difference of logits.
            kernel = np.concatenate([-kernel / 2, kernel / 2], axis=1)
            bias = np.concatenate([-bias / 2, bias / 2])
        return kernel, bias
    return _solve_ridge(x.astype("float64"), np.eye(y.max() + 1)[y])


def _solve_ridge(x, targets):
    """Ridge, with strength and sharpness by leaving one out.

    Targets 0 and 1 as logits would give a softmax that is nearly flat, and
    the first steps of training would spoil the features to sharpen it.
    """
    x_mean, y_mean = x.mean(0), targets.mean(0)
    centred, y = x - x_mean, targets - y_mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, rotated = np.maximum(values, 0), centred @ vectors
    products, best = rotated.T @ y, (np.inf,)
    # Strengths relative to the features, whatever their scale.
    for strength in values.mean() * np.logspace(-5, 3, 17) + 1e-12:
        shrunk = 1 / (values + strength)
        leverage = rotated**2 @ shrunk + 1 / len(x)
        solution = products * shrunk[:, None]
        left_out = (y - rotated @ solution) / (1 - leverage[:, None])
        error = np.mean(left_out**2)
        if error < best[0]:
            best = error, solution, targets - left_out
    _, solution, predicted = best
    sharpness = _sharpness(predicted, targets)
    kernel = vectors @ solution
    bias = y_mean - x_mean @ kernel
    return kernel * sharpness, bias * sharpness


def _sharpness(predicted, targets):
    """The factor on predictions under which the classes are most likely."""
    from scipy import optimize, special

    # As Platt does: where no example is wrong the factor would be infinite.
    number, classes = targets.shape
    targets = (targets * number + 1) / (number + classes)

    def loss(log_factor):
        logits = predicted * np.exp(log_factor)
        return -np.sum(targets * special.log_softmax(logits, axis=1))

    found = optimize.minimize_scalar(loss, bounds=(-2, 6), method="bounded")
    return np.exp(found.x)
