"""One pass over the data: labels, predictions and the worst inputs."""

import hashlib
import itertools
import math
import numbers

import keras
import numpy as np

from finetune_keras.data.box_checks import check_boxes
from finetune_keras.data.grouped import learns_groups
from finetune_keras.data.labels import as_text
from finetune_keras.data.outputs import check_shape, is_detector
from finetune_keras.data.pairs import Pairs
from finetune_keras.data.source import Source
from finetune_keras.data.task import Task
from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.models.detectors import BoxFinder, true_boxes
from finetune_keras.results.mask_outcomes import MaskOutcomes, beside_truth
from finetune_keras.results.outcomes import Outcomes
from finetune_keras.results.retrieval import search_groups, search_pairs
from finetune_keras.training.data_checks import check_tuple, labels_of


def collect(model, data, told, threshold, worst, batch_size, steps, verbose):
    """Predicts all of the data once: `(outcomes, worst)`.

    Labels and inputs are taken from the same batches as the predictions, so
    that a data set that shuffles stays aligned. `told` are task, classes and
    whether outputs are logits, each `None` to infer it; of `worst` losses, the
    highest first, it lists `(loss, index, input)`.
    """
    kept = Task.of(model)
    if getattr(kept, "is_compared", False):
        found, kept = _compare(model, data, worst, batch_size, steps, verbose)
        found.threshold = threshold
        return found, kept
    learns_groups(kept, data)
    several = getattr(model, "outputs", None) or ()
    if len(several) > 1 and not is_detector(model):
        check_shape(several, "evaluate")
    batches, steps = open_data(data, batch_size, steps)
    bar = keras.utils.Progbar(steps) if verbose else None
    worst = _Worst(worst)
    parts, task, position = [], None, 0
    read = reader_of(model)
    for x, y, weight in batches:
        y, outputs, arrays = read(x, y)
        if kept is not None:
            y, outputs = kept.as_judged(arrays, y, outputs)
        if task is None:
            task = Task.of_batch(model, y, outputs, *told)
            if task.is_dense and task.ignore_class is None:
                task.ignore_class = getattr(data, "ignore_class", None)
            if threshold is not None:
                task.threshold = threshold
        part, show = _read(task, arrays, (y, outputs, weight), task.threshold)
        worst.update(part.losses, position, show)
        parts.append(part)
        position += len(part)
        if bar is not None:
            bar.update(len(parts), finalize=False)
    if bar is not None and parts:
        bar.update(len(parts), finalize=True)
    if not position:
        _refuse_empty(data)
    return _join(parts), worst.kept


def reader_of(model):
    """A function from `(x, y)` to labels, outputs, and what is shown.

    A detector gives boxes of low scores too.
    """
    if is_detector(model):
        find = BoxFinder(model, every=True)
        return lambda x, y: _read_boxes(find, _to_numpy(x), y)
    return lambda x, y: _read_one(model, x, y)


def _read_one(model, x, y):
    _check_batch(y)
    outputs = predict_batch(model, x)
    return y, outputs, keras.tree.map_structure(_to_numpy, x)


def _read_boxes(find, x, y):
    check_boxes(y, Task.of(find.model), "data")
    seen, true = true_boxes(find.model, x, y)
    shown = x if x.shape == seen.shape else seen
    return true, find(x), shown


def _refuse_empty(data):
    raise ValueError(
        "`data` is empty: it has no example. "
        f"Received: data={type(data).__name__}"
    )


def _compare(model, data, worst, batch_size, steps, verbose):
    """The same of a model whose outputs are judged by which are near."""
    worst = _Worst(worst)
    if isinstance(data, Pairs):
        found, x = search_pairs(model, data, batch_size, verbose)
        worst.update(found.losses, 0, lambda i: x[i])
        return found, worst.kept
    read, _ = open_data(data, batch_size, steps)
    parts = [(predict_batch(model, x), y, weight) for x, y, weight in read]
    if not parts:
        _refuse_empty(data)
    vectors, labels, weights = zip(*parts, strict=True)
    labels, weight = np.concatenate(labels), None
    if weights[0] is not None:
        weight = _weights(np.concatenate(weights), len(labels))
    vectors = np.concatenate(vectors)
    found, asks = search_groups(vectors, labels, weight)
    # What comes in batches is not kept: any of it may be among the worst.
    if isinstance(data, (tuple, list)):
        x = as_arrays(data[0])
        worst.update(found.losses, 0, lambda i: _copy(x, asks[i]))
    return found, worst.kept


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


def predict_all(model, data, name="data"):
    """Predicts all of the data, in one pass: `(outputs, labels, weights)`."""
    batches, _ = open_data(data, name=name)
    parts = [(predict_batch(model, x), y, weight) for x, y, weight in batches]
    if not parts:
        raise ValueError(
            f"`{name}` holds no example. Received: {name}={data!r}"
        )
    outputs, labels, weights = zip(*parts, strict=True)
    labels, weighted = np.concatenate(labels), weights[0] is not None
    weights = np.concatenate(weights) if weighted else None
    return np.concatenate(outputs), labels, _weights(weights, len(labels))


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


def _read(task, x, batch, threshold):
    y, outputs, weight = batch
    labels, outputs = task.labels(y), task.scores(outputs)
    if task.is_dense:
        return _read_masks(task, x, (labels, outputs, weight), threshold)
    if len(labels) != len(outputs):
        raise ValueError(
            "There must be one label for each prediction. Received: "
            f"{len(labels)} labels and {len(outputs)} predictions in a batch"
        )
    part = Outcomes(
        labels,
        outputs,
        task,
        threshold,
        _weights(weight, len(labels)),
        _keys(x, labels),
    )
    return part, lambda i: _copy(x, i)


def _read_masks(task, x, batch, threshold):
    labels, scores, weight = batch
    if labels.shape != scores.shape[:-1]:
        raise ValueError(
            "The masks must have the size of those that the model gives, "
            f"{scores.shape[1:3]}. Received: masks of {labels.shape[1:]}"
        )
    if np.ndim(weight) < 3:
        weight = _weights(weight, len(labels))
    keys = _keys(x, labels)
    part = MaskOutcomes.of(task, labels, scores, threshold, weight, keys)

    def show(i):
        one = _copy(x, i)
        return beside_truth(task, one, labels[i], scores[i], threshold)

    return part, show


def _join(parts):
    first, whole = parts[0], {}
    for name in first.arrays:
        arrays = [getattr(part, name) for part in parts]
        arrays = first.task.joinable(arrays)
        lacking = any(array is None for array in arrays)
        whole[name] = None if lacking else np.concatenate(arrays)
    weight = whole["sample_weight"]
    if weight is not None and not weight.sum() > 0:
        raise ValueError("All sample weights are zero. Received: only zeros")
    return type(first)(task=first.task, threshold=first.threshold, **whole)


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
        lambda leaf: leaf if _is_tensorflow(leaf) else _to_numpy(leaf), part
    )


def _are_texts(part):
    if not isinstance(part, (list, tuple)) or not len(part):
        return False
    return isinstance(part[0], (str, bytes)) or _are_texts(part[0])


def _parts(batch):
    labels_of(batch, "data")
    x, y, *weight = batch
    y = keras.tree.map_structure(_to_numpy, y)
    return x, y, _to_numpy(weight[0]) if weight else None


def _check_batch(y):
    if isinstance(y, (dict, list, tuple)):
        raise ValueError(
            "`data` must have one array of labels for a model with one "
            f"output. Received: labels in a {type(y).__name__}"
        )
    if y is None or np.ndim(y) == 0 or not np.size(y):
        raise ValueError(
            "`data` must come in batches with labels: `dataset.batch(32)`. "
            f"Received: labels of shape {np.shape(y)}"
        )


def _weights(weight, size):
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


def _to_numpy(leaf):
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
    return keras.tree.map_structure(_to_numpy, x)


def _keys(x, labels):
    """Digest of each example, so that two shuffled passes can be aligned."""
    leaves = keras.tree.flatten(x)
    keys = np.empty(len(labels), "uint64")
    for i, label in enumerate(labels):
        found = hashlib.blake2b(label.tobytes(), digest_size=8)
        for leaf in leaves:
            found.update(_bytes(leaf[i]))
        keys[i] = int.from_bytes(found.digest(), "little")
    return keys


def _bytes(value):
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OSU":
        return np.ascontiguousarray(value).tobytes()
    if isinstance(value, np.generic) and value.dtype.kind not in "OSU":
        return value.tobytes()
    values = np.ravel(np.asarray(value, dtype=object))
    return "\0".join(map(as_text, values)).encode("utf-8", "surrogatepass")


class _Worst:
    """Keeps the inputs with the highest losses, and lets the others go."""

    def __init__(self, size):
        self.size = size
        self.kept = []

    def update(self, losses, start, show):
        full = self.kept and len(self.kept) == self.size
        least = self.kept[-1][0] if full else -math.inf
        order = np.argsort(-losses, kind="stable")[: self.size]
        self.kept += [
            (float(losses[i]), start + int(i), show(i))
            for i in order
            if losses[i] > least
        ]
        # The earlier of two equal losses is kept.
        self.kept.sort(key=lambda entry: (-entry[0], entry[1]))
        del self.kept[self.size :]


def _copy(x, i):
    """One example, copied so that its batch is not kept with it."""
    return keras.tree.map_structure(
        lambda leaf: np.array(leaf[i]) if np.ndim(leaf[i]) else leaf[i], x
    )
