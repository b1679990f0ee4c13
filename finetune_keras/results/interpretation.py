"""What the labels and outputs of a model mean: task, classes, probabilities."""

import numpy as np

from finetune_keras.data.label_checks import one_column
from finetune_keras.models.outputs import (
    activation_of,
    ends_in_logits,
    loss_name,
    loss_of,
    task_of,
)

TASKS = ("classification", "multi_label", "regression")
_TOLERANCE = 1e-2


class Interpretation:
    """Turns labels into class ids and outputs into probabilities.

    The task and whether outputs are logits are decided on the first batch,
    from the compiled loss, the activation of the output, and last the values.
    A later batch that contradicts them raises.

    Args:
        model: A `keras.Model` with one output.
        labels: Array, the first batch of labels.
        outputs: Array, the outputs of the model for it.
        classes: List of names, or `None`. Defaults to `None`.
        task: One of `TASKS`, or `None` to infer it. Defaults to `None`.
        from_logits: Boolean, or `None` to infer it. Defaults to `None`.
    """

    def __init__(
        self, model, labels, outputs, classes=None, task=None, from_logits=None
    ):
        outputs = as_columns(outputs)
        self.names = None if classes is None else [str(c) for c in classes]
        self.columns = outputs.shape[1]
        labels = self._numbers(labels)
        self.task = task or _infer_task(model, labels, outputs, from_logits)
        if from_logits is None:
            from_logits = self._is_logits(model, outputs)
        self.from_logits = from_logits
        self.classes = self._class_names()

    def labels(self, labels):
        """Checks a batch of labels.

        Returns:
            Integer array (n,) of class ids, 0-1 array (n, labels), or float
            array (n, values).
        """
        labels = self._numbers(labels)
        if self.task == "classification":
            return self._class_ids(labels)
        labels = labels.reshape(len(labels), -1)
        if labels.shape[1] != self.columns:
            self._mismatch(labels)
        if self.task == "multi_label":
            _check_binary(labels, 'A multi-label task (`task="multi_label"`)')
            return labels.astype("int8")
        if not np.isfinite(labels).all():
            raise ValueError(
                "Labels of a regression must be finite numbers. Leave out "
                "the examples without one. Received: "
                f"{np.count_nonzero(~np.isfinite(labels))} NaN or infinite"
            )
        return labels.astype("float64")

    def outputs(self, outputs):
        """Returns probabilities, or values of a regression, in float32."""
        outputs = as_columns(outputs).astype("float64")
        if not np.isfinite(outputs).all():
            bad = int(np.count_nonzero(~np.isfinite(outputs).all(axis=1)))
            raise ValueError(
                "The model predicts NaN or infinity. Look at its weights and "
                f"at these inputs. Received: {bad} such of {len(outputs)} "
                "examples in one batch"
            )
        if self.task == "regression":
            return outputs.astype("float32")
        if self.from_logits:
            outputs = probabilities(outputs, self.task)
        one_of_several = self.task == "classification" and self.columns > 1
        fits = _sum_to_one if one_of_several else _in_unit_interval
        if not fits(outputs):
            _not_probabilities(outputs)
        if self.task == "classification" and self.columns == 1:
            outputs = np.concatenate([1.0 - outputs, outputs], axis=1)
        return np.clip(outputs, 0.0, 1.0).astype("float32")

    def _is_logits(self, model, outputs):
        if self.task == "regression":
            return False
        told = ends_in_logits(model)
        if told is not None:
            return told
        if self.task == "classification" and self.columns > 1:
            return not _sum_to_one(outputs)
        return not _in_unit_interval(outputs)

    def _class_names(self):
        count = self.columns
        if self.task == "classification":
            count = max(count, 2)
        names = self.names or [str(i) for i in range(count)]
        if len(names) != count or len(set(names)) != count:
            raise ValueError(
                f"`classes` must hold {count} different names, one for each "
                "output of the model (two for a single sigmoid unit). "
                f"Received: classes={names!r}"
            )
        return names

    def _numbers(self, labels):
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
            return self._ids_of_names(labels)
        return labels.astype("int64") if labels.dtype.kind == "b" else labels

    def _ids_of_names(self, labels):
        texts = [as_text(label) for label in labels.ravel()]
        ids = {name: i for i, name in enumerate(self.names or ())}
        unknown = sorted(set(texts) - set(ids))
        if unknown:
            raise ValueError(
                "Labels that are strings must be among `classes`, in the "
                "order of the outputs. Pass `classes`, or integers from 0. "
                f"Received: classes={self.names!r} and labels {unknown[:5]}"
            )
        return np.array([ids[text] for text in texts]).reshape(labels.shape)

    def _class_ids(self, labels):
        count = len(self.classes)
        if labels.ndim == 2:
            if labels.shape[1] != count:
                self._mismatch(labels)
            _check_binary(labels, "One-hot labels")
            if (labels.sum(axis=1) != 1).any():
                raise ValueError(
                    "One-hot labels must have exactly one 1 a row. For "
                    'several labels an example pass `task="multi_label"`. '
                    f"Received: rows with sums {_few(labels.sum(axis=1))}"
                )
            return labels.argmax(axis=1)
        whole = np.isfinite(labels).all() and (labels == np.floor(labels)).all()
        if not whole or labels.min() < 0 or labels.max() >= count:
            raise ValueError(
                f"The model has {count} classes, so labels must be whole "
                f"numbers from 0 to {count - 1}. For a regression pass "
                '`task="regression"`. '
                f"Received: labels such as {_few(labels)}"
            )
        return labels.astype("int64")

    def _mismatch(self, labels):
        raise ValueError(
            f"The labels do not fit the outputs of the model for "
            f"{self.task}. The model has {self.columns} outputs an example. "
            f"Received: labels of shape {labels.shape}"
        )


def probabilities(logits, task):
    """Probabilities of classes or labels from their logits.

    Args:
        logits: Array of shape (examples, outputs).
        task: `"classification"` or `"multi_label"`.

    Returns:
        Array of the same shape: a softmax of several classes, otherwise
        sigmoids.
    """
    logits = np.asarray(logits, "float64")
    if task == "multi_label" or logits.shape[1] == 1:
        return 0.5 * (1.0 + np.tanh(0.5 * logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def as_columns(outputs, verb="evaluate"):
    """Outputs of shape (batch,) or (batch, columns) as columns."""
    check_shape(outputs, verb)
    # Half precision of TensorFlow and JAX is no dtype of NumPy's own.
    outputs = np.asarray(outputs).astype("float32")
    return outputs.reshape(len(outputs), -1)


def check_shape(outputs, verb):
    """Raises where outputs are not one prediction for each input.

    Args:
        outputs: Tensor, array or a structure of them.
        verb: String, which function takes them.
    """
    shape = getattr(outputs, "shape", None)
    if shape is not None and len(shape) in (1, 2):
        return
    if shape is None:
        found = type(outputs).__name__
        how = (
            "Of several outputs make a model of the one that you want: "
            "`keras.Model(model.inputs, model.outputs[0])`; lists of tags are "
            "for `ft.entity_scores`, and answers for `ft.answer_scores`."
        )
    else:
        found = f"shape {tuple(shape)}"
        how = (
            "Predictions for each pixel or each step are judged by Keras: "
            "`model.evaluate`, with metrics such as `keras.metrics.MeanIoU`. "
            "Where one prediction is meant pool or flatten it first."
        )
    raise ValueError(
        f"`{verb}` takes a model with one output of shape (batch,) or (batch, "
        f"classes). {how} Received: outputs of {found}"
    )


def as_text(value):
    """A string, from bytes too."""
    return (
        value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else str(value)
    )


def _infer_task(model, labels, outputs, from_logits):
    binary = bool(np.isin(labels, (0, 1)).all())
    several = labels.ndim == 2 and outputs.shape[1] > 1
    by_label = "multi_label" if several else "classification"
    told = task_of(model)
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
    if _in_unit_interval(outputs):
        return "classification"
    raise ValueError(
        "The labels are 0 and 1, and the only output of the model is no "
        "probability: is it a logit, or a regression? Pass "
        '`from_logits=True` or `task="regression"`, or compile the model '
        "with its loss. Received: outputs from "
        f"{outputs.min():.4g} to {outputs.max():.4g}"
    )


def _in_unit_interval(outputs):
    return outputs.min() >= -1e-6 and outputs.max() <= 1.0 + 1e-6


def _sum_to_one(outputs):
    sums = outputs.sum(axis=1, dtype="float64")
    return _in_unit_interval(outputs) and abs(sums - 1.0).max() < _TOLERANCE


def _not_probabilities(outputs):
    raise ValueError(
        "The outputs of the model are no probabilities: they must lie in "
        "[0, 1], and those of one class among several must sum to one. If "
        "they are logits pass `from_logits=True`; if each output is a label "
        'of its own, `task="multi_label"`. Received: outputs from '
        f"{outputs.min():.4g} to {outputs.max():.4g}, with sums "
        f"{_few(outputs.sum(axis=1))}"
    )


def _check_binary(labels, subject):
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"{subject} needs labels that are all 0 or 1. Undo smoothing or "
            f"mixing of labels. Received: labels such as {_few(labels)}"
        )


def _few(values):
    values = np.unique(np.asarray(values).ravel())
    picked = values if len(values) <= 5 else values[[0, 1, 2, -2, -1]]
    return [round(float(value), 4) for value in picked]
