"""Boxes drawn into a picture, for people."""

import keras
import numpy as np

from finetune_keras.data.previews import image_of
from finetune_keras.engine.packages import PIL

_TRUE, _PREDICTED = (60, 200, 80), (235, 60, 50)
# Small pictures are drawn larger, or their lines would hide them.
_SIDE = 160


def draw_boxes(x, classes, true, predicted=None):
    """Draws boxes: uint8 (height, width, 3), or `x` where it is no image.

    True ones are green, predicted ones red with their class.
    """
    pixels = image_of(x)
    if pixels is None:
        return x
    image = PIL.Image.fromarray(pixels)
    times = max(1, -(-_SIDE // max(image.size)))
    image = image.resize([times * side for side in image.size], 0)
    pen = PIL.ImageDraw.Draw(image)
    names = predicted is None
    _draw(pen, true, classes, _TRUE, times, names)
    if predicted is not None:
        _draw(pen, predicted, classes, _PREDICTED, times, True)
    drawn = np.asarray(image)
    first = keras.config.image_data_format() == "channels_first"
    return np.moveaxis(drawn, -1, 0) if first else drawn


def _draw(pen, boxes, classes, colour, times, names):
    for left, top, right, bottom, place, *_ in boxes:
        if place < 0:
            continue
        corners = times * np.array([left, top, right, bottom], "float64")
        if not np.isfinite(corners).all():
            continue
        # An untrained detector predicts boxes far beyond the picture.
        corners = np.clip(corners, -9, np.tile(pen.im.size, 2) + 9)
        # Of a box that was turned inside out nothing can be drawn.
        corners[2:] = np.maximum(corners[2:], corners[:2])
        corners = corners.tolist()
        pen.rectangle(corners, outline=colour, width=2)
        if names:
            pen.text(corners[:2], f" {classes[int(place)]}", fill=colour)
