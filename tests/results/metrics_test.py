"""Every number against scikit-learn, or against a count by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from finetune_keras.data.task import Task
from finetune_keras.results import bootstrap, metrics
from finetune_keras.results.formulas import bin_of
from finetune_keras.results.outcomes import Outcomes


def probabilities(rng, size, count):
    # Rounded, so that scores are equal now and then.
    values = np.round(rng.dirichlet(np.ones(count), size), 2) + 0.01
    return (values / values.sum(axis=1, keepdims=True)).astype("float32")


def classification(size=150, count=4, weighted=False):
    rng = np.random.default_rng(count)
    p = probabilities(rng, size, count)
    y = np.where(rng.random(size) < 0.5, p.argmax(1), rng.integers(count))
    y[: 2 * count] = np.arange(2 * count) % count
    weight = rng.uniform(0.1, 3, size) if weighted else None
    names = [f"c{i}" for i in range(count)]
    task = Task.named("classification", names)
    return Outcomes(y, p, task, sample_weight=weight)


def multi_label(size=120, count=5, weighted=False):
    rng = np.random.default_rng(count)
    p = np.round(rng.random((size, count)), 2).astype("float32")
    y = (rng.random((size, count)) < 0.3 + 0.4 * p).astype("int8")
    weight = rng.uniform(0.1, 3, size) if weighted else None
    names = [f"c{i}" for i in range(count)]
    task = Task.named("multi_label", names)
    return Outcomes(y, p, task, sample_weight=weight)


def regression(size=100, count=2, weighted=False):
    rng = np.random.default_rng(count)
    y = rng.normal(3, 2, (size, count))
    p = (y + rng.normal(0.2, 1, (size, count))).astype("float32")
    weight = rng.uniform(0.1, 3, size) if weighted else None
    names = [f"c{i}" for i in range(count)]
    task = Task.named("regression", names)
    return Outcomes(y, p, task, sample_weight=weight)


def rates(y, y_pred, average, w):
    options = {"average": average, "sample_weight": w, "zero_division": 0}
    names = ("precision", "recall", "f1")
    functions = (sk.precision_score, sk.recall_score, sk.f1_score)
    return {
        f"{name}_{average}": function(y, y_pred, **options)
        for name, function in zip(names, functions, strict=True)
    }


def expected_classification(p):
    y, w, scores = p.y_true, p.sample_weight, p.outputs.astype("float64")
    scores /= scores.sum(axis=1, keepdims=True)
    count = scores.shape[1]
    y_pred = scores.argmax(axis=1)
    values, truth, extra = scores, np.eye(count)[y], {"multi_class": "ovr"}
    if count == 2:
        values, truth, extra = scores[:, 1], y, {}
    return {
        "accuracy": sk.accuracy_score(y, y_pred, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(
            y, y_pred, sample_weight=w
        ),
        **rates(y, y_pred, "macro", w),
        **rates(y, y_pred, "weighted", w),
        "roc_auc": sk.roc_auc_score(y, values, sample_weight=w, **extra),
        "pr_auc": sk.average_precision_score(truth, values, sample_weight=w),
        "log_loss": sk.log_loss(y, scores, sample_weight=w),
        "brier": sk.brier_score_loss(y, values, sample_weight=w),
        "ece": ece_by_loop(y, scores, w),
    }


def ece_by_loop(y, scores, w):
    w = np.ones(len(y)) if w is None else w
    sure, right = scores.max(axis=1), scores.argmax(axis=1) == y
    error = 0.0
    for i in range(15):
        inside = (sure > i / 15) & (sure <= (i + 1) / 15)
        if inside.any():
            share = w[inside].sum() / w.sum()
            gap = np.average(right[inside], weights=w[inside]) - np.average(
                sure[inside], weights=w[inside]
            )
            error += share * abs(gap)
    return error


def expected_multi_label(p):
    y, w, scores = p.y_true, p.sample_weight, p.outputs.astype("float64")
    y_pred = (scores > 0.5).astype(int)
    losses = [
        sk.log_loss(y[:, i], scores[:, i], sample_weight=w)
        for i in range(y.shape[1])
    ]
    return {
        "subset_accuracy": sk.accuracy_score(y, y_pred, sample_weight=w),
        "hamming_loss": sk.hamming_loss(y, y_pred, sample_weight=w),
        **rates(y, y_pred, "micro", w),
        **rates(y, y_pred, "macro", w),
        "roc_auc": sk.roc_auc_score(y, scores, sample_weight=w),
        "pr_auc": sk.average_precision_score(y, scores, sample_weight=w),
        "log_loss": np.mean(losses),
    }


def expected_regression(p):
    y, w, values = p.y_true, p.sample_weight, p.outputs.astype("float64")
    return {
        "mae": sk.mean_absolute_error(y, values, sample_weight=w),
        "rmse": sk.root_mean_squared_error(y, values, sample_weight=w),
        "r2": sk.r2_score(y, values, sample_weight=w),
    }


def test_lists_of_many_classes_are_judged_too():
    p = classification(200, count=40)
    p.outputs += np.random.default_rng(1).random(p.outputs.shape) * 1e-4
    names = [f"top_{k}_accuracy" for k in (5, 10)]
    for weight in (None, np.random.default_rng(2).uniform(0.1, 3, 200)):
        p.sample_weight = weight
        found = metrics.score(p)
        for k, name in zip((5, 10), names, strict=True):
            expected = sk.top_k_accuracy_score(
                p.y_true,
                p.outputs,
                k=k,
                labels=range(40),
                sample_weight=weight,
            )
            assert 0.3 < expected < 1
            np.testing.assert_allclose(found[name], expected, atol=1e-12)
    assert set(names) <= set(bootstrap.intervals(p, 5, 0))
    fewer = metrics.score(classification(count=20))
    assert names[0] in fewer and names[1] not in fewer
    assert names[0] not in metrics.score(classification(count=19))
    # Nobody is told anything by a model that gives all the same.
    same = np.full((40, 40), 1 / 40, "float32")
    alike = Outcomes(np.arange(40), same, p.task)
    assert metrics.score(alike)[names[1]] == 0.0


CASES = [
    (classification, 4, expected_classification),
    (classification, 2, expected_classification),
    (multi_label, 5, expected_multi_label),
    (regression, 1, expected_regression),
    (regression, 3, expected_regression),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make, count, expected", CASES)
def test_metrics_are_those_of_scikit_learn(make, count, expected, weighted):
    predictions = make(count=count, weighted=weighted)
    found, truth = metrics.score(predictions), expected(predictions)
    assert list(found) == list(truth)
    for name, value in truth.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [classification, multi_label])
def test_classes_are_those_of_scikit_learn(make, weighted):
    p = make(weighted=weighted)
    table = metrics.score_each_class(p)
    report = sk.classification_report(
        p.y_true,
        p.y_pred,
        target_names=p.classes,
        sample_weight=p.sample_weight,
        output_dict=True,
        zero_division=0,
    )
    for i, name in enumerate(p.classes):
        row, truth = table[name], report[name]
        true = p.membership[:, i]
        assert row["n"] == true.sum()
        assert row["precision"] == pytest.approx(truth["precision"])
        assert row["recall"] == pytest.approx(truth["recall"])
        assert row["f1"] == pytest.approx(truth["f1-score"])
        w = {"sample_weight": p.sample_weight}
        scores = p.scores[:, i]
        assert row["roc_auc"] == pytest.approx(
            sk.roc_auc_score(true, scores, **w)
        )
        assert row["pr_auc"] == pytest.approx(
            sk.average_precision_score(true, scores, **w)
        )


def test_one_label_is_that_label():
    p = multi_label(count=1)
    found = metrics.score(p)
    f1 = sk.f1_score(p.y_true[:, 0], p.y_pred[:, 0])
    assert found["f1_micro"] == found["f1_macro"] == pytest.approx(f1)
    assert metrics.score_each_class(p)["c0"]["f1"] == pytest.approx(f1)


def test_values_of_a_regression_by_name():
    p = regression(count=2)
    row = metrics.score_each_class(p)["c1"]
    truth = sk.mean_absolute_error(p.y_true[:, 1], p.outputs[:, 1])
    assert row["mae"] == pytest.approx(truth, rel=1e-6)
    assert metrics.score_each_class(regression(count=1)) == {}


def test_confusion_counts_all_classes():
    p = classification(count=4, weighted=True).take(slice(0, 3))
    found = metrics.confusion(p)
    truth = sk.confusion_matrix(p.y_true, p.y_pred, labels=range(4))
    np.testing.assert_array_equal(found, truth)
    assert found.sum() == 3
    assert metrics.confusion(regression()) is None


def test_calibration_error_by_hand():
    # Bin (9/15, 10/15]: 0.62 and 0.65, one right; bin (13/15, 14/15]: 0.9,
    # right; bin (14/15, 1]: 0.95 wrong and 1.0 right.
    sure = np.array([0.62, 0.65, 0.9, 0.95, 1.0])
    right = np.array([1, 0, 1, 0, 1])
    p = Outcomes(
        1 - right,
        np.stack([sure, 1 - sure], 1).astype("float32"),
        Task.named("classification", ["a", "b"]),
    )
    by_hand = (abs(1 - 1.27) + abs(1 - 0.9) + abs(1 - 1.95)) / 5
    assert metrics.score(p)["ece"] == pytest.approx(by_hand, rel=1e-6)
    bins = metrics.calibration_bins(p)
    assert bins["weight"].tolist() == [0] * 9 + [2, 0, 0, 0, 1, 2]
    assert bins["accuracy"][9] == 0.5


def test_bins_are_open_below_and_closed_above():
    edges = np.array([0.0, 0.2, np.nextafter(0.2, 1), 1 / 3, 1.0])
    assert bin_of(edges).tolist() == [0, 2, 3, 4, 14]


def test_a_perfect_and_sure_model():
    y = np.arange(6) % 3
    task = Task.named("classification", ["a", "b", "c"])
    p = Outcomes(y, np.eye(3, dtype="float32")[y], task)
    found = metrics.score(p)
    for name in ("accuracy", "f1_macro", "roc_auc", "pr_auc"):
        assert found[name] == 1.0
    for name in ("ece", "brier"):
        assert found[name] == 0.0
    assert found["log_loss"] == pytest.approx(0.0, abs=1e-12)


def test_a_class_without_examples_leaves_areas_undefined():
    p = classification(count=3)
    p = p.take(p.y_true != 1)
    found = metrics.score(p)
    assert found["roc_auc"] is None and found["pr_auc"] is None
    table = metrics.score_each_class(p)
    assert table["c1"]["roc_auc"] is None
    assert table["c1"]["recall"] == 0.0
    true = p.y_true == 0
    truth = sk.roc_auc_score(true, p.scores[:, 0])
    assert table["c0"]["roc_auc"] == pytest.approx(truth)
    rest = {k: v for k, v in found.items() if k not in ("roc_auc", "pr_auc")}
    assert np.isfinite(list(rest.values())).all()
    losses = sk.log_loss(p.y_true, p.scores, labels=[0, 1, 2])
    assert found["log_loss"] == pytest.approx(losses)


def test_equal_values_leave_r2_undefined():
    p = regression(count=1)
    p.y_true[:] = 2.0
    assert metrics.score(p)["r2"] is None
    assert metrics.score(regression().take(slice(0, 1)))["r2"] is None


def test_losses_add_up_to_the_metric():
    for p in (classification(), multi_label()):
        assert p.losses.mean() == pytest.approx(metrics.score(p)["log_loss"])
    p = regression(count=1)
    assert p.losses.mean() == pytest.approx(metrics.score(p)["rmse"] ** 2)


def test_threshold_of_two_classes_and_of_each_label():
    p = classification(count=2)
    p.threshold = 0.8
    np.testing.assert_array_equal(p.y_pred, p.scores[:, 1] > 0.8)
    p = multi_label(count=3)
    p.threshold = [0.1, 0.5, 0.9]
    np.testing.assert_array_equal(p.y_pred, p.scores > [0.1, 0.5, 0.9])
