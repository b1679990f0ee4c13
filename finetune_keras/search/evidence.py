"""What speaks for and against the examples of a data set, in one pass."""

import keras
import numpy as np

from finetune_keras.data.near_copies import fingerprints, has_detail
from finetune_keras.engine.packages import sklearn
from finetune_keras.search.candidates import (
    Candidate,
    filled,
    no_word_of_traces,
)
from finetune_keras.training.linear_probe import MOST_ROWS, solve_probe

_NEIGHBORS = 50


def look(data, named, batch_size, verbose):
    """One pass: features, labels, and fingerprints or texts, if any."""
    count, candidate = len(data.names), None
    bar = keras.utils.Progbar(count) if verbose else None
    labels, prints, texts = [], [], []
    for start in range(0, count, batch_size):
        places = np.arange(start, min(start + batch_size, count))
        x, y = data.examples(places)
        if isinstance(x, dict):
            raise ValueError(
                "Images, texts or rows of numbers are compared, and this is a "
                "table with columns of several kinds. "
                f"Received: data with columns {list(data.kinds)}"
            )
        candidate = candidate or Candidate(*named, x)
        with no_word_of_traces():
            candidate.read(filled(x, min(batch_size, count)), len(y))
        labels.append(y)
        if x.dtype.kind in "OSU":
            texts += list(x)
        elif has_detail(x):
            prints.append(fingerprints(x))
        if bar is not None:
            bar.update(int(places[-1]) + 1)
    return (
        candidate.features(np.arange(count)),
        np.concatenate(labels),
        np.concatenate(prints) if prints else None,
        texts or None,
    )


def left_out(features, columns, loss, seed):
    """Outputs for each example by a head that was solved without it."""
    order = np.random.default_rng(seed).permutation(len(features))
    outputs = np.zeros(columns.shape)
    for rows in np.array_split(order, -(-len(order) // MOST_ROWS)):
        probe = solve_probe(features[rows], columns[rows], loss, seed=seed)
        outputs[rows] = probe.left_out
    return outputs


def margins(y, chances):
    """By how much the likeliest class leads, and that of the two that is not
    the label."""
    order = chances.argsort(axis=1)
    first, second = order[:, -1], order[:, -2]
    rows = np.arange(len(y))
    margins = chances[rows, first] - chances[rows, second]
    return margins, np.where(first == y, second, first)


def distances(features):
    """Local outlier factors, in robust standard deviations over the median."""
    # Equal ones would be infinitely dense.
    different, places = np.unique(features, axis=0, return_inverse=True)
    neighbors = min(_NEIGHBORS, len(different) // 4)
    if neighbors < 2:
        return np.zeros(len(features))
    found = sklearn.neighbors.LocalOutlierFactor(
        neighbors, metric="cosine"
    ).fit(different)
    factors = -found.negative_outlier_factor_
    middle = np.median(factors)
    spread = 1.4826 * np.median(np.abs(factors - middle))
    return ((factors - middle) / max(spread, 1e-3))[places.ravel()]
