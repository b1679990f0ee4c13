"""Data read for an evaluation, and what a model predicts of them."""

import itertools
import math
import numbers

import keras
import numpy as np

from finetune_keras.data.source import Source
from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.training.data_checks import check_tuple, labels_of


def predict_batch(model, x):
    """Predicts a batch of any source, one prediction of each example.

    Of several replicas each predicts the whole batch, one after the other.
    """
    count = len(keras.tree.flatten(x)[0])
    outputs = model.predict_on_batch(_for_backend(x))
    if isinstance(outputs, list):
        # Of texts, what a person asked for.
        return outputs
    return keras.tree.map_structure(lambda array: array[:count], outputs)


def _predict_filled(model, x, full):
    """Another shape of the last batch would be traced, or compiled, anew."""
    count = len(keras.tree.flatten(x)[0])
    if count == full or not _are_numbers(x):
        return predict_batch(model, x)
    x = filled(keras.tree.map_structure(to_numpy, x), full)
    outputs = predict_batch(model, x)
    if isinstance(outputs, list):
        return outputs[:count]
    return keras.tree.map_structure(lambda array: array[:count], outputs)


def _are_numbers(x):
    """Whether all are plain arrays of numbers: texts are of any length."""
    return all(
        hasattr(leaf, "__array__") and to_numpy(leaf).dtype.kind not in "OSU"
        for leaf in keras.tree.flatten(x)
    )


def filled(x, count):
    """A batch of arrays, with examples repeated up to so many."""
    return keras.tree.map_structure(
        lambda leaf: leaf[np.arange(max(count, len(leaf))) % len(leaf)], x
    )


def predict_all(model, data, name="data"):
    """Predicts all of the data, in one pass: `(outputs, labels, weights)`."""
    batches, _ = open_data(data, name=name)
    parts, full = [], 0
    for x, y, weight in batches:
        full = max(full, len(keras.tree.flatten(x)[0]))
        parts.append((_predict_filled(model, x, full), y, weight))
    if not parts:
        raise ValueError(
            f"`{name}` holds no example. Received: {name}={data!r}"
        )
    outputs, labels, weights = zip(*parts, strict=True)
    labels, weighted = np.concatenate(labels), weights[0] is not None
    weights = np.concatenate(weights) if weighted else None
    return (
        np.concatenate(outputs),
        labels,
        checked_weights(weights, len(labels)),
    )


def open_data(data, batch_size=32, steps=None, name="data"):
    """Returns an iterator over `(x, y, sample_weight)` and its length.

    `steps` are the most batches to read; what may never end needs it.
    """
    batches, size = _open(data, batch_size, name)
    if steps is not None:
        return itertools.islice(batches, steps), min(steps, size or steps)
    if size == math.inf:
        raise ValueError(
            f"`{name}` never ends, or, as a generator, may not. Leave out "
            "`repeat()`, or bound it: `dataset.take(100)`, or `steps=100` in "
            f"`evaluate`. Received: {name}={data!r}"
        )
    return batches, size


def _open(data, batch_size, name):
    if isinstance(data, (tuple, list)):
        data = _checked_arrays(data)
    source = Source.of(data, batch_size, name)
    return map(_parts, source.batches()), source.num_batches


def _checked_arrays(data):
    check_tuple(data, "data")
    parts = tuple(map(as_arrays, data))
    sizes = [len(x) for x in keras.tree.flatten(parts) if x is not None]
    if 0 in sizes or len(set(sizes)) > 1:
        raise ValueError(
            "The arrays of `data` must be of one length, and not empty. "
            f"Received: arrays of length {sizes}"
        )
    return parts


def as_arrays(part):
    """Lists of numbers or texts are arrays; what holds several stays one."""
    if part is None:
        return None
    if isinstance(part, (list, tuple)):
        scalar = (str, bytes, numbers.Number)
        if isinstance(part, tuple) and all(map(_are_texts, part)):
            return tuple(map(np.asarray, part))
        if not part or isinstance(part[0], (*scalar, list)):
            return np.asarray(part)
    if hasattr(part, "iloc"):
        return part.to_numpy()
    return keras.tree.map_structure(
        lambda leaf: leaf if _is_tensorflow(leaf) else to_numpy(leaf), part
    )


def _are_texts(part):
    if not isinstance(part, (list, tuple)) or not len(part):
        return False
    return isinstance(part[0], (str, bytes)) or _are_texts(part[0])


def _parts(batch):
    labels_of(batch, "data")
    x, y, *weight = batch
    y = keras.tree.map_structure(to_numpy, y)
    return x, y, to_numpy(weight[0]) if weight else None


def checked_weights(weight, size):
    """Sample weights, one number for each example, or `None`."""
    if weight is None:
        return None
    weight = np.asarray(weight, "float64")
    weight = weight[:, 0] if weight.shape == (size, 1) else weight
    if weight.shape != (size,) or not (weight >= 0).all():
        raise ValueError(
            "Sample weights must be one number for each example, none of "
            f"them negative. Received: sample_weight of shape {weight.shape}"
        )
    return weight


def _is_tensorflow(leaf):
    return type(leaf).__module__.startswith("tensorflow")


def to_numpy(leaf):
    """A tensor of any kind, or what an array can be made of, as an array."""
    if not _is_tensorflow(leaf):
        is_array = isinstance(leaf, np.ndarray) or not hasattr(leaf, "shape")
        if is_array or hasattr(leaf, "iloc"):
            return np.asarray(leaf)
        return keras.ops.convert_to_numpy(leaf)
    if "Sparse" in type(leaf).__name__:
        leaf = tf.sparse.to_dense(leaf)
    return leaf.numpy()


def _for_backend(x):
    """Tensors of `tf.data` are arrays for the other backends."""
    if backend.on("tensorflow"):
        return x
    return keras.tree.map_structure(to_numpy, x)
