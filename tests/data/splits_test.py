import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_keras.data.splits import (
    find_duplicates,
    merge_units,
    split_examples,
    straddling,
)
from finetune_keras.data.task import Task

FRACTIONS = {"validation": 0.15, "test": 0.15}


def split(y, units=None, given=None, fractions=FRACTIONS, seed=0, task=None):
    y = np.asarray(y)
    count = len(y)
    units = np.arange(count) if units is None else np.asarray(units)
    given = ["train"] * count if given is None else given
    task = task or "classification"
    strata = Task.named(task).strata(y)
    return split_examples(strata, units, given, fractions, seed)


def shares(y, parts, value):
    return [np.mean(y[part] == value) for part in parts.values()]


def test_classes_have_their_share_in_each_split():
    y = np.array([0] * 700 + [1] * 200 + [2] * 100)
    parts = split(y)
    assert [len(p) for p in parts.values()] == [700, 150, 150]
    for value, share in enumerate((0.7, 0.2, 0.1)):
        np.testing.assert_allclose(shares(y, parts, value), share, atol=0.01)


def test_rare_labels_have_their_share():
    rng = np.random.default_rng(0)
    y = (rng.random((600, 4)) < (0.6, 0.4, 0.1, 0.05)).astype("float32")
    parts = split(y, task="multi_label")
    for part in parts.values():
        np.testing.assert_allclose(
            y[part, 3].mean(), y[:, 3].mean(), atol=0.012
        )


def test_values_have_the_same_spread():
    y = np.random.default_rng(0).lognormal(size=800)
    parts = split(y, task="regression")
    for part in parts.values():
        quartiles = np.quantile(y[part], (0.25, 0.5, 0.75))
        expected = np.quantile(y, (0.25, 0.5, 0.75))
        np.testing.assert_allclose(quartiles, expected, rtol=0.12)


def test_groups_are_stratified():
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(100), rng.integers(1, 12, 100))
    y = (units % 4 == 0).astype(int)
    parts = split(y, units)
    sizes = np.array([len(p) for p in parts.values()]) / len(y)
    np.testing.assert_allclose(sizes, (0.7, 0.15, 0.15), atol=0.03)
    np.testing.assert_allclose(shares(y, parts, 1), y.mean(), atol=0.04)


@settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(st.data())
def test_no_leak(data):
    """Whatever the labels, groups and shares: whole groups, every example."""
    count = data.draw(st.integers(12, 80), "count")
    y = data.draw(
        st.lists(st.integers(0, 4), min_size=count, max_size=count), "y"
    )
    kinds = data.draw(st.integers(3, count), "kinds")
    units = data.draw(
        st.lists(st.integers(0, kinds), min_size=count, max_size=count), "units"
    )
    fractions = {
        "validation": data.draw(st.sampled_from((0, 0.1, 0.15, 0.3))),
        "test": data.draw(st.sampled_from((0, 0.1, 0.2, 0.4))),
    }
    wanted = [name for name, share in fractions.items() if share]
    if len(set(units)) <= len(wanted):
        return
    parts = split(y, units, fractions=fractions, seed=count)
    together = np.concatenate(list(parts.values()))
    assert sorted(together) == list(range(count))
    assert all(len(parts[name]) for name in ["train", *wanted])
    assert straddling(units, parts) == []
    again = split(y, units, fractions=fractions, seed=count)
    assert all((parts[k] == again[k]).all() for k in parts)


def test_given_splits_stay():
    given = ["train"] * 60 + ["test"] * 20
    parts = split(np.arange(80) % 2, given=given)
    assert parts["test"].tolist() == list(range(60, 80))
    assert len(parts["validation"]) == 9
    assert len(parts["train"]) == 51


def test_units_join_over_copies_and_groups():
    digests = ["a", "b", "a", "c", "d", "e"]
    groups = [1, 1, 2, 3, None, None]
    units = merge_units(digests, groups)
    assert units[0] == units[1] == units[2]
    assert len(set(units)) == 4


def test_pairs_of_copies():
    parts = {"train": [0, 1, 2], "validation": [3], "test": [4, 5]}
    digests = ["a", "b", "b", "b", "a", "c"]
    assert find_duplicates(digests, parts) == [(0, 4), (1, 3)]


def test_too_few():
    with pytest.raises(ValueError, match="2 groups cannot make 3 splits"):
        split([0, 1] * 10, units=[0, 1] * 10)
    with pytest.raises(ValueError, match="left to train on"):
        split([0, 1], given=["test", "test"])


def test_many_classes_of_few():
    y = np.repeat(np.arange(100), 3)
    parts = split(y)
    assert set(y[parts["train"]]) == set(range(100))
    assert len(parts["test"]) < 120
