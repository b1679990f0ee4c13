"""Figures of a report."""

import textwrap

import numpy as np

from finetune_keras.data import previews
from finetune_keras.data.figure import as_label, new_figure
from finetune_keras.results import metrics
from finetune_keras.results.render_text import chance, one_line, outcome

_MOST_NAMES = 40
_MOST_NUMBERS = 15


def plot_confusion(report):
    """Draws the confusion matrix of a report."""
    _check_classification(report, "confusion matrix")
    counts = report.confusion
    size = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = min(3.0 + 0.4 * size, 14.0)
    axes = new_figure(side + 1.0, side).add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    if size <= _MOST_NAMES:
        names = [short_label(name) for name in report.classes]
        axes.set_xticks(range(size), names, rotation=90 if size > 4 else 0)
        axes.set_yticks(range(size), names)
    for row, column in np.ndindex(size, size):
        if size <= _MOST_NUMBERS and counts[row, column]:
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.5 else "black",
            )
    axes.set(xlabel="predicted", ylabel="true")
    axes.figure.colorbar(image, label="share of the true class", shrink=0.7)
    return axes.figure


def plot_reliability(report):
    """Draws the reliability diagram of a report."""
    _check_classification(report, "reliability diagram")
    bins = metrics.calibration_bins(report.predictions)
    edges = np.linspace(0.0, 1.0, metrics.NUM_BINS + 1)
    filled = bins["weight"] > 0
    figure = new_figure(4.5, 5.0)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
    upper.plot(
        bins["confidence"][filled],
        bins["accuracy"][filled],
        marker="o",
        label=f"model, ECE {report.metrics['ece']:.3f}",
    )
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.bar(edges[:-1], bins["weight"], 1.0 / metrics.NUM_BINS, align="edge")
    lower.set(xlabel="confidence", ylabel="examples")
    return figure


def plot_worst(report, n=9):
    """Draws the inputs with the highest loss."""
    if not isinstance(n, int) or n < 1 or not report.worst:
        raise ValueError(
            "`n` must be a positive integer, and the report must have kept "
            "inputs: `evaluate(..., worst=50)`. "
            f"Received: n={n!r}, with {len(report.worst)} inputs kept"
        )
    return draw_sheet(
        [(entry["input"], _judgement(entry)) for entry in report.worst[:n]]
    )


def draw_sheet(entries, width=1):
    """Draws inputs in a square, of pairs of an input and its title."""
    columns = int(np.ceil(np.sqrt(len(entries) / width)))
    rows = int(np.ceil(len(entries) / columns))
    figure = new_figure(2.6 * columns * width, 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for axes, (value, title) in zip(grid.ravel(), entries, strict=False):
        _draw_input(axes, value)
        axes.set_title(title, fontsize=8)
    return figure


def _draw_input(axes, value):
    pixels = previews.image_of(value)
    if pixels is not None:
        axes.imshow(pixels)
        return
    text = as_label(previews.text_of(value))
    text = "\n".join(textwrap.wrap(text, 34)[:9])
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7)


def _judgement(entry):
    probability = entry["probability"]
    sure = f" ({chance(probability)})" if isinstance(probability, float) else ""
    name = entry.get("name")
    name = "" if name is None else f"{short_label(name)}\n"
    return (
        f"{name}true: {short_label(outcome(entry['true']))}\n"
        f"predicted: {short_label(outcome(entry['predicted']))}{sure}"
    )


def short_label(value):
    """Anything as a short line of a figure."""
    return as_label(one_line(value, 24))


def _check_classification(report, subject):
    if report.confusion is None:
        raise ValueError(
            f"A {subject} is of a classification: one class an example, or "
            "a pixel. "
            f"Received: a report of task={report.task!r}"
        )
