"""Figures that are returned, never shown."""

import importlib.util

from finetune_keras.data.printable import printable


def new_figure(width, height):
    """Makes an empty `matplotlib.figure.Figure`; sizes are in inches."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "The figure needs matplotlib. Install it with "
            '`pip install "finetune_keras[plots]"`.'
        )
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_label(text):
    """Text for a figure, in which a dollar would begin a formula."""
    return printable(text).replace("$", r"\$")
