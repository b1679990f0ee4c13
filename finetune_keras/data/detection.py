"""The task of boxes: what stands where in a picture."""

import numpy as np

from finetune_keras.data.box_drawing import draw_boxes
from finetune_keras.data.box_formats import to_format
from finetune_keras.data.labels import check_classes
from finetune_keras.data.overlaps import found, overlaps
from finetune_keras.data.task import Task

# Of the last axis of true boxes and of predicted ones.
TRUE, PREDICTED = 5, 6


class Detection(Task):
    """Boxes and what is in them, any number of them a picture.

    True boxes are rows (left, top, right, bottom, class) of an array
    (pictures, boxes, 5), predicted ones have a score behind; rows of -1 fill
    up.
    """

    name, fewest = "detection", 1
    main_metric, more_metrics, noun = "map_50_95", ("map_50",), "classes"
    class_metric, total = ("ap_50_95", 1), "images"
    has_chances, takes_threshold, is_explained = False, True, False
    # What `threshold` is where nobody says.
    threshold = 0.5

    @classmethod
    def encode(cls, labels, classes=None):
        """`(task, boxes)`; boxes are those that `box_folder` reads."""
        if labels.ndim != 3 or labels.shape[2] != TRUE or classes is None:
            raise ValueError(
                "Boxes are read by `ft.box_folder`. Received: labels of shape "
                f"{labels.shape} for a detection"
            )
        names = check_classes(classes)
        return cls(names, len(names)), labels.astype("float32")

    def ask(self, model):
        self.outputs = model.num_classes
        self.bounding_box_format = model.bounding_box_format
        decoder = model.prediction_decoder
        self.threshold = getattr(decoder, "confidence_threshold", 0.5)

    def take_options(self, options):
        self.bounding_box_format = options["bounding_box_format"]

    def mark(self, dataset):
        dataset.bounding_box_format = self.bounding_box_format
        dataset.class_names = self.classes

    # === True boxes ===

    def targets(self, y):
        boxes = to_format(y[..., :4], self.bounding_box_format)
        return {"boxes": boxes, "labels": y[..., 4].astype("int32")}

    def labels(self, labels, name="data"):
        return np.asarray(labels, "float32")

    def strata(self, y):
        """The rarest class of each picture, -1 where it has no box."""
        member = self.members(y)
        rarity = np.where(member, 1 / np.maximum(member.sum(0), 1), 0)
        return np.where(member.any(1), rarity.argmax(1), -1)

    def counts(self, y):
        places = y[..., 4][y[..., 4] >= 0].astype("int64")
        return self._named(np.bincount(places, minlength=len(self.classes)))

    def members(self, y):
        """Which pictures have a box of which class, a column each."""
        return (y[..., 4, None] == np.arange(len(self.classes))).any(axis=1)

    # === Predicted boxes ===

    def scores(self, outputs):
        return np.asarray(outputs, "float32")

    def decide(self, scores, threshold=None):
        """Rows of boxes, -1 where the score is below the threshold."""
        cut = self.threshold if threshold is None else threshold
        sure = (scores[..., 4:5] >= 0) & (scores[..., 5:6] >= cut)
        return np.where(sure, scores, -1.0)

    def losses(self, y, scores):
        """How many boxes of each picture are missed, or are too many."""
        chosen = self.decide(scores)
        pairs = zip(y, chosen, strict=True)
        return np.array([_errors(*pair) for pair in pairs], "float64")

    def plain(self, label):
        """The classes of the boxes, such as `["cat", "dog x 2"]`."""
        places = label[..., 4][label[..., 4] >= 0].astype("int64")
        counts = np.bincount(places, minlength=len(self.classes))
        pairs = zip(self.classes, counts.tolist(), strict=True)
        return [f"{c} x {n}" if n > 1 else c for c, n in pairs if n]

    def chance(self, scores, true, chosen):
        return None

    def picture(self, x, true):
        return draw_boxes(x, self.classes, true)

    def drawn(self, x, true, chosen):
        return draw_boxes(x, self.classes, true, chosen)

    def joinable(self, arrays):
        if arrays[0] is None or arrays[0].ndim != 3:
            return arrays
        most = max(array.shape[1] for array in arrays)
        return [padded(array, array.shape[2], most) for array in arrays]

    def misfit(self, y, outputs, rows):
        shapes = (y, TRUE), (outputs, PREDICTED)
        for array, width in shapes:
            if array.ndim != 3 or array.shape[::2] != (rows, width):
                return f"it has boxes of shape {array.shape}"
            if (array[..., 4] >= len(self.classes)).any():
                return "it has boxes of unknown classes"
        return None


def _errors(true, chosen):
    """Of one picture: true boxes not found, and boxes that find none."""
    right = 0
    for place in np.unique(true[true[:, 4] >= 0, 4]):
        mine, its = true[true[:, 4] == place], chosen[chosen[:, 4] == place]
        its = its[np.argsort(-its[:, 5], kind="stable")]
        right += found(overlaps(its[:, :4], mine[:, :4]), np.array([0.5])).sum()
    return (true[:, 4] >= 0).sum() + (chosen[:, 4] >= 0).sum() - 2 * right


def padded(rows, width, length=None):
    """Lists of rows of each picture as one float32 array, filled with -1."""
    if length is None:
        length = max([1, *map(len, rows)])
    array = np.full((len(rows), length, width), -1.0, "float32")
    for target, some in zip(array, rows, strict=True):
        target[: len(some)] = np.reshape(some, (-1, width))
    return array
