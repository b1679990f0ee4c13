"""The orders in which Keras writes the numbers of a box."""

import keras
import numpy as np

# Those in pixels; inside of this library a box is "xyxy".
FORMATS = ("yxyx", "xyxy", "xywh", "center_xywh")


def to_format(boxes, form, height=None, width=None):
    """Corners (left, top, right, bottom) in another format; -1 stays."""
    return _converted(boxes, "xyxy", form, height, width)


def from_format(boxes, form, height=None, width=None):
    """Boxes of any format of Keras as corners in pixels; -1 stays.

    The relative ones need the size of the picture.
    """
    return _converted(boxes, form, "xyxy", height, width)


def _converted(boxes, source, target, height=None, width=None):
    boxes = np.asarray(boxes, "float32")
    filled = (boxes == -1).all(axis=-1, keepdims=True)
    converted = keras.utils.bounding_boxes.convert_format(
        boxes, source=source, target=target, height=height, width=width
    )
    return np.where(filled, boxes, keras.ops.convert_to_numpy(converted))
