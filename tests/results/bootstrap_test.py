"""The resamples in one product are those of scikit-learn one by one."""

import time
import warnings

import numpy as np
import pytest

from finetune_keras.data.task import Task
from finetune_keras.results import bootstrap, formulas, metrics
from finetune_keras.results.outcomes import Outcomes


def make(task, size, count, weighted=False, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.2, 2, size) if weighted else None
    names = [str(i) for i in range(count)]
    if task == "classification":
        p = np.round(rng.dirichlet(np.ones(count), size), 1) + 0.01
        y = np.where(
            rng.random(size) < 0.4, p.argmax(1), rng.integers(count, size=size)
        )
    elif task == "multi_label":
        p = np.round(rng.random((size, count)), 1)
        y = (rng.random((size, count)) < p).astype("int8")
    else:
        y = rng.normal(5, 2, (size, count))
        p = y + rng.normal(size=(size, count))
    p = p.astype("float32")
    return Outcomes(y, p, Task.named(task, names), sample_weight=weight)


def one_by_one(predictions, samples, seed):
    rows = [
        metrics.score(predictions.take(indices))
        for drawn in bootstrap.draw(len(predictions), samples, seed)
        for indices in drawn
    ]
    return {
        name: np.array([row[name] for row in rows], "float64")
        for name in rows[0]
    }


CASES = [
    ("classification", 40, 4),
    ("classification", 25, 2),
    ("multi_label", 30, 3),
    ("multi_label", 30, 1),
    ("regression", 30, 2),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task, size, count", CASES)
def test_resamples_are_those_of_scikit_learn(task, size, count, weighted):
    p = make(task, size, count, weighted)
    found = bootstrap.resample([p], 30, seed=3)[0]
    truth = one_by_one(p, 30, seed=3)
    assert set(found) == set(truth)
    for name, values in truth.items():
        defined = np.isfinite(values)
        assert defined.sum() > 5, name
        np.testing.assert_allclose(
            found[name][defined],
            values[defined],
            rtol=1e-9,
            atol=1e-12,
            err_msg=name,
        )


def test_a_class_that_a_resample_lacks_is_left_out_of_its_mean():
    p = make("classification", 30, 3)
    p.y_true[:] = np.arange(30) % 2
    p.y_true[0] = 2
    found = bootstrap.resample([p], 50, seed=0)[0]["roc_auc"]
    drawn = np.concatenate(list(bootstrap.draw(30, 50, 0)))
    for indices, value in zip(drawn, found, strict=True):
        areas = [pair[0] for pair in p.take(indices).areas]
        mean = np.mean([area for area in areas if area is not None])
        assert value == pytest.approx(mean)
    assert any(0 not in indices for indices in drawn)


def test_undefined_in_every_resample():
    p = make("classification", 30, 2)
    p.y_true[:] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap.intervals(p, 20, seed=0)
    assert found["roc_auc"] is None and found["pr_auc"] is None
    assert found["accuracy"][0] < found["accuracy"][1]


def test_indices_do_not_depend_on_the_chunk(monkeypatch):
    whole = np.concatenate(list(bootstrap.draw(50, 20, seed=1)))
    monkeypatch.setattr(bootstrap, "_CHUNK", 150)
    parts = list(bootstrap.draw(50, 20, seed=1))
    assert len(parts) == 7
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.shape == (20, 50)
    assert set(whole.ravel()) == set(range(50))


def test_seed():
    p = make("classification", 60, 3)
    first, again, other = (
        bootstrap.intervals(p, 50, seed) for seed in (1, 1, 2)
    )
    assert first == again and first != other


def test_intervals_cover_the_truth():
    # A model that is right 8 times in 10, on 200 sets of 60 examples.
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        y = rng.integers(2, size=60)
        right = rng.random(60) < 0.8
        scores = np.where(right, y, 1 - y)[:, None] == np.arange(2)
        task = Task.named("classification", ["a", "b"])
        p = Outcomes(y, scores.astype("float32"), task)
        low, high = bootstrap.intervals(p, 200, seed)["accuracy"]
        inside += low <= 0.8 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_a_thousand_resamples_of_two_thousand_take_seconds():
    p = make("classification", 2000, 10)
    start = time.perf_counter()
    bootstrap.intervals(p, 1000, seed=0)
    # 0.2 seconds on two cores.
    assert time.perf_counter() - start < 5


def test_too_much_work_for_areas_leaves_them_out(monkeypatch):
    monkeypatch.setattr(formulas, "_MOST_AREA_STEPS", 100)
    found = bootstrap.intervals(make("multi_label", 40, 3), 20, seed=0)
    assert found["roc_auc"] is None and found["pr_auc"] is None
    assert found["f1_micro"] is not None
