"""What a bundle of a detector predicts: boxes in each picture."""

import itertools

import numpy as np

from finetune_keras.data.detection import padded
from finetune_keras.data.layout import Pictures, Table
from finetune_keras.data.previews import thumbnail
from finetune_keras.engine.packages import pandas
from finetune_keras.results.predictions import SHEET, Predictions

_SIDES = ("left", "top", "right", "bottom")


class BoxPredictions(Predictions):
    """Boxes, one list for each picture; see `Predictions`."""

    def __init__(self, rows, task, names=None, pictures=()):
        self.values, self.task, self.names = rows, task, names
        self.classes = task.classes
        self.probabilities = self.confidence = self.sets = None
        self.abstained = np.zeros(len(rows), bool)
        self.boxes = [row[:, :4] for row in rows]
        self.scores = [row[:, 5] for row in rows]
        self.labels = [
            [self.classes[int(place)] for place in row[:, 4]] for row in rows
        ]
        self._first = list(itertools.islice(pictures, SHEET))

    def __getitem__(self, index):
        found = {} if self.names is None else {"name": self.names[index]}
        return {
            **found,
            "labels": self.labels[index],
            "scores": self.scores[index].tolist(),
            "boxes": self.boxes[index].tolist(),
        }

    def _lines(self):
        for i, found in enumerate(self):
            parts = (found[k] for k in ("labels", "scores", "boxes"))
            for label, score, box in zip(*parts, strict=True):
                yield found.get("name", i), label, score, *box

    def _layout(self):
        rows = [
            [name, label, f"{score:.3f}", *(f"{side:.0f}" for side in box)]
            for name, label, score, *box in self._lines()
        ]
        table = Table(["input", "label", "score", *_SIDES], rows)
        return [table, *self._without(), Pictures("", self._sheet)]

    def _without(self):
        """A sentence on pictures without a box, if there are any."""
        count = sum(not len(row) for row in self.values)
        if count:
            yield (
                f"{count} of {len(self.values)} pictures have no box with a "
                f"score over {self.task.threshold:g}, the "
                "`confidence_threshold` of the detector's "
                "`prediction_decoder`."
            )

    def _sheet(self):
        pairs = zip(self._first, self.values, strict=False)
        drawn = [
            self.task.picture(picture, padded([row[:, :5]], 5)[0])
            for picture, row in pairs
        ]
        return [
            (thumbnail(one), str(self.names[i] if self.names else i))
            for i, one in enumerate(drawn)
        ]

    def to_frame(self):
        """Returns a `pandas.DataFrame` with a row for each box."""
        columns = ["name", "label", "score", *_SIDES]
        return pandas.DataFrame(list(self._lines()), columns=columns)
