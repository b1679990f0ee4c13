"""Figures that are returned, never shown."""

from finetune_keras.data.printable import printable
from finetune_keras.engine.packages import matplotlib


def new_figure(width, height):
    """Makes an empty `matplotlib.figure.Figure`; sizes are in inches."""
    return matplotlib.figure.Figure(
        figsize=(width, height), layout="constrained"
    )


def as_label(text):
    """Text for a figure, in which a dollar would begin a formula."""
    return printable(text).replace("$", r"\$")
