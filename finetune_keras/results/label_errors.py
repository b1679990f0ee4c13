"""Labels that are likely wrong, by what a model says that has not seen them."""

import numpy as np

from finetune_keras.data.labels import check_classes
from finetune_keras.data.layout import Shown, Table
from finetune_keras.data.task_kinds import Classification

_SHOWN = 10


def find_label_errors(labels, probabilities, classes=None):
    """Finds examples whose label is likely wrong, by confident learning.

    Each class has a threshold of its own: the mean probability of that class
    over the examples that bear its label. Examples that pass that of another
    class tell how many labels of each class are wrong; as many of each with the
    lowest probability of their label are suspects. What a model has learnt by
    heart it finds right, so the probabilities must come from models that have
    not seen the example: those of the folds of a cross-validation, or of a
    model that was trained on other data.

    Args:
        labels: Array of class ids, of names from `classes`, or of one-hot rows,
            one an example.
        probabilities: Array of shape (examples, classes), rows that sum to
            one.
        classes: List of strings, names in the order of the columns. Defaults
            to `None`: their numbers.

    Returns:
        A `LabelErrors`.

    Raises:
        ValueError: If labels and probabilities do not fit each other.

    Example:

    ```python
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.eye(3)[y] + rng.normal(0, 0.2, (120, 3))
    y[[7, 10, 13, 16]] = 2                     # were 1
    probabilities = cross_val_predict(
        LogisticRegression(), x, y, method="predict_proba"
    )
    found = ft.find_label_errors(y, probabilities, ["ant", "bee", "wasp"])
    print(found)
    print(found.order[:4])                     # those four
    ```

    Reference:

    - [Northcutt et al., 2021](https://doi.org/10.1613/jair.1.12125)
    """
    probabilities = np.asarray(probabilities, "float64")
    task = _checked(probabilities, classes)
    y = task.labels(labels, "labels")
    if len(y) != len(probabilities):
        raise ValueError(
            "Each label needs a row of probabilities. Received: "
            f"{len(y)} labels and {len(probabilities)} rows"
        )
    return LabelErrors(y, probabilities, task.names())


class LabelErrors(Shown):
    """What `find_label_errors` found; `print` shows the likeliest.

    Attributes:
        rows: List of dicts, one a suspect, in the order of `order`: `index`
            (its place in the data), `label`, `suggested` (names of classes),
            and their probabilities, `of_label` and `of_suggested`.
        order: Integer array, the places of all examples, suspects or not, by
            the probability of their label, as a share of its threshold.
        counts: Integer array (classes, classes), the confident joint: examples
            of each label (row) that confidently belong to a class (column).
        examples: Integer, how many were looked at.

    Example:

    ```python
    import finetune_keras as ft

    probabilities = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.8, 0.2]]
    found = ft.find_label_errors([0, 1, 0, 0], probabilities)
    print(found.order, found.rows[0]["index"])  # [2 3 0 1] 2
    ```
    """

    def __init__(self, y, probabilities, classes):
        thresholds = _thresholds(y, probabilities)
        of_label = probabilities[np.arange(len(y)), y]
        # A class that is hard throughout is no class of errors.
        self.order = (of_label / thresholds[y]).argsort(kind="stable")
        self.counts = _joint(y, probabilities, thresholds)
        self.examples = len(y)
        others = probabilities.copy()
        others[np.arange(len(y)), y] = -np.inf
        likely = others.argmax(axis=1)
        self.rows = [
            {
                "index": int(i),
                "label": classes[y[i]],
                "suggested": classes[likely[i]],
                "of_label": float(of_label[i]),
                "of_suggested": float(others[i, likely[i]]),
            }
            for i in _suspects(y, self.order, self.counts)
        ]

    def _layout(self):
        count = len(self.rows)
        text = f"{count} of {self.examples:,} labels are suspect"
        if not count:
            return [text]
        header = ["index", "label", "probability", "suggested", "probability"]
        cells = [
            [r["index"], r["label"], f"{r['of_label']:.2f}"]
            + [r["suggested"], f"{r['of_suggested']:.2f}"]
            for r in self.rows[:_SHOWN]
        ]
        return [text, Table(header, cells), *["..."] * (count > _SHOWN)]


def _thresholds(y, probabilities):
    """How likely each class is found by those that bear its label."""
    members = np.eye(probabilities.shape[1])[y]
    sums, sizes = (members * probabilities).sum(axis=0), members.sum(axis=0)
    # No example passes that of a label that no example has.
    return np.divide(sums, sizes, where=sizes > 0, out=np.full(len(sums), 2.0))


def _joint(y, probabilities, thresholds):
    """Counts examples of each label by the class that they surely are of."""
    passes = probabilities >= thresholds
    likely = np.where(passes, probabilities, -1.0).argmax(axis=1)
    sure = passes.any(axis=1)
    counts = np.zeros((len(thresholds),) * 2, "int64")
    np.add.at(counts, (y[sure], likely[sure]), 1)
    return counts


def _suspects(y, order, counts):
    """Of each label as many as are wrong by its share of sure errors."""
    sure = np.maximum(counts.sum(axis=1), 1)
    errors = 1 - (counts.diagonal() + (counts.sum(axis=1) == 0)) / sure
    left = np.round(errors * np.bincount(y, minlength=len(counts)))
    for i in order:
        if left[y[i]] > 0:
            left[y[i]] -= 1
            yield i


def _checked(probabilities, classes):
    """The task of an array of probabilities, which it checks."""
    shape = probabilities.shape
    if len(shape) != 2 or shape[1] < 2 or not shape[0]:
        raise ValueError(
            "`probabilities` must have a row for each example and a column "
            "for each class, at least two. Received: probabilities of shape "
            f"{shape}"
        )
    names = None if classes is None else check_classes(classes)
    task = Classification(names, shape[1])
    task.scores(probabilities)
    return task
