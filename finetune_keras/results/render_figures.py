"""Figures of a report; they are returned, never shown."""

import textwrap
import warnings

import numpy as np

from finetune_keras.data.figure import as_label, new_figure
from finetune_keras.results import metrics, previews
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
        names = [_name(name) for name in report.classes]
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
    entries = report.worst[:n]
    columns = int(np.ceil(np.sqrt(len(entries))))
    rows = int(np.ceil(len(entries) / columns))
    figure = new_figure(2.6 * columns, 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for axes, entry in zip(grid.ravel(), entries, strict=False):
        _draw_input(axes, entry)
    return figure


def to_png(figure):
    """The bytes of a PNG file."""
    import io

    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def _draw_input(axes, entry):
    pixels = previews.image_of(entry["input"])
    if pixels is not None:
        axes.imshow(pixels)
    else:
        text = as_label(previews.text_of(entry["input"]))
        text = "\n".join(textwrap.wrap(text, 34)[:9])
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7)
    probability = entry["probability"]
    sure = f" ({chance(probability)})" if isinstance(probability, float) else ""
    axes.set_title(
        f"true: {_name(outcome(entry['true']))}\n"
        f"predicted: {_name(outcome(entry['predicted']))}{sure}",
        fontsize=8,
    )


def _name(value):
    return as_label(one_line(value, 24))


def _check_classification(report, subject):
    if report.task != "classification":
        raise ValueError(
            f"A {subject} is of a classification: one class an example. "
            f"Received: a report of task={report.task!r}"
        )
