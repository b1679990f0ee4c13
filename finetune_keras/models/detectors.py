"""Detectors of KerasHub: other classes, and boxes as they predict them."""

import contextlib
import inspect

import keras
import numpy as np

from finetune_keras.arguments import check, integer
from finetune_keras.data.box_formats import from_format, to_format
from finetune_keras.data.detection import padded
from finetune_keras.data.outputs import predicts_a_set
from finetune_keras.models.outside_graph import prepares_inputs

# A detector is judged on what it is not sure of, too.
_LEAST_SCORE = 0.01
_PRIOR = 0.01


def detector_of(model, num_classes):
    """A detector with so many classes and all its other weights.

    The backbone is the same object; weights that hang on the number of
    classes start anew, at a probability of 0.01, all others are copied.
    """
    check(num_classes=(num_classes, integer(1), "the classes of the boxes"))
    new, count = _of_classes(model, int(num_classes)), model.num_classes
    # Which weights these are is told by another number of classes.
    other = new if count != num_classes else _of_classes(model, count + 1)
    pairs = zip(model.weights, new.weights, other.weights, strict=True)
    for weight, mine, its in pairs:
        if weight.shape == its.shape:
            mine.assign(weight)
        mine.trainable = weight.trainable
    logits = getattr(_head(new), "prediction_layer", None)
    if logits is not None:
        prior = np.log(_PRIOR / (1 - _PRIOR))
        logits.bias.assign(np.full(logits.bias.shape, prior))
    return new


def _head(model):
    return getattr(model, "classification_head", None)


def _of_classes(model, num_classes):
    config = {**model.get_config(), "num_classes": num_classes}
    # That of D-FINE has heads in it.
    if not hasattr(model.backbone, "num_labels"):
        config["backbone"] = model.backbone
    # KerasHub leaves it out of the config.
    known = inspect.signature(type(model).__init__).parameters
    if "activation" in known:
        config["activation"] = model.activation
    return type(model).from_config(config)


def check_trains_on_boxes(model):
    """Refuses a D-FINE that denoises boxes of its own, not of the data."""
    if predicts_a_set(model) and "dn_num_group" in model.output:
        raise ValueError(
            "The backbone of this D-FINE was made with `labels`: it would "
            "learn to denoise the boxes of these pictures whatever it is "
            "shown. Make it with `labels=None`; the other weights are the "
            f"same. Received: model={model.name!r}"
        )


# === Predictions ===


class BoxFinder:
    """Asks a detector for all boxes, those of low scores too if `every`.

    KerasHub's own `predict` fails where batches differ in size.
    """

    def __init__(self, model, every=False):
        self.model, self.every = model, every
        self.graph = keras.Model(model.input, model.output)

    def __call__(self, x, batch_size=32):
        """Rows (left, top, right, bottom, class, score), float32.

        An array (pictures, boxes, 6), filled with -1, in pixels of what the
        graph of the detector sees.
        """
        starts = range(0, len(x), batch_size)
        parts = [self._rows(x[i : i + batch_size]) for i in starts]
        most = max(part.shape[1] for part in parts)
        return np.concatenate([padded(part, 6, most) for part in parts])

    def _rows(self, x):
        seen, _ = prepared_boxes(self.model, x)
        raw = self.graph.predict_on_batch(seen)
        raw, images = keras.tree.map_structure(
            keras.ops.convert_to_tensor, (raw, seen)
        )
        with self._deciding() as form:
            found = self.model.decode_predictions(raw, images)
        found = keras.tree.map_structure(_to_numpy, found)
        height, width = map(int, _sides(seen))
        boxes = from_format(found["boxes"], form, height, width)
        rows = _rows(boxes, found["labels"], found["confidence"])
        most = int((rows[..., 4] >= 0).sum(axis=1).max(initial=0))
        return rows[:, : max(most, 1)]

    @contextlib.contextmanager
    def _deciding(self):
        """Sets the decoder, and yields the format in which it gives boxes."""
        decoder, form = self.model.prediction_decoder, _decoded_to(self.model)
        # Not as another decoder: a model keeps each that it was given.
        changes = {"bounding_box_format": form}
        least = getattr(decoder, "confidence_threshold", None)
        if self.every and least is not None:
            changes["confidence_threshold"] = min(least, _LEAST_SCORE)
        before = {name: getattr(decoder, name) for name in changes}
        try:
            _set(decoder, changes)
            yield form
        finally:
            _set(decoder, before)


def _decoded_to(model):
    # KerasHub decodes a D-FINE to this, whatever its own format is.
    return "yxyx" if predicts_a_set(model) else model.bounding_box_format


def _set(decoder, changes):
    for name, value in changes.items():
        setattr(decoder, name, value)


def true_boxes(model, x, y):
    """`(pictures, rows)` as the graph sees them; of rows see `Detection`."""
    seen, y = prepared_boxes(model, x, y)
    boxes = _corners(model, y["boxes"], *_sides(seen))
    return seen, _rows(boxes, y["labels"])


def prepared_boxes(model, x, y=None):
    """Pictures and boxes behind the preprocessor of a model, arrays."""
    if prepares_inputs(model):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(
            model.preprocess_samples(x, y)
        )
    return keras.tree.map_structure(
        lambda part: None if part is None else _to_numpy(part), (x, y)
    )


def _to_numpy(part):
    # What a preprocessor gives may be of TensorFlow on each backend.
    is_of_backend = keras.ops.is_tensor(part)
    return keras.ops.convert_to_numpy(part) if is_of_backend else np.array(part)


def _sides(pictures):
    first = keras.config.image_data_format() == "channels_first"
    return pictures.shape[2:4] if first else pictures.shape[1:3]


def _corners(model, boxes, height, width):
    form = model.bounding_box_format
    return from_format(boxes, form, int(height), int(width))


def _rows(boxes, labels, *scores):
    columns = [np.asarray(c, "float32")[..., None] for c in (labels, *scores)]
    rows = np.concatenate([np.asarray(boxes, "float32"), *columns], axis=-1)
    return np.where(rows[..., 4:5] >= 0, rows, np.float32(-1.0))


def in_pictures(model, rows, x, sizes):
    """Rows of predicted boxes in pixels of the pictures, a list of arrays.

    `x` are the pictures as they were read, `sizes` (width, height) of each.
    """
    height, width = map(float, _sides(x))
    # A box of the middle tells where the preprocessor puts things.
    probe = np.array([[[width, height, 3 * width, 3 * height]]]) / 4
    form = model.bounding_box_format
    probed = to_format(probe, form, height, width)
    y = {"boxes": probed, "labels": np.zeros((1, 1), "int32")}
    placed = true_boxes(model, x[:1], y)[1][0, 0, :4]
    scale = (placed[2:] - placed[:2]) / [width / 2, height / 2]
    shift = placed[:2] - scale * probe[0, 0, :2]
    found = []
    for some, size in zip(rows, sizes, strict=True):
        some = some[some[:, 4] >= 0].astype("float64")
        corners = (some[:, :4] - np.tile(shift, 2)) / np.tile(scale, 2)
        times = np.tile(np.divide(size, [width, height]), 2)
        some[:, :4] = np.clip(corners * times, 0.0, np.tile(size, 2))
        found.append(some)
    return found


def image_size_of(model):
    """`[height, width]` that a detector resizes to, or `None`."""
    preprocessor = getattr(model, "preprocessor", None)
    converter = getattr(preprocessor, "image_converter", None)
    size = getattr(converter, "image_size", None)
    if size is None and hasattr(model, "inputs"):
        size = _sides(model.inputs[0])
    return None if size is None or None in size else [int(n) for n in size]
