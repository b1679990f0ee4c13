"""Metrics of outcomes: of all, of each class, of the sure and the unsure."""

import numpy as np

from finetune_keras.results.formulas import (
    NUM_BINS,
    bin_of,
    statistic,
    top_label,
)
from finetune_keras.results.outcomes import Outcomes

LOWER_IS_BETTER = ("log_loss", "ece", "brier", "hamming_loss", "mae", "rmse")
# What a verdict is about, and what tables of slices show first.
MAIN_METRIC = {
    "classification": "accuracy",
    "multi_label": "f1_micro",
    "regression": "rmse",
}


def score(predictions):
    """Dict from metric to float, `None` where the data leave it undefined."""
    weight = predictions.sample_weight
    weight = np.ones(len(predictions)) if weight is None else weight
    with np.errstate(invalid="ignore"):
        # A slice may have no weight at all.
        found = statistic(predictions)(np.asarray(weight, "float64")[None])
    found = {name: float(values[0]) for name, values in found.items()}
    if _lack_areas(predictions):
        found.update(roc_auc=None, pr_auc=None)
    return {
        name: None if value is None or not np.isfinite(value) else value
        for name, value in found.items()
    }


def _lack_areas(predictions):
    """Whether a class has no area, and so the mean of them no meaning."""
    if not predictions.task.has_chances:
        return False
    areas = predictions.areas
    areas = areas[1:] if _is_binary(predictions) else areas
    return any(None in pair for pair in areas)


def _is_binary(predictions):
    count = len(predictions.classes)
    return predictions.task == "classification" and count == 2


def score_each_class(predictions):
    """Dict from class, label or value to its number `n` and its metrics.

    It is empty for a regression of one value.
    """
    if not predictions.task.has_chances:
        return _each_value(predictions)
    from sklearn.metrics import precision_recall_fscore_support

    classes = predictions.classes
    rates = precision_recall_fscore_support(
        **_table(predictions),
        sample_weight=predictions.sample_weight,
        zero_division=0,
    )
    areas, counts = predictions.areas, predictions.membership.sum(axis=0)
    names = ("precision", "recall", "f1")
    return {
        name: {
            "n": int(counts[i]),
            **{k: float(v[i]) for k, v in zip(names, rates, strict=False)},
            "roc_auc": areas[i][0],
            "pr_auc": areas[i][1],
        }
        for i, name in enumerate(classes)
    }


def confusion(predictions):
    """Integer array of counts, rows true and columns predicted, or `None`."""
    if predictions.task != "classification":
        return None
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(**_table(predictions))


def calibration_bins(predictions, num_bins=NUM_BINS):
    """Sorts examples by the confidence of their top class.

    A dict of arrays (num_bins,): `weight`, sums, and `confidence` and
    `accuracy`, weighted means.
    """
    confidence, correct = top_label(predictions)
    bins = bin_of(confidence, num_bins)
    weight = predictions.sample_weight
    weight = np.ones(len(bins)) if weight is None else weight
    total, sure, right = (
        np.bincount(bins, weight * part, minlength=num_bins)
        for part in (1.0, confidence, correct)
    )
    filled = np.where(total > 0, total, 1.0)
    return {
        "weight": total,
        "confidence": sure / filled,
        "accuracy": right / filled,
    }


def _each_value(predictions):
    if len(predictions.classes) == 1:
        return {}
    task, weight = type(predictions.task), predictions.sample_weight
    found = {}
    for i, name in enumerate(predictions.classes):
        y, values = predictions.y_true[:, [i]], predictions.outputs[:, [i]]
        one = Outcomes(y, values, task([name], 1), sample_weight=weight)
        found[name] = {"n": len(one), **score(one)}
    return found


def _table(predictions):
    """Labels and predictions as scikit-learn reads them, with all classes."""
    y, y_pred = predictions.y_true, predictions.y_pred
    labels = range(len(predictions.classes))
    if predictions.task == "multi_label" and len(labels) == 1:
        # One column is a binary problem to it, of which 1 is the label.
        y, y_pred, labels = y[:, 0], y_pred[:, 0], [1]
    return {"y_true": y, "y_pred": y_pred, "labels": list(labels)}
