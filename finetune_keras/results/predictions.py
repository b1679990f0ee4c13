"""What a bundle predicts: labels, probabilities, abstentions."""

import numpy as np

from finetune_keras.data.table import format_table
from finetune_keras.engine.packages import pandas
from finetune_keras.results.decisions import Decisions

_COLUMNS = ("label", "probability", "abstained")


class Predictions:
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

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
    ft.save_bundle(model, "animals.keras", classes=["cat", "dog"])
    predictions = ft.load_bundle("animals.keras").predict(np.eye(2))
    print(predictions.labels, predictions[0]["probabilities"])
    ```
    """

    def __init__(self, outputs, task, calibration=None):
        self.values = task.probabilities(outputs)
        self.task = task
        self.classes = task.classes
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

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        """Returns one prediction as a dict."""
        found = {"label": self.labels[index]}
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

    def __str__(self):
        rows = [
            [i, *(_cell(found.get(name)) for name in _COLUMNS)]
            for i, found in enumerate(self)
        ]
        return format_table(["input", *_COLUMNS], rows)

    __repr__ = __str__

    def to_frame(self):
        """Returns a `pandas.DataFrame`: label, abstention, a column a class."""
        columns = {"label": self.labels, "abstained": self.abstained}
        if self.probabilities is not None:
            named = zip(self.classes, self.probabilities.T, strict=True)
            columns.update(named)
        return pandas.DataFrame(columns)


def _cell(value):
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
