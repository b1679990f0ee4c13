"""Metrics as functions of the weights of the examples.

The formulas are those of scikit-learn, whose functions take one weighting at a
time, and would take a hundred times as long for the resamples of a bootstrap.
"""

import numpy as np

from finetune_keras.engine.packages import scipy
from finetune_keras.results.average_precision import detection_statistic

NUM_BINS = 15
# Lengths of lists that are judged of four times as many classes.
_TOP = (5, 10)
# Sorting, gathering and adding up this many numbers takes some seconds.
_MOST_AREA_STEPS = 2 * 10**9


def statistic(predictions, samples=1):
    """A function from weights (rows, examples) to a dict of metrics (rows,).

    It is to be called on so many rows in all; NaN is what is undefined.
    """
    return _STATISTICS[predictions.task](predictions, samples)


def top_label(predictions):
    """Confidence of the most probable class, and whether it is the true one."""
    scores = predictions.scores
    return scores.max(axis=1), scores.argmax(axis=1) == predictions.y_true


def bin_of(confidence):
    """Index of the bin; bins are open below and closed above."""
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
    found = np.searchsorted(edges, confidence, side="left") - 1
    return np.clip(found, 0, NUM_BINS - 1)


def _brier_losses(predictions):
    """Squared distance of each example, halved for two classes.

    It is scikit-learn's `brier_score_loss`, which cannot take data that lack
    a class.
    """
    squares = (predictions.scores - predictions.membership) ** 2
    share = 0.5 if len(predictions.classes) == 2 else 1.0
    return share * squares.sum(axis=1)


def _classification(predictions, samples):
    size, count = len(predictions), len(predictions.classes)
    rows = np.arange(size)

    def one_hot(columns, values, width):
        return scipy.sparse.csr_array((values, (rows, columns)), (size, width))

    ones = np.ones(size)
    true = one_hot(predictions.y_true, ones, count)
    chosen = one_hot(predictions.y_pred, ones, count)
    right = one_hot(
        predictions.y_true, predictions.correct.astype("float64"), count
    )
    confidence, top = top_label(predictions)
    bins = one_hot(bin_of(confidence), confidence - top, NUM_BINS)
    means = np.stack([predictions.losses, _brier_losses(predictions)], 1)
    columns = [1] if count == 2 else range(count)
    areas = _areas(predictions, columns, samples)
    in_top = _in_top(predictions)

    def statistic(weights):
        total = weights.sum(axis=1)
        log_loss, brier = (weights @ means / total[:, None]).T
        return {
            **_rates(weights @ right, weights @ true, weights @ chosen),
            **{name: weights @ one / total for name, one in in_top.items()},
            **areas(weights),
            "log_loss": log_loss,
            "brier": brier,
            "ece": abs(weights @ bins).sum(axis=1) / total,
        }

    return statistic


def _in_top(predictions):
    """Whether the true class is among the first ones, by names of metrics.

    Of equally probable classes the true one comes last: that all have the
    same probability is no answer.
    """
    scores = predictions.scores
    own = np.take_along_axis(scores, predictions.y_true[:, None], axis=1)
    place = (scores >= own).sum(axis=1)
    return {
        f"top_{k}_accuracy": (place <= k).astype("float64")
        for k in _TOP
        if scores.shape[1] >= 4 * k
    }


def _rates(right, true, chosen):
    """Accuracy and what follows from sums by class, (resamples, classes)."""
    total = true.sum(axis=1)
    each = label_rates(right, true, chosen)
    seen = (true + chosen) > 0
    found = {
        "accuracy": right.sum(axis=1) / total,
        "balanced_accuracy": each["recall"].sum(axis=1)
        / (true > 0).sum(axis=1),
    }
    for name, values in each.items():
        # A class that is neither true nor chosen has a value of zero.
        found[f"{name}_macro"] = values.sum(axis=1) / seen.sum(axis=1)
    for name, values in each.items():
        found[f"{name}_weighted"] = (values * true).sum(axis=1) / total
    return found


def _multi_label(predictions, samples):
    true = (predictions.y_true == 1).astype("float64")
    chosen = (predictions.y_pred == 1).astype("float64")
    means = np.stack(
        [
            predictions.correct,
            (true != chosen).mean(axis=1),
            predictions.losses,
        ],
        axis=1,
    )
    areas = _areas(predictions, range(true.shape[1]), samples)

    def statistic(weights):
        subset, hamming, log_loss = (
            weights @ means / weights.sum(axis=1, keepdims=True)
        ).T
        sums = weights @ (true * chosen), weights @ true, weights @ chosen
        micro = [part.sum(axis=1, keepdims=True) for part in sums]
        found = {"subset_accuracy": subset, "hamming_loss": hamming}
        for average, parts in (("micro", micro), ("macro", sums)):
            for name, values in label_rates(*parts).items():
                found[f"{name}_{average}"] = values.mean(axis=1)
        return {**found, **areas(weights), "log_loss": log_loss}

    return statistic


def label_rates(right, true, chosen):
    return {
        "precision": divide(right, chosen),
        "recall": divide(right, true),
        "f1": divide(2.0 * right, true + chosen),
    }


def _regression(predictions, samples):
    error = predictions.y_pred - predictions.y_true
    # Sums of squares keep their digits only near zero.
    centred = predictions.y_true - predictions.y_true.mean(axis=0)

    def statistic(weights):
        shares = weights / weights.sum(axis=1, keepdims=True)
        squares = shares @ error**2
        spread = shares @ centred**2 - (shares @ centred) ** 2
        constant = spread <= 1e-12 * (centred**2).mean(axis=0)
        r2 = 1.0 - squares / np.where(constant, np.nan, spread)
        return {
            "mae": (shares @ abs(error)).mean(axis=1),
            "rmse": np.sqrt(squares).mean(axis=1),
            "r2": r2.mean(axis=1),
        }

    return statistic


def _means(predictions, samples):
    """Means over queries of what a search from each has reached."""

    def statistic(weights):
        means = weights @ predictions.scores
        means = (means / weights.sum(axis=1, keepdims=True)).T
        return dict(zip(predictions.classes, means, strict=True))

    return statistic


def _generation(predictions, samples):
    losses, tokens, *columns = predictions.outputs.T
    words = predictions.words

    def statistic(weights):
        total = weights.sum(axis=1)
        rows = zip(predictions.measures, columns, strict=True)
        found = {
            "perplexity": np.exp((weights @ losses) / (weights @ tokens)),
            **{name: weights @ column / total for name, column in rows},
        }
        if "word_error_rate" in found:
            said = weights @ words
            found["word_error_rate"] *= total / np.where(said, said, np.nan)
        return found

    return statistic


def _areas(predictions, columns, samples):
    """Returns a function from weights to the mean ROC-AUC and PR-AUC."""
    if len(predictions) * len(columns) * samples > _MOST_AREA_STEPS:
        return lambda weights: {
            name: np.full(len(weights), np.nan)
            for name in ("roc_auc", "pr_auc")
        }
    member = predictions.membership
    ready = [_ranked(member[:, i], predictions.scores[:, i]) for i in columns]

    def statistic(weights):
        pairs = np.array([_areas_of(weights, *one) for one in ready])
        # A class that a resample has not is left out of its mean.
        defined = np.isfinite(pairs)
        sums = np.where(defined, pairs, 0.0).sum(axis=0)
        count = defined.sum(axis=0)
        roc, pr = np.where(count, sums, np.nan) / np.maximum(count, 1)
        return {"roc_auc": roc, "pr_auc": pr}

    return statistic


def _ranked(true, scores):
    """Order by falling score, and what each positive example needs of it."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    positive = np.flatnonzero(true[order])
    # Equal scores are one threshold: from the first to the last of them.
    first = np.searchsorted(-ranked, -ranked[positive], side="left")
    last = np.searchsorted(-ranked, -ranked[positive], side="right")
    start = np.searchsorted(positive, first)
    stop = np.searchsorted(positive, last)
    return order, positive, first, last, start, stop


def _areas_of(weights, order, positive, first, last, start, stop):
    """ROC-AUC and average precision of one class in each resample."""
    ordered = weights[:, order]
    all_above = _running_sum(ordered)
    mine = ordered[:, positive]
    mine_above = _running_sum(mine)
    gained, lost = mine_above[:, start], mine_above[:, stop]
    better = all_above[:, first] - gained
    level = all_above[:, last] - lost - better
    share = mine / _nan_for_zero(mine_above[:, -1:])
    negative = all_above[:, -1:] - mine_above[:, -1:]
    behind = (better + 0.5 * level) / _nan_for_zero(negative)
    precision = divide(lost, all_above[:, last])
    # Without negatives average precision is defined, and of no use.
    undefined = np.where(negative[:, 0] > 0, 0.0, np.nan)
    roc = 1.0 - (share * behind).sum(axis=1)
    return roc, (share * precision).sum(axis=1) + undefined


def _running_sum(values):
    """Sums of the columns before each, from none to all."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def divide(numerator, denominator):
    return np.divide(
        numerator,
        denominator,
        out=np.zeros_like(numerator),
        where=denominator > 0,
    )


def _nan_for_zero(values):
    return np.where(values > 0, values, np.nan)


_STATISTICS = {
    "classification": _classification,
    "multi_label": _multi_label,
    "regression": _regression,
    "segmentation": lambda predictions, samples: predictions.statistic(),
    "detection": detection_statistic,
    "vectors": _means,
    "text_generation": _generation,
}
