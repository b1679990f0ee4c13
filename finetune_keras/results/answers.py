"""What a bundle answers: labels, probabilities, abstentions."""

import numpy as np

from finetune_keras.data.table import format_table
from finetune_keras.results.decisions import Decisions


class Answers:
    """Predictions in terms of classes, one for each input.

    Attributes:
        labels: List: a class name for each input, a list of names where an
            input has several labels, a float or a list of them for a
            regression. `None` where the model abstains.
        probabilities: Array of shape (inputs, classes), or `None`.
        confidence: Array of floats in [0, 1], or `None`.
        abstained: Array of booleans.
        sets: List of lists of class names that remain possible, or `None`.
        values: Array, what the model gave.

    Example:

    ```python
    import numpy as np
    from finetune_keras.results.answers import Answers

    outputs = np.array([[0.8, 0.2], [0.3, 0.7]])
    answers = Answers(outputs, ["cat", "dog"], "classification")
    print(answers.labels, answers[0]["probabilities"])
    ```
    """

    def __init__(self, outputs, classes, task, calibration=None):
        self.values = np.asarray(outputs).reshape(len(outputs), -1)
        self.task = task
        self.classes = classes
        self.probabilities = self.confidence = self.sets = None
        self.abstained = np.zeros(len(self.values), bool)
        if task == "regression":
            one = self.values.shape[1] == 1
            values = self.values[:, 0] if one else self.values
            self.labels = values.tolist()
        else:
            self._decide(calibration)

    def _decide(self, calibration):
        several = self.task == "multi_label"
        single = self.values.shape[1] == 1
        activation = "sigmoid" if several or single else "softmax"
        decisions = Decisions(self.values, calibration, activation)
        self.probabilities = self.values
        if single and not several:
            columns = [1 - self.values, self.values]
            self.probabilities = np.concatenate(columns, axis=1)
        self.confidence = decisions.confidence
        self.abstained = decisions.abstained
        count = self.probabilities.shape[1]
        names = self.classes or [str(i) for i in range(count)]
        self.labels = [
            None if abstained else _named(label, names, several)
            for label, abstained in zip(
                decisions.labels, self.abstained, strict=True
            )
        ]
        if decisions.sets is not None:
            self.sets = [[names[i] for i in found] for found in decisions.sets]
        self.classes = names

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        """Returns one answer as a dict."""
        answer = {"label": self.labels[index]}
        if self.probabilities is not None:
            row = self.probabilities[index]
            answer["probability"] = float(row.max())
            answer["confidence"] = float(self.confidence[index])
            answer["abstained"] = bool(self.abstained[index])
            named = zip(self.classes, row.tolist(), strict=True)
            answer["probabilities"] = dict(named)
        if self.sets is not None:
            answer["set"] = self.sets[index]
        return answer

    def __str__(self):
        rows = [
            [i, *(_cell(answer.get(name)) for name in _COLUMNS)]
            for i, answer in enumerate(self)
        ]
        return format_table(["input", *_COLUMNS], rows)

    __repr__ = __str__

    def to_frame(self):
        """Returns a `pandas.DataFrame`: label, abstention, a column a class."""
        import pandas

        columns = {"label": self.labels, "abstained": self.abstained}
        if self.probabilities is not None:
            named = zip(self.classes, self.probabilities.T, strict=True)
            columns.update(named)
        return pandas.DataFrame(columns)


_COLUMNS = ("label", "probability", "abstained")


def _named(label, names, several):
    if several:
        return [name for name, on in zip(names, label, strict=True) if on]
    return names[int(np.reshape(label, -1)[0])]


def _cell(value):
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
