"""Figures are drawn from the numbers of the report, and never shown."""

import sys

import keras
import numpy as np
import pytest

from finetune_keras.data.figure import to_png
from finetune_keras.results.evaluation import evaluate

RNG = np.random.default_rng(0)


def report_of(classes, count=60, **options):
    size = len(classes)
    y = np.arange(count) % size
    x = 2 * np.eye(size)[y] + RNG.normal(size=(count, size))
    model = keras.Sequential([keras.Input((size,)), keras.layers.Softmax()])
    return evaluate(
        model, (x, y), classes=classes, bootstrap=0, verbose=0, **options
    )


def test_confusion_shows_counts_and_shares():
    report = report_of(["a", "$b_$", "c\nd"])
    figure = report.plot_confusion()
    axes = figure.axes[0]
    shares = np.asarray(axes.images[0].get_array())
    counts = report.confusion
    np.testing.assert_allclose(shares, counts / counts.sum(1, keepdims=True))
    written = sorted(int(text.get_text()) for text in axes.texts)
    assert written == sorted(counts[counts > 0].tolist())
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["a", r"\$b_\$", "c d"]
    assert to_png(figure).startswith(b"\x89PNG")


def test_confusion_of_many_classes_has_no_names():
    report = report_of([str(i) for i in range(60)], count=120)
    axes = report.plot_confusion().axes[0]
    assert len(axes.texts) == 0
    assert len(axes.get_xticklabels()) < 60


def test_a_class_without_examples_in_the_confusion():
    x, y = np.eye(3)[[0, 2]], np.array([0, 2])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    report = evaluate(model, (x, y), bootstrap=0, verbose=0)
    to_png(report.plot_confusion())


def test_reliability_shows_the_bins():
    report = report_of(["a", "b"])
    upper, lower = report.plot_reliability().axes
    heights = [bar.get_height() for bar in lower.patches]
    assert len(heights) == 15 and sum(heights) == 60
    p = report.predictions.scores.max(axis=1)
    assert heights[-1] == (p > 14 / 15).sum()
    line = upper.lines[1]
    assert len(line.get_xdata()) == np.count_nonzero(heights)
    assert f"{report.metrics['ece']:.3f}" in line.get_label()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("top", [1.0, 255.0])
def test_worst_images(channels, top):
    x = RNG.uniform(0, top, (9, 8, 6, channels)).astype("float32")
    x[:, 0, 0], x[:, 0, 1] = 0, top
    inputs = keras.Input((8, 6, channels))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(flat))
    report = evaluate(model, (x, np.arange(9) % 2), bootstrap=0, verbose=0)
    figure = report.plot_worst(4)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 4
    for axes, entry in zip(shown, report.worst, strict=False):
        pixels = np.asarray(axes.images[0].get_array())
        expected = np.rint(entry["input"] / top * 255)
        np.testing.assert_array_equal(pixels[..., 0], expected[..., 0])
        assert f"true: {entry['true']}\n" in axes.get_title()
    to_png(figure)


def test_worst_rows_are_written_out():
    report = report_of(["a$", "b"])
    figure = report.plot_worst()
    assert len(figure.axes) == 9
    first = report.worst[0]["input"]
    assert f"{first[0]:.4g}" in figure.axes[0].texts[0].get_text()
    to_png(figure)


def test_nothing_to_draw():
    report = report_of(["a", "b"], worst=0)
    with pytest.raises(ValueError, match="0 inputs kept"):
        report.plot_worst()
    with pytest.raises(ValueError, match="n=0"):
        report_of(["a", "b"]).plot_worst(0)
    x = RNG.random((9, 2))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    report = evaluate(model, (x, x), task="regression", verbose=0)
    for plot in (report.plot_confusion, report.plot_reliability):
        with pytest.raises(ValueError, match="task='regression'"):
            plot()


def test_no_state_of_pyplot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    report_of(["a", "b"]).plot_confusion()
    assert pyplot.get_fignums() == before


def test_without_matplotlib(monkeypatch):
    report = report_of(["a", "b"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for plot in ("confusion", "reliability", "worst"):
        with pytest.raises(ImportError, match=r"finetune_keras\[plots\]"):
            getattr(report, f"plot_{plot}")()
