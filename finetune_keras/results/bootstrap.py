"""Bootstrap resamples of all metrics at once.

A resample is a row of counts, how often each example was drawn: weights, of
which many rows are computed in one product.
"""

import numpy as np

from finetune_keras.results.formulas import statistic

_CHUNK = 2**18


def intervals(predictions, samples, seed):
    """95 % percentile intervals.

    A dict from the name of a metric to `[low, high]`, or to `None` where it is
    undefined in every resample or takes too long.
    """
    found = resample([predictions], samples, seed)[0]
    return {name: percentiles(values) for name, values in found.items()}


def percentiles(values):
    """2.5 and 97.5 percentiles of the defined values, or `None`."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return [float(value) for value in np.percentile(values, (2.5, 97.5))]


def resample(several, samples, seed):
    """Computes the metrics of several models on the same resamples.

    A list of dicts from the name of a metric to an array (samples,), NaN where
    it is undefined.
    """
    statistics = [statistic(p, samples) for p in several]
    found = [[] for _ in several]
    for drawn in draw(len(several[0]), samples, seed):
        counts = _counts(drawn)
        for p, measure, rows in zip(several, statistics, found, strict=True):
            weight = p.sample_weight
            rows.append(measure(counts if weight is None else counts * weight))
    return [
        {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        for rows in found
    ]


def draw(size, samples, seed):
    """Yields arrays of indices, one row a resample, a few rows at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // size)
    for start in range(0, samples, rows):
        yield generator.integers(size, size=(min(rows, samples - start), size))


def _counts(drawn):
    rows, size = drawn.shape
    flat = drawn + size * np.arange(rows)[:, None]
    counts = np.bincount(flat.ravel(), minlength=rows * size)
    return counts.reshape(rows, size).astype("float64")
