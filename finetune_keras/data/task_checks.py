"""What labels, outputs and models tell of a task, and what is refused."""

import numpy as np

from finetune_keras.data.labels import few, ids_of_names, one_column
from finetune_keras.data.outputs import (
    activation_of,
    kind_of,
    loss_name,
    loss_of,
)


def check_one_label_each(task, verb):
    """Refuses masks and boxes where a verb looks at one label of each."""
    if task.is_dense or task == "detection":
        raise ValueError(
            f"`{verb}` looks at one label of each example, and these data have "
            "a mask or boxes. Compare such models by `ft.evaluate` and "
            f"`ft.compare`. Received: data of task={task!r}"
        )


def check_finite(outputs):
    """Refuses outputs, of which the largest would pass for a prediction."""
    if not np.isfinite(outputs).all():
        finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
        raise ValueError(
            "The model predicts NaN or infinity. Look at its weights and at "
            f"these inputs. Received: {np.count_nonzero(~finite)} such of "
            f"{len(outputs)} examples in one batch, the first at "
            f"{int(np.argmin(finite))}"
        )


def as_ids(labels, classes, name="data"):
    """Labels of a batch as an array of numbers, names as their places."""
    labels = np.asarray(labels)
    labels = one_column(labels) if labels.ndim == 2 else labels
    if labels.ndim not in (1, 2):
        raise ValueError(
            "Labels must be one number or one row for each example, of "
            "shape (batch,) or (batch, classes), and come in batches: "
            "`dataset.batch(32)`. "
            f"Received: labels of shape {labels.shape}"
        )
    if labels.dtype.kind in "OSU":
        return ids_of_names(labels, classes, name)
    return labels.astype("int64") if labels.dtype.kind == "b" else labels


def infer_name(model, labels, outputs, from_logits):
    """Name of the task that a model and its first batch tell together."""
    binary = bool(np.isin(labels, (0, 1)).all())
    several = labels.ndim == 2 and outputs.shape[1] > 1
    by_label = "multi_label" if several else "classification"
    told = kind_of(model)
    if "crossentropy" not in loss_name(loss_of(model)):
        if activation_of(model) == "sigmoid":
            regression = told if told == "regression" else None
            told = by_label if binary else regression
    if told:
        return by_label if told == "multi_label" else told
    if several:
        one_hot = binary and (labels.sum(axis=1) == 1).all()
        many = "multi_label" if binary else "regression"
        return "classification" if one_hot else many
    if outputs.shape[1] > 1 or from_logits:
        return "classification"
    if not binary:
        return "regression"
    if in_unit_interval(outputs):
        return "classification"
    raise ValueError(
        "The labels are 0 and 1, and the only output of the model is no "
        "probability: is it a logit, or a regression? Pass "
        '`from_logits=True` or `task="regression"`, or compile the model '
        "with its loss. Received: outputs from "
        f"{outputs.min():.4g} to {outputs.max():.4g}"
    )


def in_unit_interval(outputs):
    return outputs.min() >= -1e-6 and outputs.max() <= 1.0 + 1e-6


def refuse_unclear(model):
    """Raises: nothing tells whether the outputs are probabilities."""
    raise ValueError(
        "The outputs of the model may be anything: it ends in no softmax or "
        "sigmoid, and no loss of it says that they are logits. Compile it with "
        "its loss, such as `keras.losses.SparseCategoricalCrossentropy("
        "from_logits=True)`, or add `keras.layers.Softmax()`, of single labels "
        '`keras.layers.Activation("sigmoid")`, as the last layer. Received: '
        f"model={model.name!r} that ends in {activation_of(model)!r}, with "
        f"loss {loss_name(loss_of(model))!r}"
    )


def refuse_probabilities(outputs):
    raise ValueError(
        "The outputs of the model are no probabilities: they must lie in "
        "[0, 1], and those of one class among several must sum to one. If "
        "they are logits pass `from_logits=True`; if each output is a label "
        'of its own, `task="multi_label"`. Received: outputs from '
        f"{outputs.min():.4g} to {outputs.max():.4g}, with sums "
        f"{few(outputs.sum(axis=1))}"
    )
