"""Which predicted box is to become which true one, picture by picture."""

import keras
import numpy as np
from keras import ops

from finetune_keras.engine.host_calls import on_host
from finetune_keras.engine.packages import scipy


class TrueBoxes:
    """The boxes of a batch as a D-FINE sees them; labels of -1 fill up.

    Tensors (batch, 1, boxes, ...): `is_box` of 1 and 0, `boxes` (middle x and
    y, width and height, shares of the picture), `classes` of 0 and 1; and
    `count`, how many boxes there are, 1 at least.
    """

    def __init__(self, detector, x, y):
        labels = ops.cast(y["labels"], "int32")[:, None]
        is_box = labels >= 0
        self.is_box = ops.cast(is_box, "float32")
        boxes = ops.where(
            is_box[..., None], _shares(detector, x, y["boxes"])[:, None], 0.5
        )
        self.boxes = ops.stop_gradient(boxes)
        classes = ops.one_hot(ops.maximum(labels, 0), detector.num_classes)
        self.classes = ops.cast(classes, "float32") * self.is_box[..., None]
        self.count = ops.maximum(ops.sum(self.is_box), 1.0)


def _shares(detector, x, boxes):
    first = keras.config.image_data_format() == "channels_first"
    height, width = ops.shape(x)[2:4] if first else ops.shape(x)[1:3]
    return keras.utils.bounding_boxes.convert_format(
        boxes,
        source=detector.bounding_box_format,
        target="rel_center_xywh",
        height=height,
        width=width,
    )


def corners(boxes):
    """Left, top, right and bottom of middles and sizes."""
    return keras.utils.bounding_boxes.convert_format(
        boxes, source="center_xywh", target="xyxy"
    )


def complete_overlaps(one, other):
    """CIoU of boxes, each with the one in its place."""
    return keras.utils.bounding_boxes.compute_ciou(
        corners(one), corners(other), "xyxy"
    )


def matches(detector, logits, boxes, true):
    """Tensor (batch, sets, queries, boxes) of 1 where two belong together.

    Each true box has one query of a set, and none has two: the cheapest of
    all such choices, by the costs of the detector.

    Reference:
        - [Carion et al., 2020](https://arxiv.org/abs/2005.12872)
    """
    logits, boxes = map(ops.stop_gradient, (logits, boxes))
    by_class = ops.swapaxes(true.classes, -1, -2)
    said, wanted = boxes[..., None, :], true.boxes[:, :, None]
    cost = (
        detector.matcher_class_cost
        * ops.matmul(_class_costs(detector, logits), by_class)
        + detector.matcher_bbox_cost * ops.sum(ops.abs(said - wanted), axis=-1)
        - detector.matcher_ciou_cost * complete_overlaps(said, wanted)
    )
    return ops.stop_gradient(on_host(assigned, cost, true.is_box))


def _class_costs(detector, logits):
    """What each class costs each query: that of a focal loss, or a chance."""
    if not detector.use_focal_loss:
        return -ops.softmax(logits, axis=-1)
    alpha, gamma = detector.matcher_alpha, detector.matcher_gamma
    chance = ops.sigmoid(logits)
    hit = alpha * (1 - chance) ** gamma * -ops.log(chance + 1e-8)
    miss = (1 - alpha) * chance**gamma * -ops.log(1 - chance + 1e-8)
    return hit - miss


def assigned(cost, is_box):
    """The cheapest choice of each set, 0 and 1; arrays of NumPy.

    `cost` is of (batch, sets, queries, boxes), `is_box` of (batch, 1, boxes).
    """
    # A run that diverges is told by its loss.
    cost = np.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=-1e9)
    chosen = np.zeros_like(cost)
    for sets, mine, (real,) in zip(cost, chosen, is_box > 0, strict=True):
        (places,) = np.nonzero(real)
        for costs, one in zip(sets, mine, strict=True):
            pairs = scipy.optimize.linear_sum_assignment(costs[:, places])
            one[pairs[0], places[pairs[1]]] = 1
    return chosen
