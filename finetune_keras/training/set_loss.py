"""The loss of KerasHub's D-FINE, right for any number of boxes a picture.

Its own counts what fills up as boxes, gives each picture the boxes of the
first one of its batch, and matches in loops that take minutes and do not find
the cheapest.
"""

import contextlib

import keras
from keras import ops

from finetune_keras.data.outputs import predicts_a_set
from finetune_keras.engine.fit_state import other_loss
from finetune_keras.engine.packages import require, scipy
from finetune_keras.training.set_matching import (
    TrueBoxes,
    complete_overlaps,
    corners,
    matches,
)


@contextlib.contextmanager
def learns_sets(model):
    """Has a D-FINE learn by `set_loss`; its own loss is back at the end.

    All other models are left alone.
    """
    if not predicts_a_set(model):
        yield
        return
    require(scipy)

    def compute_loss(x, y, y_pred, sample_weight=None, training=True):
        if sample_weight is not None:
            raise ValueError(
                "The boxes of a D-FINE have no weights: leave out "
                "`sample_weight` and `class_weight`. "
                f"Received: model={model.name!r}"
            )
        return set_loss(model, x, y, y_pred)

    with other_loss(model, compute_loss):
        yield


def set_loss(detector, x, y, y_pred):
    """The loss of a batch: of each decoder layer, and of the encoder.

    All terms are sums over the batch for each true box, weighed by the
    `weight_dict` of the detector; with no box at all, all is background.

    Reference:
        - [Peng et al., 2024](https://arxiv.org/abs/2410.13842)
    """
    y_pred = {key: ops.cast(y_pred[key], "float32") for key in _OUTPUTS}
    logits, boxes = (_sets(y_pred, *names) for names in _SETS)
    boxes = ops.clip(boxes, 0.0, 1.0)
    true = TrueBoxes(detector, x, y)
    match = matches(detector, logits, boxes, true)
    chosen = _Chosen(boxes, match, true)
    # The encoder gives no distributions of sides.
    layers = chosen.of_layers()
    reference = ops.stop_gradient(y_pred["initial_reference_points"])
    sides = y_pred["intermediate_predicted_corners"]
    sides = ops.reshape(sides, (*ops.shape(reference), -1))
    ciou = complete_overlaps(boxes, chosen.boxes)
    terms = {
        "loss_vfl": _varifocal(detector, logits, chosen),
        "loss_bbox": ops.sum(
            ops.abs(boxes - chosen.boxes) * chosen.mask[..., None]
        ),
        "loss_ciou": ops.sum((1.0 - ciou) * chosen.mask),
        "loss_fgl": _fine_grained(detector, sides, reference, layers),
        "loss_ddf": true.count
        * _distilled(detector, sides, logits[:, :-1], layers),
    }
    weights = detector.weight_dict
    return sum(weights[k] * term for k, term in terms.items()) / true.count


_SETS = (
    ("intermediate_logits", "enc_topk_logits"),
    ("intermediate_reference_points", "enc_topk_bboxes"),
)
_OUTPUTS = (
    *(name for names in _SETS for name in names),
    "intermediate_predicted_corners",
    "initial_reference_points",
)


def _sets(y_pred, layers, encoder):
    """Predictions of all layers, and those of the encoder behind them."""
    return ops.concatenate([y_pred[layers], y_pred[encoder][:, None]], axis=1)


class _Chosen:
    """For each query what it is to become, zeros where that is nothing.

    Tensors of (batch, sets, queries): `mask` of 0 and 1, `iou` of the overlap
    so far, and of more axes `boxes` and `classes`.
    """

    def __init__(self, said, match, true):
        self.said = said
        self.mask = ops.sum(match, axis=-1)
        self.boxes = ops.matmul(match, true.boxes)
        self.classes = ops.matmul(match, true.classes)
        self.iou = ops.stop_gradient(self._overlaps()) * self.mask

    def _overlaps(self):
        # Keras tells those of all pairs: here each is alone.
        pair = [
            ops.reshape(corners(boxes), (-1, 1, 4))
            for boxes in (self.said, self.boxes)
        ]
        found = keras.utils.bounding_boxes.compute_iou(*pair, "xyxy")
        return ops.reshape(found, ops.shape(self.mask))

    def of_layers(self):
        """Without the last set, the encoder's."""
        other = object.__new__(type(self))
        parts = vars(self).items()
        vars(other).update({name: part[:, :-1] for name, part in parts})
        return other


# === Terms ===


def _varifocal(detector, logits, chosen):
    """Classes: the overlap is what a matched query is to say.

    Reference:
        - [Zhang et al., 2021](https://arxiv.org/abs/2008.13367)
    """
    alpha, gamma = detector.matcher_alpha, detector.matcher_gamma
    wanted = chosen.classes * chosen.iou[..., None]
    chance = ops.sigmoid(ops.stop_gradient(logits))
    weight = alpha * chance**gamma * (1 - chosen.classes) + wanted
    losses = ops.binary_crossentropy(wanted, logits, from_logits=True)
    return ops.sum(weight * losses)


def _fine_grained(detector, sides, reference, chosen):
    """How far each side is to go, said by the two bins next to it."""
    decoder = detector.backbone.decoder
    scale = ops.abs(ops.cast(decoder.reg_scale, "float32"))
    edges = _edges(decoder, scale)
    middle, size = reference[..., :2], reference[..., 2:]
    box = corners(chosen.boxes)
    ways = ops.concatenate([middle - box[..., :2], box[..., 2:] - middle], -1)
    size = ops.concatenate([size, size], axis=-1)
    ways = ways / (size / scale + 1e-16) - scale / 2
    # Of a side beyond the last edges it is the bin there.
    left = ops.sum(ops.cast(ways[..., None] >= edges[1:-1], "int32"), axis=-1)
    low, high = (ops.take(edges, left + i, axis=0) for i in (0, 1))
    right = ops.clip((ways - low) / (high - low), 0.0, 1.0)
    count = decoder.max_num_bins + 1
    wanted = (1 - right)[..., None] * ops.one_hot(left, count)
    wanted = wanted + right[..., None] * ops.one_hot(left + 1, count)
    losses = -ops.sum(
        ops.stop_gradient(wanted) * ops.log_softmax(sides, axis=-1), axis=-1
    )
    return ops.sum(ops.sum(losses, axis=-1) * chosen.iou)


def _edges(decoder, scale):
    """Where the bins lie: near together in the middle, as the paper has it."""
    half = decoder.max_num_bins // 2
    reach = ops.abs(ops.cast(decoder.upsampling_factor, "float32")) * scale
    places = ops.arange(1, half, dtype="float32")
    step = (reach + 1) ** (2 / (decoder.max_num_bins - 2))
    right = ops.concatenate([step**places - 1, 2 * reach])
    return ops.concatenate([-ops.flip(right), ops.zeros((1,)), right])


def _distilled(detector, sides, logits, chosen):
    """Layers learn from the distributions of the last.

    Queries that are matched and those that are not have means of their own,
    weighed by the roots of how many they are a picture; what the first
    learn counts by their overlap, else by what the last layer is sure of.
    """
    heat = detector.ddf_temperature
    teacher = ops.stop_gradient(sides[:, -1:]) / heat
    pupils = sides[:, :-2] / heat
    logs = ops.log_softmax(teacher, axis=-1)
    gap = ops.exp(logs) * (logs - ops.log_softmax(pupils, axis=-1))
    losses = heat**2 * ops.mean(ops.sum(gap, axis=-1), axis=-1)
    sure = ops.max(ops.sigmoid(ops.stop_gradient(logits[:, -1:])), axis=-1)
    mask, iou = chosen.mask[:, :-2], chosen.iou[:, :-2]
    total = roots = 0.0
    for part, weight in ((mask, iou), (1 - mask, sure)):
        count = ops.sum(part, axis=(0, 2))
        root = ops.sqrt(count)
        mean = ops.sum(losses * weight * part, axis=(0, 2))
        total += root * mean / ops.maximum(count, 1.0)
        roots += root
    return ops.sum(total / roots)
