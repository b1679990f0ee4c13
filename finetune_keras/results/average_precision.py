"""Mean average precision of boxes, as pycocotools computes it.

Boxes of all pictures are matched once; a function of the weights of the
pictures then gives the metrics, for the resamples of a bootstrap too.
"""

import numpy as np

from finetune_keras.data.overlaps import found, overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_BOXES = 100
# Numbers in one block of resamples.
_BLOCK = 2**22
_MOST_STEPS = 10**10


def detection_statistic(predictions, samples=1):
    """A function from weights (rows, pictures) to a dict of metrics."""
    ready = _matched(predictions)
    boxes = sum(len(each.images) for each in ready)
    if samples > 1 and boxes * samples * len(THRESHOLDS) > _MOST_STEPS:
        return lambda weights: {
            name: np.full(len(weights), np.nan)
            for name in ("map_50_95", "map_50")
        }

    def statistic(weights):
        each = np.stack([one.precisions(weights) for one in ready])
        # A class without a true box is left out.
        there = np.isfinite(each)
        count = there.sum(axis=0)
        means = np.where(there, each, 0.0).sum(axis=0)
        means = np.where(count, means, np.nan) / np.maximum(count, 1)
        return {"map_50_95": means.mean(axis=1), "map_50": means[:, 0]}

    return statistic


def score_each_class(predictions):
    """Dict from class to its number of true boxes and its precisions."""
    weight = predictions.sample_weight
    weight = np.ones(len(predictions)) if weight is None else weight
    table = {}
    for name, one in zip(
        predictions.classes, _matched(predictions), strict=True
    ):
        (row,) = one.precisions(weight[None])
        known = bool(np.isfinite(row).all())
        table[name] = {
            "n": int(one.true.sum()),
            "ap_50_95": float(row.mean()) if known else None,
            "ap_50": float(row[0]) if known else None,
        }
    return table


def _matched(predictions):
    return [
        _ClassBoxes(predictions.y_true, predictions.outputs, i)
        for i in range(len(predictions.classes))
    ]


class _ClassBoxes:
    """Predicted boxes of one class, by falling score, and which are right."""

    def __init__(self, y_true, outputs, place):
        pairs = zip(y_true, outputs, strict=True)
        rows = [_of_picture(*pair, place) for pair in pairs]
        scores = np.concatenate([row[0] for row in rows])
        order = np.argsort(-scores, kind="stable")
        counts = [len(row[0]) for row in rows]
        self.images = np.repeat(np.arange(len(rows)), counts)[order]
        self.right = np.concatenate([row[1] for row in rows], axis=1)[:, order]
        self.true = np.array([row[2] for row in rows], "float64")

    def precisions(self, weights):
        """Average precision (rows, thresholds), NaN without a true box."""
        size = max(1, _BLOCK // max(len(self.images), 1))
        parts = [
            self._block(weights[start : start + size])
            for start in range(0, len(weights), size)
        ]
        return np.concatenate(parts)

    def _block(self, weights):
        mine = weights[:, self.images]
        total, above = weights @ self.true, np.cumsum(mine, axis=1)
        found = np.stack(
            [
                self._at(mine, above, total, np.flatnonzero(right))
                for right in self.right
            ],
            axis=1,
        )
        return np.where(total[:, None] > 0, found, np.nan)

    def _at(self, mine, above, total, right):
        """Average precision of each row at one threshold."""
        if not len(right):
            return np.zeros(len(mine))
        hits = np.cumsum(mine[:, right], axis=1)
        precision = np.divide(
            hits, above[:, right], out=np.zeros_like(hits), where=hits > 0
        )
        # At each recall the best precision of this or a higher one.
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = hits / np.maximum(total, 1e-300)[:, None]
        pairs = zip(recall, best, strict=True)
        return np.array([_mean(*pair) for pair in pairs])


def _mean(recall, best):
    places = np.searchsorted(recall, _RECALLS, side="left")
    return np.append(best, 0.0)[np.minimum(places, len(best))].mean()


def _of_picture(true, predicted, place):
    """Scores, which are right at each threshold, and how many are true."""
    true = true[true[:, 4] == place, :4].astype("float64")
    mine = predicted[predicted[:, 4] == place].astype("float64")
    mine = mine[np.argsort(-mine[:, 5], kind="stable")[:_MOST_BOXES]]
    ious = overlaps(mine[:, :4], true)
    return mine[:, 5], found(ious, THRESHOLDS), len(true)
