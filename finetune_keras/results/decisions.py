"""From probabilities to decisions: labels, abstentions, prediction sets."""

import numpy as np

from finetune_keras.engine.packages import scipy
from finetune_keras.results.temperature import confidence


class Decisions:
    """What a model decides on a batch of inputs.

    Of `probabilities` it makes `labels`, class numbers or rows of 0 and 1;
    `confidence`, floats in [0, 1]; `abstained`, booleans; and `sets`, of each
    input the class numbers that remain possible, or `None` without
    `conformal`. The thresholds and the activation of a calibration hold.
    """

    def __init__(self, probabilities, calibration=None, activation="softmax"):
        p = np.asarray(probabilities)
        settings = vars(calibration) if calibration is not None else {}
        if settings.get("activation", activation) == "sigmoid":
            thresholds = settings.get("thresholds") or [0.5] * p.shape[1]
            self.labels = (p > np.asarray(thresholds)).astype("int64")
        else:
            thresholds = None
            self.labels = p.argmax(-1)
        self.confidence = confidence(p, thresholds)
        floor = settings.get("abstain_below")
        floor = -np.inf if floor is None else floor
        self.abstained = self.confidence < floor
        at_least = settings.get("conformal")
        self.sets = None
        if at_least is not None:
            self.sets = [np.flatnonzero(row >= at_least) for row in p]

    def errors(self, labels):
        """Tells which decisions are wrong, in any label."""
        wrong = self.labels != labels
        return wrong if wrong.ndim == 1 else wrong.any(-1)


def decision_thresholds(probabilities, labels, metric):
    """Finds the threshold of each sigmoid that is best for a metric."""
    if labels.ndim == 1:
        raise ValueError(
            "`metric` tunes the thresholds of sigmoids. A softmax gives the "
            "class of the greatest probability, without one. "
            f"Received: metric={metric!r}"
        )
    columns = zip(probabilities.T, labels.T, strict=True)
    return [_best_threshold(p, y, metric) for p, y in columns]


def _best_threshold(p, y, metric):
    order = np.argsort(-p, kind="stable")
    p, y = p[order].astype("float64"), y[order]
    # After each distinct value: what lies above is called positive.
    last = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    true = np.append(0, np.cumsum(y)[last])
    called = np.append(0, last + 1)
    positives, negatives = y.sum(), len(y) - y.sum()
    false = called - true
    scores = {
        "f1": 2 * true / np.maximum(called + positives, 1),
        "balanced_accuracy": true / max(positives, 1)
        + (negatives - false) / max(negatives, 1),
        "accuracy": true + negatives - false,
    }[metric]
    best = int(np.argmax(scores))
    edges = np.concatenate([[1.0], p[last], [0.0]])
    # Halfway, so that it holds for new values too.
    middle = (edges[best] + edges[best + 1]) / 2
    return float(np.clip(middle, 1e-6, 1 - 1e-6))


def abstention_threshold(probabilities, labels, calibration, coverage, error):
    """Finds the confidence below which to abstain.

    It decides on a share `coverage`, or errs at most on a share `error`.
    """
    decisions = Decisions(probabilities, calibration)
    sure = decisions.confidence
    if error is None:
        return float(np.quantile(sure, 1 - coverage, method="lower"))
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum(decisions.errors(labels)[order])
    count = np.arange(1, len(sure) + 1)
    # A binary search needs few looks, and each spends of the 5 % of doubt.
    looks = max(int(np.ceil(np.log2(len(sure)))), 1)
    low, high, best = 0, len(sure), None
    for _ in range(looks):
        middle = (low + high) // 2
        bound = _upper_bound(wrong[middle], count[middle], 0.05 / looks)
        if bound <= error:
            best, low = middle, middle + 1
        else:
            high = middle
        if low >= high:
            break
    if best is None:
        lowest = _upper_bound(wrong[0] * 0, len(sure), 0.05 / looks)
        raise ValueError(
            f"An error of at most {error} cannot be promised on these data: "
            f"with {len(sure)} examples and no error at all it would be "
            f"{lowest:.3f}. Pass more validation data, a greater `error`, or "
            f"`coverage`. Received: error={error}"
        )
    return float(sure[order[best]])


def _upper_bound(wrong, count, doubt):
    """The highest rate that goes with so few errors (Clopper-Pearson)."""
    if wrong >= count:
        return 1.0
    return float(scipy.stats.beta.ppf(1 - doubt, wrong + 1, count - wrong))


def conformal_threshold(probabilities, labels, level):
    """Finds the probability from which on a class is in the prediction set.

    The sets are to hold the true class in a share `level` of cases.
    """
    if labels.ndim != 1:
        raise ValueError(
            "Prediction sets are for classes that exclude each other, of a "
            f"softmax. Received: conformal={level}"
        )
    true = np.sort(probabilities[np.arange(len(labels)), labels])
    rank = int(np.floor((len(true) + 1) * (1 - level)))
    if rank < 1:
        raise ValueError(
            f"Sets that hold the true class in {level:.0%} of cases need at "
            f"least {int(np.ceil(level / (1 - level)))} examples. "
            f"Received: {len(true)}"
        )
    return float(true[rank - 1])
