"""What is true of the pixels of each picture and what a model said of them."""

import functools
import hashlib

import numpy as np

from finetune_keras.data.previews import image_of
from finetune_keras.results.formulas import (
    NUM_BINS,
    bin_of,
    divide,
    label_rates,
)

_TINY = float(np.finfo("float64").eps)


class MaskOutcomes:
    """Counts of the pixels of each picture: what all metrics hang on.

    `counts` are pixels (pictures, classes, classes), true by predicted; `sums`
    (pictures, 2 + 3 bins) hold the pixels and their cross-entropy, and of the
    bins of the confidence pixels, confidence and right ones. Pixels without a
    class are in none. `keys` are digests of pictures with masks.
    """

    arrays = ("counts", "sums", "sample_weight", "keys")

    def __init__(
        self, counts, sums, task, threshold=None, sample_weight=None, keys=None
    ):
        self.counts = counts
        self.sums = sums
        self.task = task
        self.classes = task.classes
        self.threshold = threshold
        self.sample_weight = sample_weight
        self.keys = keys

    @classmethod
    def of(cls, task, labels, scores, threshold, weight, keys):
        """Counts a batch of masks; `weight` is of pictures or of pixels."""
        chosen = task.decide(scores, threshold)
        by_pixel = weight is not None and np.ndim(weight) > 2
        pixels = _pixel_weights(weight, labels) if by_pixel else 1.0
        pixels = pixels * (labels != _none(task.ignore_class))
        counts, size = [], len(task.classes)
        true = np.where(pixels > 0, labels, 0)
        for each in zip(true * size + chosen, pixels, strict=True):
            cells = np.bincount(each[0].ravel(), each[1].ravel(), size**2)
            counts.append(cells.reshape(size, size))
        sums = _sums(task.exact(scores.astype("float64")), true, pixels)
        weight = None if by_pixel else weight
        return cls(np.array(counts), sums, task, threshold, weight, keys)

    def __len__(self):
        return len(self.counts)

    @property
    def y_true(self):
        """True pixels of each class in each picture."""
        return self.counts.sum(axis=2)

    @property
    def losses(self):
        """Mean cross-entropy of the pixels of each picture."""
        return divide(self.sums[:, 1], self.sums[:, 0])

    @functools.cached_property
    def label_digest(self):
        """Hexadecimal digest of the labels in their order."""
        found = hashlib.sha256(repr((self.task, self.counts.shape)).encode())
        found.update(self.y_true.astype("<f8").tobytes())
        return found.hexdigest()[:16]

    def take(self, rows):
        """The same for some of the pictures, by index or mask."""
        parts = [getattr(self, name) for name in self.arrays]
        counts, sums, *more = (None if x is None else x[rows] for x in parts)
        return MaskOutcomes(counts, sums, self.task, self.threshold, *more)

    # === Metrics ===

    def statistic(self):
        """A function from weights of pictures to a dict of metrics."""
        size, count = len(self), len(self.classes)
        cells = self.counts.reshape(size, -1)

        def statistic(weights):
            table = (weights @ cells).reshape(-1, count, count)
            right, true, chosen = _margins(table)
            pixels, loss = (weights @ self.sums[:, :2]).T
            gaps = weights @ (self._bins(1) - self._bins(2))
            seen = np.maximum((true + chosen > 0).sum(axis=1), 1)
            rates = mask_rates(right, true, chosen)
            return {
                "mean_iou": rates["iou"].sum(axis=1) / seen,
                "mean_dice": rates["dice"].sum(axis=1) / seen,
                "pixel_accuracy": right.sum(axis=1) / pixels,
                "log_loss": loss / pixels,
                "ece": abs(gaps).sum(axis=1) / pixels,
            }

        return statistic

    def each_class(self):
        """Dict from class to its pixels `n` and its metrics."""
        weight = self._weight()[:, None, None]
        margins = _margins((self.counts * weight).sum(axis=0))
        rates, pixels = mask_rates(*margins), self.y_true.sum(axis=0)
        return {
            name: {
                "n": int(pixels[i]),
                **{key: float(values[i]) for key, values in rates.items()},
            }
            for i, name in enumerate(self.classes)
        }

    def confusion(self):
        """Pixels as integers (classes, classes), rows true."""
        return np.rint(self.counts.sum(axis=0)).astype("int64")

    def calibration_bins(self):
        """Sums of the pixels in bins, and means of what is in them."""
        total, sure, right = (self._weight() @ self._bins(i) for i in range(3))
        return {
            "weight": total,
            "confidence": divide(sure, total),
            "accuracy": divide(right, total),
        }

    def notes(self):
        """Sentences on classes that are nowhere, or never predicted."""
        _, true, chosen = _margins(self.counts.sum(axis=0))
        pairs = list(zip(self.classes, true, chosen, strict=True))
        absent = [c for c, n, m in pairs if not n and not m]
        never = [c for c, n, m in pairs if n and not m]
        if absent:
            yield f"Neither true nor predicted, and in no mean: {absent[:5]}."
        if never:
            yield f"Never predicted: {never[:5]}. Try `class_weight`."

    def _bins(self, part):
        start = 2 + part * NUM_BINS
        return self.sums[:, start : start + NUM_BINS]

    def _weight(self):
        weight = self.sample_weight
        return np.ones(len(self)) if weight is None else weight


def mask_rates(right, true, chosen):
    """IoU, Dice, precision and recall, 0 where there is nothing."""
    found = label_rates(right, true, chosen)
    iou = divide(right, true + chosen - right)
    found = {"iou": iou, "dice": found.pop("f1"), **found}
    return found


def beside_truth(task, x, labels, scores, threshold):
    """What is shown of a picture: it, its mask, what was predicted."""
    chosen = task.decide(scores, threshold)
    size = len(task.classes)
    chosen = np.where(labels == _none(task.ignore_class), size, chosen)
    image, parts = image_of(x), None
    if image is not None and image.shape[:2] == labels.shape:
        masks = [task.picture(image, mask) for mask in (labels, chosen)]
        parts = np.concatenate([image, *masks], axis=1)
    return {
        "true": task.plain(labels),
        "predicted": task.plain(chosen),
        "probability": None,
        "input": parts,
    }


def _pixel_weights(weight, labels):
    weight = np.asarray(weight, "float64")
    if weight.size != labels.size or not (weight >= 0).all():
        raise ValueError(
            "Weights of pixels must be one number for each pixel of the masks, "
            "none of them negative. Received: sample_weight of shape "
            f"{weight.shape} for masks of {labels.shape}"
        )
    return weight.reshape(labels.shape)


def _none(ignored):
    # No label is it.
    return np.iinfo("int64").min if ignored is None else ignored


def _margins(table):
    """Pixels that are right, true and predicted, by class."""
    right = np.diagonal(table, axis1=-2, axis2=-1)
    return right, table.sum(axis=-1), table.sum(axis=-2)


def _sums(scores, true, pixels):
    size = len(true)
    likely = np.take_along_axis(scores, true[..., None], axis=-1)[..., 0]
    loss = -np.log(np.clip(likely, _TINY, 1.0 - _TINY)) * pixels
    sure, right = scores.max(axis=-1), scores.argmax(axis=-1) == true
    rows = np.arange(size)[:, None, None] * NUM_BINS
    bins = (rows + bin_of(sure)).ravel()
    found = [pixels.reshape(size, -1).sum(1), loss.reshape(size, -1).sum(1)]
    parts = [
        np.bincount(bins, np.ravel(part * pixels), size * NUM_BINS)
        for part in (1.0, sure, right)
    ]
    return np.concatenate(
        [np.stack(found, 1), *(x.reshape(size, -1) for x in parts)], axis=1
    )
