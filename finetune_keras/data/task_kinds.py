"""The kinds of tasks that evaluation judges: classes, labels, numbers."""

import keras
import numpy as np

from finetune_keras.data.labels import (
    as_text,
    check_class_ids,
    check_classes,
    few,
    ids_of_names,
    is_whole,
)
from finetune_keras.data.outputs import snake_case
from finetune_keras.data.task import Task
from finetune_keras.data.task_checks import as_ids
from finetune_keras.engine.packages import sklearn

_MOST = float(np.finfo("float32").max)
_TOLERANCE = 1e-2


class Classification(Task):
    """One class among several. One output, of a sigmoid, tells two apart."""

    name, activation, fewest = "classification", "softmax", 2
    main_metric, noun, is_flat = "accuracy", "classes", True
    more_metrics = ("f1_macro", "log_loss", "ece")

    @property
    def takes_threshold(self):
        return self.count == 2

    @property
    def is_single(self):
        return self.outputs == 1

    @property
    def count(self):
        return max(self.outputs, 2)

    @property
    def output_activation(self):
        return "sigmoid" if self.is_single else "softmax"

    def compile_arguments(self, one_hot=False):
        """What `compile` takes for it; `one_hot` tells the form of labels."""
        if self.is_single:
            return _each_alone(self.logits)
        kind = "" if one_hot else "Sparse"
        return {
            "loss": _loss(f"{kind}CategoricalCrossentropy", self.logits),
            "metrics": ["accuracy"],
        }

    @classmethod
    def encode(cls, labels, classes=None):
        """`(task, ids)` of raw labels: names, or with `classes` places."""
        if labels.ndim == 2:
            one = np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()
            if not one:
                raise ValueError(
                    "Labels of a classification are one an example, or "
                    f"one-hot rows. Received: labels of shape {labels.shape}"
                )
            labels = labels.argmax(1)
        whole = is_whole(labels)
        if whole and classes is not None:
            names = check_classes(classes)
            return cls(names), _places(labels, names)
        if not whole:
            labels = np.array([as_text(x) for x in labels])
        values, ids = np.unique(labels, return_inverse=True)
        names = [as_text(value) for value in values]
        if classes is None:
            return cls(names), ids.astype("int32")
        task = cls(check_classes(classes))
        return task, ids_of_names(labels, task.classes)

    def labels(self, labels, name="data"):
        labels = as_ids(labels, self.classes, name)
        if labels.ndim == 2:
            if labels.shape[1] != self.count:
                self._refuse_shape(labels)
            _check_binary(labels, "One-hot labels")
            if (labels.sum(axis=1) != 1).any():
                raise ValueError(
                    "One-hot labels must have exactly one 1 a row. For "
                    'several labels an example pass `task="multi_label"`. '
                    f"Received: rows with sums {few(labels.sum(axis=1))}"
                )
            return labels.argmax(axis=1)
        check_class_ids(labels, self.count, name)
        return labels.astype("int64")

    def softened(self, logits):
        if self.is_single:
            return super().softened(logits)
        logits = np.asarray(logits, "float64")
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def are_scores(self, outputs):
        if self.is_single:
            return super().are_scores(outputs)
        off = abs(outputs.sum(axis=-1, dtype="float64") - 1.0).max()
        return super().are_scores(outputs) and off < _TOLERANCE

    def by_class(self, probabilities):
        if self.is_single:
            columns = [1.0 - probabilities, probabilities]
            probabilities = np.concatenate(columns, axis=-1)
        return super().by_class(probabilities)

    def exact(self, scores):
        return scores / scores.sum(axis=-1, keepdims=True)

    def decide(self, scores, threshold=None):
        """Number of the class of each row; of two, by a threshold."""
        if scores.shape[-1] == 2:
            cut = 0.5 if threshold is None else np.array(threshold)
            return (scores[..., 1] > cut).astype("int64")
        return scores.argmax(axis=-1)

    def plain(self, label):
        """A label as people say it: the name of the class."""
        return self.classes[int(np.reshape(label, -1)[0])]

    def chance(self, scores, true, chosen):
        """Probability of what was chosen, for a report."""
        return float(scores[chosen])

    def losses(self, y, scores):
        """Cross-entropy of each example."""
        return -np.log(_clipped(scores)[np.arange(len(y)), y])

    def strata(self, y):
        """What to spread evenly over splits."""
        return y

    def counts(self, y):
        return self._named(np.bincount(y, minlength=len(self.classes)))

    def class_weight(self, y, balanced):
        """Weights as scikit-learn's `"balanced"`, or all 1 if `balanced`."""
        present = np.unique(y)
        weights = sklearn.utils.class_weight.compute_class_weight(
            "balanced", classes=present, y=y
        )
        found = {} if balanced else dict(zip(present, weights, strict=True))
        # A class without an example has a weight too.
        return {c: float(found.get(c, 1.0)) for c in range(len(self.classes))}

    def members(self, y):
        """Which examples are of which class, a column each."""
        return y[:, None] == np.arange(len(self.classes))


class MultiLabel(Task):
    """Any of several labels, each for itself."""

    name, activation = "multi_label", "sigmoid"
    main_metric, noun = "f1_micro", "labels"
    more_metrics = ("f1_macro", "log_loss")
    takes_threshold = True

    def compile_arguments(self, one_hot=False):
        return _each_alone(self.logits)

    @classmethod
    def encode(cls, labels, classes=None):
        """`(task, rows of 0 and 1)` of lists of labels, or of such rows."""
        if labels.ndim == 2:
            names = [str(i) for i in range(labels.shape[1])]
            names = names if classes is None else check_classes(classes)
            if len(names) != labels.shape[1]:
                raise ValueError(
                    f"`classes` must have {labels.shape[1]} names, one a "
                    f"column of the labels. Received: classes={classes!r}"
                )
            return cls(names), labels.astype("float32")
        rows = [[as_text(x) for x in row] for row in labels]
        found = sorted({name for row in rows for name in row})
        names = check_classes(classes) if classes is not None else found
        y = np.zeros((len(rows), len(names)), "float32")
        for target, row in zip(y, rows, strict=True):
            target[ids_of_names(np.array(row), names)] = 1.0
        return cls(names), y

    def labels(self, labels, name="data"):
        labels = super().labels(labels, name)
        _check_binary(labels, 'A multi-label task (`task="multi_label"`)')
        return labels.astype("int8")

    def decide(self, scores, threshold=None):
        cut = 0.5 if threshold is None else np.array(threshold)
        return (scores > cut).astype("int8")

    def plain(self, label):
        return [self.classes[i] for i in np.flatnonzero(label)]

    def chance(self, scores, true, chosen):
        named = np.flatnonzero((true == 1) | (chosen == 1))
        return {self.classes[i]: float(scores[i]) for i in named}

    def losses(self, y, scores):
        likely = _clipped(scores)
        return -np.log(np.where(y == 1, likely, 1.0 - likely)).mean(axis=1)

    def strata(self, y):
        """The rarest label of each example."""
        rarity = np.where(y > 0, 1 / np.maximum(y.sum(0), 1), 0)
        return np.where(y.any(1), rarity.argmax(1), -1)

    def counts(self, y):
        return self._named(y.sum(axis=0))

    def members(self, y):
        return y == 1


class Regression(Task):
    """One or more numbers."""

    name, activation = "regression", "linear"
    main_metric, noun = "rmse", "values"
    more_metrics = ("mae", "r2")
    class_metric = ("rmse", -1)
    has_chances = False

    def compile_arguments(self, one_hot=False):
        loss = "mean_squared_error"
        return {"loss": loss, "metrics": ["mean_absolute_error"]}

    @classmethod
    def encode(cls, labels, classes=None):
        if classes is not None:
            raise ValueError(
                "A regression has no classes; leave `classes` out, or pass "
                f'task="classification". Received: classes={classes!r}'
            )
        odd = [x for x in labels.ravel().tolist() if not _is_float(x)]
        if odd:
            raise ValueError(
                "Labels of a regression must be numbers that float32 can hold. "
                f"Received: {odd[0]!r}, and {len(odd) - 1} more"
            )
        return cls(), labels.astype("float32")

    def labels(self, labels, name="data"):
        labels = super().labels(labels, name)
        if not np.isfinite(labels).all():
            raise ValueError(
                "Labels of a regression must be finite numbers. Leave out "
                "the examples without one. Received: "
                f"{np.count_nonzero(~np.isfinite(labels))} NaN or infinite"
            )
        return labels.astype("float64")

    def are_scores(self, outputs):
        return True

    def by_class(self, values):
        return values

    def decide(self, scores, threshold=None):
        return scores

    def plain(self, label):
        return label.tolist() if len(label) > 1 else float(label[0])

    def chance(self, scores, true, chosen):
        return None

    def losses(self, y, scores):
        """Squared error of each example."""
        return ((scores - y) ** 2).mean(axis=1)

    def strata(self, y):
        """Tenths of the first value."""
        y = y if y.ndim == 1 else y[:, 0]
        bins = max(min(10, len(y) // 20), 1)
        edges = np.quantile(y, np.linspace(0, 1, bins + 1)[1:-1])
        return np.searchsorted(edges, y)


def _each_alone(logits):
    """What `compile` takes for labels that are each judged for itself."""
    loss = _loss("BinaryCrossentropy", logits)
    return {"loss": loss, "metrics": ["binary_accuracy"]}


def _loss(name, logits):
    if logits:
        return getattr(keras.losses, name)(from_logits=True)
    return snake_case(name)


def _places(labels, names):
    """Integers as the places of the names that stand there."""
    count = len(names)
    apart = [
        name
        for i, name in enumerate(names)
        if name.isdecimal() and int(name) < count and int(name) != i
    ]
    if apart:
        raise ValueError(
            "Integers as labels are the places of their names in `classes`, "
            f"where {apart[0]!r} stands in another place. Leave out `classes`, "
            "or pass the labels as strings. "
            f"Received: classes={names} and integer labels"
        )
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"`classes` has {count} names, for the labels 0 to {count - 1}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels.astype("int32")


def _is_float(value):
    try:
        return bool(abs(float(value)) <= _MOST)
    except (TypeError, ValueError):
        return False


def _check_binary(labels, subject):
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"{subject} needs labels that are all 0 or 1. Undo smoothing or "
            f"mixing of labels. Received: labels such as {few(labels)}"
        )


def _clipped(scores):
    # The clip of scikit-learn's `log_loss`.
    tiny = np.finfo("float64").eps
    return np.clip(scores, tiny, 1.0 - tiny)
