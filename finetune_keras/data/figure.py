"""Figures that are returned, and that a notebook shows."""

import io
import warnings

from finetune_keras.data.printable import printable
from finetune_keras.engine.packages import matplotlib, require


def new_figure(width, height):
    """Makes an empty `matplotlib.figure.Figure`; sizes are in inches."""
    require(matplotlib)
    from finetune_keras.data.shown_figure import ShownFigure

    return ShownFigure(figsize=(width, height), layout="constrained")


def to_png(figure):
    """The bytes of a PNG file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def as_label(text):
    """Text for a figure, in which a dollar would begin a formula."""
    return printable(text).replace("$", r"\$")
