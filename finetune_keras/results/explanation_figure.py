"""Figures of what speaks for predictions."""

import numpy as np

from finetune_keras.data import previews
from finetune_keras.data.figure import as_label, new_figure
from finetune_keras.engine.packages import matplotlib
from finetune_keras.results.render_text import number, one_line

# Pairs of a photo and its map in a row, characters in a line: as many as are
# still read on a phone.
_PAIRS, _WIDTH = 2, 56


def draw(explanation):
    """Draws an `Explanation`."""
    if explanation.tokens is None:
        return _draw_photos(explanation)
    return _draw_texts(explanation)


def _title(explanation, i):
    name = as_label(one_line(explanation.classes[i], 30))
    value = explanation.probabilities[i]
    if explanation.task.has_chances:
        return f"{name} ({value:.3f})"
    several = len(explanation.task.names()) > 1
    return f"{name}: {number(value)}" if several else number(value)


# === Photos ===


def _draw_photos(explanation):
    count = len(explanation)
    pairs = min(count, _PAIRS)
    rows = -(-count // pairs)
    figure = new_figure(4.4 * pairs, 2.4 * rows)
    grid = figure.subplots(rows, 2 * pairs, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for i, pair in enumerate(grid.reshape(-1, 2)[:count]):
        _draw_photo(pair, explanation, i)
    return figure


def _draw_photo(pair, explanation, i):
    pixels = previews.image_of(explanation.inputs[i])
    heat = explanation.importances[i]
    for axes in pair:
        if pixels is not None:
            axes.imshow(pixels)
    top = max(float(heat.max()), np.finfo("float32").tiny)
    pair[1].imshow(heat / top, cmap="jet", vmin=0, vmax=1, alpha=0.5)
    pair[1].set_title(_title(explanation, i), fontsize=8)


# === Texts ===


def _draw_texts(explanation):
    placed = [_placed(tokens) for tokens in explanation.tokens]
    lines = [places[-1][0] + 1 for places in placed]
    heights = [0.35 + 0.2 * count for count in lines]
    figure = new_figure(4.5, sum(heights))
    grid = figure.subplots(len(placed), 1, squeeze=False, height_ratios=heights)
    for i, axes in enumerate(grid.ravel()):
        axes.axis("off")
        axes.set(xlim=(0, _WIDTH), ylim=(lines[i], 0))
        axes.set_title(_title(explanation, i), fontsize=8, loc="left")
        _draw_tokens(axes, placed[i], explanation.importances[i])
    return figure


def _placed(tokens):
    """Lists `(line, column, token)`, in lines that are wide enough."""
    places, line, column = [], 0, 0
    for token in tokens:
        token = one_line(token, 30)
        if column and column + len(token) > _WIDTH:
            line, column = line + 1, 0
        places.append((line, column, token))
        column += len(token) + 1
    return places


def _draw_tokens(axes, places, importances):
    top = max(float(np.abs(importances).max()), np.finfo("float32").tiny)
    # Pale enough to be read in black.
    shades = matplotlib.colormaps["bwr"](0.5 + 0.3 * importances / top)
    for (line, column, token), shade in zip(places, shades, strict=True):
        axes.text(
            column,
            line + 0.5,
            as_label(token),
            family="monospace",
            fontsize=8,
            va="center",
            bbox={"facecolor": shade, "edgecolor": "none", "pad": 1.2},
        )
