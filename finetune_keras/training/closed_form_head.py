"""The head of a plan, solved before its first epoch."""

import keras
import numpy as np

from finetune_keras.data.labels import check_class_ids, one_column
from finetune_keras.data.outputs import activation_of, loss_name, loss_of
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.outside_graph import own_methods
from finetune_keras.models.subclassed import is_norm
from finetune_keras.training.linear_probe import require_solver, solve_probe

_DROPOUT = (
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)


class ClosedFormHead:
    """The solved head that a plan asks for.

    Args:
        model: A compiled `keras.Model`.
        plan: A `Plan`.

    Attributes:
        is_due: Boolean, whether the head is to be solved.
        is_solved: Boolean, whether it has been.
        report: String, what was done, for the history.

    Raises:
        ValueError: If the plan insists on it, and the head is not linear or
            is for something else than classes or values.
        ImportError: If it insists, and what solves it is not installed.
    """

    def __init__(self, model, plan):
        self.plan = plan
        self.optional = plan.head_initializer == "auto"
        self.head, self.report = None, "off"
        if plan.head_initializer is not None:
            try:
                _check_graph(model)
                self.loss = _convex_loss(model, self.optional)
                _check_method(plan.head_initializer, self.loss)
                self.smoothing = _smoothing(model)
                _check_methods(model)
                head = linear_head(model)
                if self.optional:
                    _check_penalty(head)
                require_solver(plan.head_initializer)
                self.head = head
            except (ValueError, ImportError) as error:
                self._leave(error)
        self.is_due, self.is_solved = self.head is not None, False
        self.is_noisy = self.is_due and _drops(model, plan)

    def solve(self, model, batches, class_weight=None):
        """Solves the head, by batches that `model` takes, once over all.

        Returns:
            Boolean, whether the first phase has nothing left to do.
        """
        head, method = self.head, self.plan.head_initializer
        try:
            x, y, weight = read_features(model, head, batches)
            y = targets_of(y, head.units, self.loss)
            weight = _weights(y, weight, class_weight)
            y = _smoothed(y, self.smoothing, self.loss)
            probe = solve_probe(
                x,
                y,
                self.loss,
                method,
                weight,
                head.use_bias,
                by_size=self.is_noisy,
            )
        except ValueError as error:
            self._leave(error)
            return False
        head.kernel.assign(probe.kernel)
        if head.use_bias:
            head.bias.assign(probe.bias)
        self.report, self.is_solved = str(probe), True
        return self.optional and self.plan[0].layers in ("head", 0)

    def noise_of(self, work):
        """By how much a validation loss must fall to be better, not lucky.

        Half the standard error of that of the solved head: what is hard for
        both models cancels out in the difference of two. 0 is not known.
        """
        task = Task.of(work.model)
        judged = task is not None and task.is_judged and not self.smoothing
        losses = work.validation_losses(task) if judged else None
        if losses is None:
            return 0.0
        return float(losses.std() / np.sqrt(len(losses)) / 2)

    def _leave(self, error):
        if not self.optional:
            raise error
        self.report = f"off: {error}"


def _drops(model, plan):
    """Whether what a later phase trains on has dropout in it.

    Features that are large and hardly vary, such as those of a first token
    near the input, vary much more by that than from text to text.
    """
    goes_on = any(phase.layers not in ("head", 0) for phase in plan)
    layers = graph.all_layers(model) if goes_on else []
    return any(isinstance(x, _DROPOUT) and x.rate for x in layers)


def _check_graph(model):
    if graph.graph_of(model) is None:
        raise ValueError(
            "The head of a subclassed model cannot be solved in closed form: "
            "no graph tells what it reads. Leave out `head_initializer`. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )


def _convex_loss(model, optional):
    """What the outputs are for, `"softmax"`, `"sigmoid"` or `"mse"`.

    Raises:
        ValueError: If it is something that a linear head is not solved for.
    """
    task, ending = Task.of(model), activation_of(model)
    loss = loss_name(loss_of(model))
    logits = bool(task and task.logits)
    if not optional and task in ("classification", None):
        return "softmax"
    if loss == "mean_squared_error" and ending in ("linear", None):
        return "mse"
    if loss == "binary_crossentropy" and (ending == "sigmoid" or logits):
        return "sigmoid"
    by_class = loss.endswith("categorical_crossentropy")
    if by_class and (ending == "softmax" or logits):
        return "softmax"
    raise ValueError(
        "Only a head under a cross-entropy of classes or labels, or the mean "
        "squared error of values, can be solved: leave out "
        f"`head_initializer`. Received: {task=}, loss={loss!r}, "
        f"model={model.name!r} that ends in {ending!r}"
    )


def _check_method(method, loss):
    fitting = {"sigmoid": "logistic", "mse": "ridge"}.get(loss, method)
    if method not in ("auto", fitting):
        raise ValueError(
            f"A head under this loss is solved by {fitting!r} alone. Received: "
            f"head_initializer={method!r}, for outputs of {loss!r}"
        )


def _smoothing(model):
    loss = loss_of(model)
    told = getattr(loss, "keywords", None) or {}
    told = told.get("label_smoothing", getattr(loss, "label_smoothing", 0))
    return told or 0.0


def _check_penalty(head):
    own = head.kernel_regularizer or head.bias_regularizer
    if own or head.kernel_constraint or head.bias_constraint:
        raise ValueError(
            "The head has a regularizer or a constraint of its own, which the "
            f"epochs keep to. Received: head={head.name!r}"
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
    # The last norm of a backbone may be in the head: it is as it was.
    layers = [x for x in head.layers if not is_norm(x)] if head else []
    if len(layers) != 1 or not isinstance(layers[0], keras.layers.Dense):
        raise ValueError(
            "Only a linear head can be solved in closed form: a single dense "
            "layer on features. Build the head without `hidden_units`, or "
            "leave out `head_initializer`. "
            f"Received: model={model.name!r} with head {layers}"
        )
    return layers[0]


def read_features(model, head, batches):
    """Reads what a head sees: features, labels and weights, all as arrays.

    Raises:
        ValueError: If there is no number among the features.
    """
    read = _reader(model, input_of(model, head))
    x, y, weights = [], [], []
    for batch in batches:
        y.append(np.asarray(batch[1]))
        # Of several replicas each predicts the batch, one after the other.
        found = read(batch[0])[: len(y[-1])]
        x.append(np.asarray(found, "float32").reshape(len(found), -1))
        weights.append(np.asarray(batch[2]) if len(batch) > 2 else None)
    x = np.concatenate(x)
    if not np.isfinite(x).all():
        raise ValueError(
            "The features of the backbone are no numbers: look at the data and "
            "at the weights. Received: NaN or infinity among them"
        )
    weights = None if weights[0] is None else np.concatenate(weights)
    return x, np.concatenate(y), weights


def _reader(model, features):
    if len(model.inputs) == 1 and model.inputs[0] is features:
        # The cache has stored them.
        return lambda x: keras.ops.convert_to_numpy(keras.tree.flatten(x)[0])
    return keras.Model(model.input, features).predict_on_batch


def input_of(model, head):
    tensors = {}
    for step in graph.walk(model)[0]:
        if step.operation is head:
            return tensors.get(step.inputs[0], model.inputs[0])
        tensors.update(zip(step.outputs, step.tensors, strict=True))
    raise ValueError(f"The head {head.name!r} is not in the model.")


def targets_of(y, units, loss):
    """Labels as a row of shares, labels or values for each example."""
    y = one_column(y)
    if len(y) < 2:
        raise ValueError("A head is solved by two examples or more.")
    if loss != "softmax":
        return y.reshape(len(y), -1).astype("float64")
    if y.ndim == 1:
        check_class_ids(y, max(units, 2), "train")
        y = np.eye(units)[y.astype("int64")]
    missing = np.flatnonzero(y.sum(axis=0) == 0)
    if len(missing) or units < 2:
        raise ValueError(
            "A head is solved by examples of each of its "
            f"{units} classes. Received: no example of {missing.tolist()}"
        )
    return y


def _weights(y, weight, class_weight):
    """Weights of examples, from those that Keras takes of classes."""
    if class_weight is None:
        return weight
    places = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0].astype("int64")
    return np.array([class_weight[place] for place in places])


def _smoothed(y, smoothing, loss):
    """Targets as the loss smooths them."""
    classes = y.shape[1] if loss == "softmax" else 2
    return y * (1 - smoothing) + smoothing / classes
