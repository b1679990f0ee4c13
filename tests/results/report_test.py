"""Reports in text and in JSON."""

import json
import os
import pathlib

import keras
import numpy as np
import pytest

from finetune_keras.results.comparison import compare
from finetune_keras.results.evaluation import evaluate
from finetune_keras.results.report import Report
from finetune_keras.testing.processes import FreshProcess

ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)
COUNT = 40
CLASSES = ["ant", "bee", "ćma"]
Y = np.arange(COUNT) % 3


def images():
    """Images whose first three pixels are the probabilities of the model."""
    x = RNG.uniform(0, 1, (COUNT, 40, 200, 3)).astype("float32")
    x[:, 0, :3, 0] = RNG.dirichlet(np.ones(3), COUNT)
    return x


def image_model():
    x = keras.Input((40, 200, 3))
    return keras.Model(x, keras.layers.Identity()(x[:, 0, :3, 0]))


@pytest.fixture(scope="module")
def report():
    return evaluate(
        image_model(),
        (images(), Y),
        classes=CLASSES,
        slices={"site": np.where(Y > 0, "north", "south")},
        bootstrap=30,
        worst=5,
        verbose=0,
    )


def labels_report(**options):
    x = RNG.random((30, 4))
    y = (RNG.random((30, 4)) < x).astype(int)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Identity()])
    return evaluate(
        model,
        (x, y),
        task="multi_label",
        bootstrap=10,
        verbose=0,
        **options,
    )


def values_report(count):
    x = RNG.normal(size=(30, count))
    model = keras.Sequential([keras.Input((count,)), keras.layers.Identity()])
    options = {"task": "regression", "bootstrap": 10, "verbose": 0}
    return evaluate(model, (x, x + RNG.normal(size=x.shape)), **options)


def assert_same(first, second):
    assert str(first) == str(second)
    assert first.to_dict() == second.to_dict()
    assert first.predictions.threshold == second.predictions.threshold
    for name in ("y_true", "y_pred", "outputs", "sample_weight", "keys"):
        a, b = (getattr(r.predictions, name) for r in (first, second))
        np.testing.assert_array_equal(a, b)


def test_text(report):
    text = str(report)
    lines = text.splitlines()
    assert lines[0] == (
        f"Report on {report.model}: classification, 3 classes, 40 examples"
    )
    assert any(x.startswith("accuracy") and " to " in x for x in lines)
    assert any(line.startswith("ćma") for line in lines)
    assert any(line.startswith("north  26") for line in lines)
    assert "worst  true  predicted" in text
    assert repr(report).startswith("<Report classification, 40 examples")
    assert len(report) == 40


def test_text_of_many_classes_shows_the_worst():
    y = np.arange(100) % 50
    chosen = np.where(y < 3, y + 1, y)
    x = 0.9 * np.eye(50)[chosen] + 0.002
    model = keras.Sequential([keras.Input((50,)), keras.layers.Identity()])
    report = evaluate(model, (x, y), bootstrap=0, verbose=0)
    text = str(report)
    assert "\n0  " in text and "\n49  " not in text
    assert "30 better classes: see `per_class`." in text
    assert "95 %" not in text
    assert report.intervals == {} and len(report.per_class) == 50


@pytest.mark.parametrize(
    "make",
    [
        labels_report,
        lambda: labels_report(threshold=[0.2, 0.4, 0.5, 0.6]),
        lambda: labels_report(threshold=0.25),
        lambda: values_report(1),
        lambda: values_report(2),
    ],
)
def test_other_tasks_in_text_and_json(make):
    report = make()
    text = report.to_json()
    assert_same(Report.from_json(text), report)
    entry = report.worst[0]
    assert str(entry["index"]) in str(report)
    if report.task == "multi_label":
        assert set(entry["true"]) | set(entry["predicted"]) == set(
            entry["probability"]
        )
    else:
        assert entry["probability"] is None


def test_json_keeps_all_but_large_inputs(report, tmp_path):
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert path.read_text("utf-8") == text == report.to_json()
    assert os.listdir(tmp_path) == ["report.json"]
    assert len(text) < 60_000
    for source in (path, str(path), text):
        again = Report.from_json(source)
        assert_same(again, report)
    for entry, first in zip(again.worst, report.worst, strict=True):
        assert first["input"].shape == (40, 200, 3)
        assert entry["input"].shape == (32, 160, 3)
        assert entry["input"].dtype == np.uint8
    assert_same(Report.from_json(again.to_json()), report)
    again.plot_worst(2)
    assert compare(report, again).better is None


_CODE = """
import sys
from finetune_keras.results.comparison import compare
from finetune_keras.results.report import Report
a, b = (Report.from_json(path) for path in sys.argv[1:])
print(compare(a, b, bootstrap=50).verdict)
b.to_html(sys.argv[2] + ".html")
"""


def test_json_in_a_fresh_process(report, tmp_path):
    report.to_json(tmp_path / "a.json")
    other = evaluate(
        image_model(), (images(), Y), classes=CLASSES, bootstrap=0, verbose=0
    )
    other.to_json(tmp_path / "b.json")
    done = FreshProcess(
        "-c", _CODE, tmp_path / "a.json", tmp_path / "b.json", cwd=ROOT
    )
    assert done.wait() == 0, done.stderr[-2000:]
    verdict = compare(report, other, bootstrap=50).verdict
    assert done.stdout.strip() == verdict
    assert (tmp_path / "b.json.html").stat().st_size > 10_000


def test_weights_and_predictions_in_json_are_exact():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
    x, weight = RNG.normal(size=(9, 2)), RNG.uniform(1, 2, 9)
    data = (x, np.arange(9) % 2, weight)
    report = evaluate(model, data, bootstrap=10, verbose=0, threshold=0.3)
    again = Report.from_json(report.to_json())
    assert_same(again, report)
    np.testing.assert_array_equal(again.predictions.sample_weight, weight)
    record = json.loads(report.to_json())
    assert record["metrics"] == report.metrics
    assert record["arrays"]["outputs"]["dtype"] == "<f4"


def test_a_text_is_shortened_once():
    text = "x" * 1_000_000
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            keras.layers.TextVectorization(
                vocabulary=["a"], output_mode="multi_hot"
            ),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    report = evaluate(model, ([text, "a"], [0, 1]), bootstrap=0, verbose=0)
    again = Report.from_json(Report.from_json(report.to_json()).to_json())
    kept = {len(e["input"]): e["input"] for e in again.worst}
    assert kept[1] == "a"
    assert kept[max(kept)] == "x" * 1000 + " … (1,000,000 characters)"


@pytest.mark.parametrize(
    "content", ['{"format": "other"}', "no json", "[1, 2]", '{"broken']
)
def test_no_report(content, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="`report.to_json"):
        Report.from_json(path)


def test_a_failed_write_leaves_the_old_file(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.to_json(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]
