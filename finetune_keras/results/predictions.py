"""What a bundle predicts: labels, probabilities, abstentions."""

import itertools

import numpy as np

from finetune_keras.arguments import check, integer
from finetune_keras.data.layout import Pictures, Shown, Table
from finetune_keras.data.previews import thumbnail
from finetune_keras.data.printable import outcome
from finetune_keras.data.task_checks import check_finite
from finetune_keras.engine.packages import pandas
from finetune_keras.results.decisions import Decisions

_COLUMNS = ("label", "probability", "abstained")
# How many pictures stand beside their labels.
SHEET = 12


class Predictions(Shown):
    """Predictions in terms of classes, one for each input.

    Made by `Bundle.predict`.

    Attributes:
        labels: List: a class name for each input, a list of names where an
            input has several labels, a float or a list of them for a
            regression. `None` where the model abstains.
        probabilities: Array of shape (inputs, classes), or `None`.
        confidence: Array of floats in [0, 1], or `None`.
        abstained: Array of booleans.
        sets: List of lists of class names that remain possible, or `None`.
        values: Array, what the model gave, logits as probabilities.
        names: List of strings, the names of the files that were read, or
            `None`.
        boxes, scores: Of a detector, for each picture arrays of (left, top,
            right, bottom) in its pixels, and of scores; `labels` are then
            lists of a name for each box.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
    ft.save_bundle(model, "animals.keras", classes=["cat", "dog"])
    predictions = ft.load_bundle("animals.keras").predict(np.eye(2))
    print(predictions.labels, predictions[0]["probabilities"])
    print(predictions.top(2)[0])  # of many classes, the first two
    ```
    """

    def __init__(self, outputs, task, calibration=None, names=None, x=()):
        check_finite(task.rows(outputs))
        self.values = task.probabilities(outputs)
        self.task = task
        self.classes = task.classes
        self.names = names
        # A copy, so that not all of the inputs are kept.
        self._first = [np.array(one) for one in itertools.islice(x, SHEET)]
        self.probabilities = self.confidence = self.sets = None
        self.abstained = np.zeros(len(self.values), bool)
        if task.has_chances:
            self._decide(calibration)
        else:
            self.labels = [task.plain(row) for row in self.values]

    def _decide(self, calibration):
        decisions = Decisions(
            self.values, calibration, self.task.output_activation
        )
        self.probabilities = self.task.by_class(self.values)
        self.confidence = decisions.confidence
        self.abstained = decisions.abstained
        names = self.classes
        self.labels = [
            None if abstained else self.task.plain(label)
            for label, abstained in zip(
                decisions.labels, self.abstained, strict=True
            )
        ]
        if decisions.sets is not None:
            self.sets = [[names[i] for i in found] for found in decisions.sets]

    def top(self, k):
        """Lists the k most probable classes of each input, the first first.

        Such as the films that a person is shown.

        Args:
            k: Integer.

        Returns:
            List of lists of pairs of a class and its probability.
        """
        check(k=(k, integer(1)))
        if self.probabilities is None:
            raise ValueError(
                "Only classes have a probability each, by which they are "
                f"sorted. Received: predictions of a {self.task}"
            )
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[i], float(row[i])) for i in places]
            for places, row in zip(order, self.probabilities, strict=True)
        ]

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        """Returns one prediction as a dict."""
        found = {} if self.names is None else {"name": self.names[index]}
        found["label"] = self.labels[index]
        if self.probabilities is not None:
            row = self.probabilities[index]
            found["probability"] = float(row.max())
            found["confidence"] = float(self.confidence[index])
            found["abstained"] = bool(self.abstained[index])
            named = zip(self.classes, row.tolist(), strict=True)
            found["probabilities"] = dict(named)
        if self.sets is not None:
            found["set"] = self.sets[index]
        return found

    def _layout(self):
        rows = [
            [found.get("name", i), *(_cell(found.get(k)) for k in _COLUMNS)]
            for i, found in enumerate(self)
        ]
        table = Table(["input", *_COLUMNS], rows)
        return [table, Pictures("", self._sheet)]

    def _sheet(self):
        pictures = map(thumbnail, self._first)
        return [
            (picture, "\n".join(filter(None, self._words(i))))
            for i, picture in enumerate(pictures)
            if picture is not None
        ]

    def _words(self, i):
        found = self[i]
        label, chance = found["label"], found.get("probability")
        label = "abstained" if label is None else outcome(label)
        sure = "" if chance is None else f" ({chance:.3f})"
        return found.get("name"), f"{label}{sure}"

    def to_frame(self):
        """Returns a `pandas.DataFrame`: name, label, abstention, each class."""
        columns = {} if self.names is None else {"name": self.names}
        columns |= {"label": self.labels, "abstained": self.abstained}
        if self.probabilities is not None:
            named = zip(self.classes, self.probabilities.T, strict=True)
            columns.update(named)
        return pandas.DataFrame(columns)


def _cell(value):
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
