"""Metrics of outcomes: of all, of each class, of the sure and the unsure."""

import numpy as np

from finetune_keras.engine.packages import sklearn
from finetune_keras.results.average_precision import (
    score_each_class as score_boxes,
)
from finetune_keras.results.formulas import (
    NUM_BINS,
    bin_of,
    label_rates,
    statistic,
    top_label,
)
from finetune_keras.results.outcomes import Outcomes

LOWER_IS_BETTER = (
    "log_loss",
    "ece",
    "brier",
    "hamming_loss",
    "mae",
    "rmse",
    "perplexity",
    "word_error_rate",
)


def score(predictions):
    """Dict from metric to float, `None` where the data leave it undefined."""
    with np.errstate(invalid="ignore"):
        # A slice may have no weight at all.
        found = statistic(predictions)(_weight(predictions)[None])
    found = {name: float(values[0]) for name, values in found.items()}
    if _lack_areas(predictions):
        found.update(roc_auc=None, pr_auc=None)
    return {
        name: None if value is None or not np.isfinite(value) else value
        for name, value in found.items()
    }


def _lack_areas(predictions):
    """Whether a class has no area, and so the mean of them no meaning."""
    if not predictions.task.has_chances or predictions.task.is_dense:
        return False
    areas = predictions.areas
    areas = areas[1:] if _is_binary(predictions) else areas
    return any(None in pair for pair in areas)


def _is_binary(predictions):
    count = len(predictions.classes)
    return predictions.task == "classification" and count == 2


def score_each_class(predictions):
    """Dict from class, label or value to its number `n` and its metrics.

    It is empty for a regression of one value, and for texts.
    """
    if predictions.task == "detection":
        return score_boxes(predictions)
    if not predictions.task.has_chances:
        return _each_value(predictions)
    if predictions.task.is_dense:
        return predictions.each_class()
    true = predictions.membership
    chosen = predictions.task.members(predictions.y_pred)
    weight = _weight(predictions)
    sums = (weight @ part for part in (true & chosen, true, chosen))
    rates, areas = label_rates(*sums), predictions.areas
    return {
        name: {
            "n": int(true[:, i].sum()),
            **{key: float(values[i]) for key, values in rates.items()},
            "roc_auc": areas[i][0],
            "pr_auc": areas[i][1],
        }
        for i, name in enumerate(predictions.classes)
    }


def confusion(predictions):
    """Integer array of counts, rows true and columns predicted, or `None`."""
    if predictions.task.is_dense:
        return predictions.confusion()
    if predictions.task != "classification":
        return None
    labels = range(len(predictions.classes))
    return sklearn.metrics.confusion_matrix(
        predictions.y_true, predictions.y_pred, labels=list(labels)
    )


def calibration_bins(predictions):
    """Sorts examples by the confidence of their top class.

    A dict of arrays (NUM_BINS,): `weight`, sums, and `confidence` and
    `accuracy`, weighted means.
    """
    if predictions.task.is_dense:
        return predictions.calibration_bins()
    confidence, correct = top_label(predictions)
    bins, weight = bin_of(confidence), _weight(predictions)
    total, sure, right = (
        np.bincount(bins, weight * part, minlength=NUM_BINS)
        for part in (1.0, confidence, correct)
    )
    filled = np.where(total > 0, total, 1.0)
    return {
        "weight": total,
        "confidence": sure / filled,
        "accuracy": right / filled,
    }


def _each_value(predictions):
    if len(predictions.classes) < 2 or predictions.task.is_compared:
        return {}
    task, weight = type(predictions.task), predictions.sample_weight
    found = {}
    for i, name in enumerate(predictions.classes):
        y, values = predictions.y_true[:, [i]], predictions.outputs[:, [i]]
        one = Outcomes(y, values, task([name], 1), sample_weight=weight)
        found[name] = {"n": len(one), **score(one)}
    return found


def _weight(predictions):
    weight = predictions.sample_weight
    return np.ones(len(predictions)) if weight is None else weight
