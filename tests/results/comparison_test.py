"""Differences of two models on the same examples."""

import functools
import math

import keras
import numpy as np
import pytest

from finetune_keras.results import bootstrap, metrics
from finetune_keras.results.comparison import compare
from finetune_keras.results.evaluation import evaluate

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 120)
KEYS = np.arange(120.0)


def scores_of(chosen, sure=0.8):
    return np.where(np.eye(3)[chosen] == 1, sure, (1 - sure) / 2)


def report_of(outputs, y=Y, bootstrap=0, **options):
    """A report of a model that says exactly these outputs."""
    outputs = np.asarray(outputs, "float32")
    model = identity(outputs.shape[1])
    return evaluate(
        model, (outputs, y), bootstrap=bootstrap, verbose=0, **options
    )


@functools.cache
def identity(units):
    return keras.Sequential([keras.Input((units,)), keras.layers.Identity()])


def wrong_at(rows):
    chosen = Y.copy()
    chosen[rows] = (chosen[rows] + 1) % 3
    return chosen


# a: wrong on 0..29, b: wrong on 20..34: a alone right 5, b alone right 20.
A, B = wrong_at(np.arange(30)), wrong_at(np.arange(20, 35))


def test_mcnemar_by_hand():
    found = compare(report_of(scores_of(A)), report_of(scores_of(B)))
    assert found.mcnemar["only_a"] == 5 and found.mcnemar["only_b"] == 20
    tail = sum(math.comb(25, k) for k in range(6)) / 2**25
    assert found.mcnemar["p_value"] == pytest.approx(2 * tail)
    # The chi-square of the test with the correction is near it.
    chi = math.erfc(math.sqrt((20 - 5 - 1) ** 2 / 25 / 2))
    assert found.mcnemar["p_value"] == pytest.approx(chi, rel=0.3)


def test_differences_and_verdict():
    found = compare(report_of(scores_of(A)), report_of(scores_of(B)))
    row = found.metrics["accuracy"]
    assert row["a"] == pytest.approx(90 / 120)
    assert row["b"] == pytest.approx(105 / 120)
    assert row["difference"] == pytest.approx(15 / 120)
    assert 0.03 < row["interval"][0] < 0.08 < 0.17 < row["interval"][1] < 0.22
    assert row["p_value"] < 0.01
    assert found.better == "b"
    assert found.verdict.startswith("b is better: accuracy +12.5 points, 95 %")
    assert "McNemar p = 0.0041 (b against a, 120 examples)." in found.verdict
    back = compare(report_of(scores_of(B)), report_of(scores_of(A)))
    assert back.better == "a" and "-12.5 points" in back.verdict
    assert found.verdict in str(found)
    assert "Right by a alone: 5, by b alone: 20." in str(found)
    assert found.to_dict()["better"] == "b"


def test_intervals_are_of_pairs():
    a, b = report_of(scores_of(A)), report_of(scores_of(B))
    found = compare(a, b, bootstrap=40, seed=5)
    drawn = np.concatenate(list(bootstrap.draw(120, 40, 5)))
    changes = [
        metrics.score(b.predictions.take(rows))["f1_macro"]
        - metrics.score(a.predictions.take(rows))["f1_macro"]
        for rows in drawn
    ]
    expected = np.percentile(changes, (2.5, 97.5))
    assert found.metrics["f1_macro"]["interval"] == pytest.approx(expected)
    low = min(
        np.less_equal(changes, 0).sum(), np.greater_equal(changes, 0).sum()
    )
    p_value = found.metrics["f1_macro"]["p_value"]
    assert p_value == pytest.approx(min(1, 2 * (low + 1) / 41))


def test_pairs_are_narrower_than_two_intervals():
    found = compare(
        report_of(scores_of(wrong_at(np.arange(40)))),
        report_of(scores_of(wrong_at(np.arange(37)))),
    )
    low, high = found.metrics["accuracy"]["interval"]
    assert high - low < 0.07
    assert found.better is None
    assert found.verdict.startswith("No clear difference: accuracy +2.5 points")


def test_a_model_against_itself():
    report = report_of(scores_of(A))
    found = compare(report, report)
    assert found.better is None
    assert found.mcnemar["p_value"] == 1.0
    for row in found.metrics.values():
        assert row["difference"] == 0 and row["p_value"] == 1.0


def test_false_alarms_are_rare():
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        wrong = [rng.random(120) < 0.3 for _ in range(2)]
        a, b = (report_of(scores_of(wrong_at(rows))) for rows in wrong)
        alarms += compare(a, b, bootstrap=100).better is not None
    assert alarms <= 6


def test_regression_and_labels():
    truth = RNG.normal(size=120)
    noise = RNG.normal(size=120)
    a, b = (
        report_of((truth + share * noise)[:, None], truth, task="regression")
        for share in (1.0, 0.5)
    )
    found = compare(a, b)
    assert found.mcnemar is None and found.better == "b"
    assert found.verdict.startswith("b is better: RMSE -0.5")
    assert "McNemar" not in str(found)

    y = RNG.integers(0, 2, (120, 3))
    good, bad = np.where(y, 0.9, 0.1), RNG.random((120, 3))
    found = compare(*(report_of(p, y, task="multi_label") for p in (bad, good)))
    assert found.better == "b"
    right = ((bad > 0.5) == y).all(axis=1)
    assert found.mcnemar["only_b"] == 120 - right.sum()


class Batches(keras.utils.PyDataset):
    """Inputs in an order of their own."""

    def __init__(self, order):
        super().__init__()
        self.order = order

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = self.order[30 * index : 30 * index + 30]
        x = np.stack([KEYS[rows], A[rows], B[rows]], axis=1)
        return x, Y[rows]


def column_model(column):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Lambda(lambda x: x[:, column : column + 1]),
            keras.layers.CategoryEncoding(3, "one_hot"),
        ]
    )


def test_two_orders_of_the_same_examples_are_matched():
    plain = [
        evaluate(column_model(i), Batches(np.arange(120)), verbose=0)
        for i in (1, 2)
    ]
    shuffled = evaluate(
        column_model(2), Batches(RNG.permutation(120)), verbose=0
    )
    digests = [r.predictions.label_digest for r in (*plain, shuffled)]
    assert digests[0] == digests[1] != digests[2]
    first, second = (compare(plain[0], r) for r in (plain[1], shuffled))
    assert first.mcnemar == second.mcnemar
    assert second.mcnemar["only_b"] == 20
    for name, row in first.metrics.items():
        for key, value in row.items():
            assert second.metrics[name][key] == pytest.approx(value), name


def test_other_inputs_with_the_same_labels_are_compared_in_order():
    a, b = report_of(scores_of(A)), report_of(scores_of(B, sure=0.6))
    assert set(a.predictions.keys).isdisjoint(b.predictions.keys)
    assert compare(a, b).mcnemar["only_b"] == 20


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: report_of(scores_of(A)[1:], Y[1:]), "120 and 119 examples"),
        (lambda: report_of(scores_of(A), np.roll(Y, 1)), "the labels differ"),
        (
            lambda: report_of(scores_of(A), classes=["a", "b", "c"]),
            "another `classes`",
        ),
        (
            lambda: report_of(scores_of(A), np.eye(3)[Y], task="multi_label"),
            "another `task`",
        ),
    ],
)
def test_other_data_are_refused(other, message):
    with pytest.raises(ValueError, match=message) as caught:
        compare(report_of(scores_of(A)), other())
    assert "Received: " in str(caught.value)


def test_other_weights_are_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    x = RNG.normal(size=(120, 3))
    plain, weighted = (
        evaluate(model, data, verbose=0, bootstrap=10)
        for data in ((x, Y), (x, Y, KEYS + 1))
    )
    with pytest.raises(ValueError, match="other sample weights"):
        compare(plain, weighted)
    assert compare(weighted, weighted).better is None


def test_undefined_metrics_stay_undefined():
    keep = Y != 1
    report = report_of(scores_of(A)[keep], Y[keep])
    row = compare(report, report).metrics["roc_auc"]
    assert row["difference"] is row["interval"] is row["p_value"] is None
    str(compare(report, report))


@pytest.mark.parametrize("samples", [0, -1, 1.5])
def test_bad_bootstrap(samples):
    report = report_of(scores_of(A))
    with pytest.raises(ValueError, match="an integer of at least 1"):
        compare(report, report, bootstrap=samples)
