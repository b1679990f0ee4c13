"""Metrics of predictions, by scikit-learn where it has them."""

import warnings

import numpy as np

NUM_BINS = 15
LOWER_IS_BETTER = ("log_loss", "ece", "brier", "hamming_loss", "mae", "rmse")
# What a verdict is about, and what tables of slices show first.
MAIN_METRIC = {
    "classification": "accuracy",
    "multi_label": "f1_micro",
    "regression": "rmse",
}


def score(predictions):
    """Computes the scalar metrics of a `Predictions`.

    Returns:
        Dict from name to float, or to `None` where the data leave the metric
        undefined.
    """
    with warnings.catch_warnings():
        # Classes that are predicted and never true are no news here.
        warnings.filterwarnings("ignore", category=UserWarning)
        found = _SCORES[predictions.task](predictions)
    return {name: _defined(value) for name, value in found.items()}


def score_each_class(predictions):
    """Computes metrics for each class, label, or regressed value.

    Returns:
        Dict from name to a dict with `n`, the number of examples, and the
        metrics. Empty for a regression of one value.
    """
    if predictions.task == "regression":
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

    Returns:
        Dict of arrays: `bin` (n,) the index of the bin of each example,
        `weight`, `confidence` and `accuracy`, (num_bins,) sums of weights and
        weighted means.
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
        "bin": bins,
        "weight": total,
        "confidence": sure / filled,
        "accuracy": right / filled,
    }


def top_label(predictions):
    """Confidence of the most probable class, and whether it is the true one."""
    scores = predictions.scores
    return scores.max(axis=1), scores.argmax(axis=1) == predictions.y_true


def bin_of(confidence, num_bins=NUM_BINS):
    """Index of the bin; bins are open below and closed above."""
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    found = np.searchsorted(edges, confidence, side="left") - 1
    return np.clip(found, 0, num_bins - 1)


def ece(predictions):
    """Expected calibration error of the top class.

    Reference:
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599)
    """
    bins = calibration_bins(predictions)
    gaps = abs(bins["accuracy"] - bins["confidence"])
    return float((bins["weight"] * gaps).sum() / bins["weight"].sum())


def _classification(predictions):
    from sklearn import metrics

    y, y_pred = predictions.y_true, predictions.y_pred
    weight = {"sample_weight": predictions.sample_weight}
    rates = {}
    for average in ("macro", "weighted"):
        three = metrics.precision_recall_fscore_support(
            y, y_pred, average=average, zero_division=0, **weight
        )[:3]
        names = (f"{name}_{average}" for name in ("precision", "recall", "f1"))
        rates.update(zip(names, three, strict=True))
    probabilities = predictions.scores
    labels = range(len(predictions.classes))
    binary = len(labels) == 2
    return {
        "accuracy": metrics.accuracy_score(y, y_pred, **weight),
        "balanced_accuracy": metrics.balanced_accuracy_score(
            y, y_pred, **weight
        ),
        **rates,
        **_mean_areas(predictions, [1] if binary else labels),
        "log_loss": metrics.log_loss(
            y, probabilities, labels=list(labels), **weight
        ),
        "brier": _brier(predictions),
        "ece": ece(predictions),
    }


def _brier(predictions):
    squares = brier_losses(predictions)
    return np.average(squares, weights=predictions.sample_weight)


def brier_losses(predictions):
    """Squared distance of each example, halved for two classes.

    It is scikit-learn's `brier_score_loss`, which cannot take data that lack
    a class.
    """
    squares = (predictions.scores - predictions.membership) ** 2
    share = 0.5 if len(predictions.classes) == 2 else 1.0
    return share * squares.sum(axis=1)


def _mean_areas(predictions, columns):
    pairs = [predictions.areas[i] for i in columns]
    found = {}
    for i, name in enumerate(("roc_auc", "pr_auc")):
        values = [pair[i] for pair in pairs]
        found[name] = None if None in values else np.mean(values)
    return found


def _multi_label(predictions):
    from sklearn import metrics

    y, y_pred = predictions.y_true, predictions.y_pred
    weight = predictions.sample_weight
    found = {
        "subset_accuracy": np.average(predictions.correct, weights=weight),
        "hamming_loss": np.average((y != y_pred).mean(axis=1), weights=weight),
    }
    for average in ("micro", "macro"):
        three = metrics.precision_recall_fscore_support(
            **_table(predictions),
            average=average,
            sample_weight=weight,
            zero_division=0,
        )[:3]
        names = (f"{name}_{average}" for name in ("precision", "recall", "f1"))
        found.update(zip(names, three, strict=True))
    found.update(_mean_areas(predictions, range(y.shape[1])))
    found["log_loss"] = np.average(predictions.losses, weights=weight)
    return found


def _table(predictions):
    """Labels and predictions as scikit-learn reads them, with all classes."""
    y, y_pred = predictions.y_true, predictions.y_pred
    labels = range(len(predictions.classes))
    if predictions.task == "multi_label" and len(labels) == 1:
        # One column is a binary problem to it, of which 1 is the label.
        y, y_pred, labels = y[:, 0], y_pred[:, 0], [1]
    return {"y_true": y, "y_pred": y_pred, "labels": list(labels)}


def _regression(predictions):
    from sklearn import metrics

    y, y_pred = predictions.y_true, predictions.y_pred
    weight = {"sample_weight": predictions.sample_weight}
    constant = len(y) < 2 or (y == y[:1]).all(axis=0).any()
    return {
        "mae": metrics.mean_absolute_error(y, y_pred, **weight),
        "rmse": metrics.root_mean_squared_error(y, y_pred, **weight),
        "r2": None if constant else metrics.r2_score(y, y_pred, **weight),
    }


def _each_value(predictions):
    if len(predictions.classes) == 1:
        return {}
    from finetune_keras.results.predictions import Predictions

    return {
        name: {
            "n": len(predictions),
            **score(
                Predictions(
                    predictions.y_true[:, [i]],
                    predictions.outputs[:, [i]],
                    "regression",
                    [name],
                    sample_weight=predictions.sample_weight,
                )
            ),
        }
        for i, name in enumerate(predictions.classes)
    }


def _defined(value):
    return None if value is None or not np.isfinite(value) else float(value)


_SCORES = {
    "classification": _classification,
    "multi_label": _multi_label,
    "regression": _regression,
}
