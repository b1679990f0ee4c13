"""What a search with vectors finds: recall, reciprocal rank, nDCG."""

import numpy as np

from finetune_keras.data.labels import as_rows
from finetune_keras.data.outputs import as_columns
from finetune_keras.data.vectors import METRICS, Vectors
from finetune_keras.results.outcomes import Outcomes

# Similarities that are held at a time.
_MOST = 2**24


def search_pairs(model, data, batch_size, verbose):
    """`(outcomes, queries)` of a search from each anchor."""
    queries, documents, relevant = data.search()
    vectors = [
        as_columns(model.predict(x, batch_size=batch_size, verbose=verbose))
        for x in (queries, documents)
    ]

    def rows(start, stop):
        found = np.zeros((stop - start, len(documents)), bool)
        for row, places in zip(found, relevant[start:stop], strict=True):
            row[places] = True
        return found, None

    return _outcomes(*vectors, rows), queries


def search_groups(vectors, labels, weight=None):
    """`(outcomes, places)` of a search from each input of a group.

    It looks among all others for those of its group; who has none asks not.
    """
    vectors, labels = as_columns(vectors), as_rows(labels)
    labels = labels.argmax(axis=1) if labels.ndim == 2 else labels
    _, groups = np.unique(labels.astype(str), return_inverse=True)
    asks = np.flatnonzero(np.bincount(groups)[groups] > 1)
    if not len(asks):
        raise ValueError(
            "No two inputs of `data` have the same label, so there is nothing "
            f"to look for. Received: {len(labels)} inputs of a group each"
        )

    def rows(start, stop):
        own = asks[start:stop]
        return groups[own][:, None] == groups, own

    found = _outcomes(vectors[asks], vectors, rows)
    found.sample_weight = None if weight is None else weight[asks]
    return found, asks


def _outcomes(queries, documents, rows):
    queries, documents = _units(queries), _units(documents)
    step, reached, best = max(1, _MOST // len(documents)), [], []
    for start in range(0, len(queries), step):
        stop = min(start + step, len(queries))
        relevant, own = rows(start, stop)
        cosines = queries[start:stop] @ documents.T
        one, most = score_search(cosines, relevant, own)
        reached.append(one)
        best.append(most)
    outputs = np.concatenate(reached).astype("float32")
    task = Vectors(list(METRICS), len(METRICS))
    return Outcomes(np.concatenate(best), outputs, task)


def _units(vectors):
    vectors = vectors.astype("float64")
    if not np.isfinite(vectors).all():
        bad = int(np.count_nonzero(~np.isfinite(vectors).all(axis=1)))
        raise ValueError(
            "The model gives NaN or infinity. Look at its weights and at "
            f"these inputs. Received: {bad} such of {len(vectors)} vectors"
        )
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    # So exact that copies are equally near.
    return (vectors / np.maximum(length, 1e-12)).astype("float32")


def score_search(cosines, relevant, own=None):
    """`(reached, best)`: the metrics of each query, and the most they can be.

    `cosines` and `relevant` have a row for each query, `own` its own place.
    Of equally near ones those that are not relevant come first.
    """
    size, cosines = cosines.shape[1], np.round(cosines, 6)
    if own is not None:
        rows = np.arange(len(own))
        cosines[rows, own], relevant[rows, own] = -np.inf, False
    hits = _first(relevant, np.where(relevant, 5e-7, 0.0) - cosines)
    count = relevant.sum(axis=1)
    nearest = np.where(relevant, cosines, -np.inf).max(axis=1, keepdims=True)
    before = ((cosines >= nearest) & ~relevant).sum(axis=1)
    gains = 1.0 / np.log2(np.arange(2, min(size, 10) + 2))
    ideal = np.cumsum(gains)[np.minimum(count, len(gains)) - 1]
    reached = [hits[:, 0]]
    reached += [hits[:, :k].sum(axis=1) / count for k in (1, 5, 10)]
    reached += [1.0 / (before + 1), hits @ gains / ideal]
    ones = np.ones(len(count))
    best = [ones, *(np.minimum(k, count) / count for k in (1, 5, 10))]
    return np.stack(reached, axis=1), np.stack([*best, ones, ones], axis=1)


def _first(relevant, distances):
    """Which of the ten nearest of each query are relevant, in their order."""
    most = min(10, distances.shape[1])
    near = np.argpartition(distances, most - 1, axis=1)[:, :most]
    found = np.take_along_axis(distances, near, axis=1)
    near = np.take_along_axis(near, np.argsort(found, axis=1), axis=1)
    return np.take_along_axis(relevant, near, axis=1)
