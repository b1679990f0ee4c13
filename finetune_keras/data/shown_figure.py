"""A figure that a notebook shows as the value of a cell."""

from finetune_keras.data.figure import to_png
from finetune_keras.engine.packages import matplotlib


class ShownFigure(matplotlib.figure.Figure):
    """A `Figure` that is shown without pyplot."""

    def _repr_png_(self):
        return to_png(self)
