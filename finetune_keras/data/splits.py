"""Training, validation and test: stratified, whole groups, no copies apart."""

import collections
import warnings

import numpy as np

from finetune_keras.arguments import check, part
from finetune_keras.engine.packages import sklearn

NAMES = ("train", "validation", "test")
_MOST_FOLDS = 20
_TOLERANCE = 0.01


def check_fractions(validation_split, test_split):
    """Returns the shares by split, or raises where they make no sense."""
    check(
        validation_split=(validation_split, part, "that of the examples"),
        test_split=(test_split, part, "that of the examples"),
    )
    if validation_split + test_split >= 1:
        raise ValueError(
            "Nothing is left to train on: `validation_split + test_split` "
            f"must be less than 1. Received: {validation_split} + {test_split}"
        )
    return {"validation": validation_split, "test": test_split}


def split_examples(strata, units, given, fractions, seed):
    """Finds the examples of each split: dict from its name to sorted indexes.

    `strata` are what to spread evenly; a unit is never divided; `given` are
    names of splits, and `"train"` what the missing ones are cut from.
    """
    given = np.asarray(given)
    parts = {name: np.flatnonzero(given == name) for name in NAMES}
    shares = {
        name: fractions[name]
        for name in ("test", "validation")
        if not len(parts[name]) and fractions[name] > 0
    }
    pool = parts["train"]
    if not len(pool):
        raise ValueError(
            "No example is left to train on. "
            f"Received: {len(given)} examples, none of them for training"
        )
    if shares:
        cut = _cut(strata[pool], units[pool], shares, seed)
        for name, places in cut.items():
            parts[name] = pool[places]
            parts["train"] = np.setdiff1d(parts["train"], parts[name])
    return parts


def merge_units(*keys):
    """Integers, equal where examples share any key; `None` joins nothing."""
    parents = list(range(len(keys[0])))

    def root(i):
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for column in keys:
        first = {}
        for i, key in enumerate(column):
            if key is not None:
                a, b = sorted((root(i), root(first.setdefault(key, i))))
                parents[b] = a
    return np.array([root(i) for i in range(len(parents))])


def find_duplicates(digests, parts):
    """Pairs of examples of equal content in different splits."""
    places = collections.defaultdict(dict)
    for name in NAMES:
        for i in parts[name]:
            places[digests[i]].setdefault(name, int(i))
    return [
        pair
        for found in places.values()
        if len(found) > 1
        for pair in _pairs(list(found.values()))
    ]


def straddling(groups, parts):
    """Groups that occur in more than one split."""
    seen = collections.Counter()
    for name in NAMES:
        seen.update({groups[i] for i in parts[name]} - {None})
    return sorted((g for g, n in seen.items() if n > 1), key=str)


def _pairs(indexes):
    return [(a, b) for i, a in enumerate(indexes) for b in indexes[i + 1 :]]


def _cut(strata, units, shares, seed):
    """Cuts each share of the examples off; returns places by split."""
    _, first, unit, sizes = np.unique(
        units, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) < len(shares) + 1:
        raise ValueError(
            f"{len(first)} groups cannot make {len(shares) + 1} splits. Pass "
            "more examples or groups, or set `validation_split` or "
            f"`test_split` to 0. Received: {len(units)} examples"
        )
    if _nearly_single(sizes):
        cut = _cut_single(strata[first], shares, seed)
    else:
        cut = _cut_groups(strata, unit, shares, seed)
    return {name: np.flatnonzero(np.isin(unit, u)) for name, u in cut.items()}


def _nearly_single(sizes):
    """Single examples and a few copies: counting units is exact enough."""
    return sizes.max() <= 0.02 * sizes.sum() and np.mean(sizes == 1) > 0.8


def _cut_single(strata, shares, seed):
    rest, cut = np.arange(len(strata)), {}
    for done, (name, share) in enumerate(shares.items()):
        spare = len(shares) - done
        count = min(max(round(share * len(strata)), 1), len(rest) - spare)
        cut[name] = _draw(strata, rest, count, seed)
        rest = np.setdiff1d(rest, cut[name])
    return cut


def _draw(strata, rest, count, seed):
    """Draws `count` of `rest`; the last of a class stays behind."""
    values, sizes = np.unique(strata[rest], return_counts=True)
    common = values[sizes > 1]
    pool = rest[np.isin(strata[rest], common)]
    if len(common) <= count <= len(pool) - len(common):
        _, drawn = sklearn.model_selection.train_test_split(
            pool, test_size=count, stratify=strata[pool], random_state=seed
        )
        return np.sort(drawn)
    # Fewer to draw than classes: any, but not all of a class if possible.
    order = np.random.default_rng(seed).permutation(rest)
    _, last = np.unique(strata[order], return_index=True)
    order = np.concatenate([np.delete(order, last), order[last]])
    return np.sort(order[:count])


def _cut_groups(strata, unit, shares, seed):
    if np.unique(strata, return_counts=True)[1].max() <= len(shares):
        strata = np.zeros_like(strata)
    folds = _number_of_folds(strata, unit, shares)
    splitter = sklearn.model_selection.StratifiedGroupKFold(
        folds, shuffle=True, random_state=seed
    )
    with warnings.catch_warnings():
        # Classes smaller than the number of folds are reported by us.
        warnings.simplefilter("ignore", UserWarning)
        parts = [test for _, test in splitter.split(unit, strata, unit)]
    # Folds may be empty where groups are large.
    parts = [np.unique(unit[part]) for part in parts if len(part)]
    cut = {}
    for done, (name, share) in enumerate(shares.items()):
        spare = len(shares) - done
        take = min(max(round(share * folds), 1), len(parts) - spare)
        cut[name] = np.concatenate([np.array([], int), *parts[:take]])
        parts = parts[take:]
    return cut


def _number_of_folds(strata, unit, shares):
    """The fewest folds of which the shares are nearly whole numbers."""
    largest = np.unique(strata, return_counts=True)[1].max()
    most = min(len(np.unique(unit)), largest, _MOST_FOLDS)
    fewest = min(len(shares) + 1, most)

    def error(folds):
        return max(abs(round(s * folds) / folds - s) for s in shares.values())

    folds = range(fewest, most + 1)
    good = [n for n in folds if error(n) <= _TOLERANCE]
    return good[0] if good else min(folds, key=error)
