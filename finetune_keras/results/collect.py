"""One pass over the data: labels, predictions and the worst inputs."""

import hashlib
import math

import keras
import numpy as np

from finetune_keras.data.box_checks import check_boxes
from finetune_keras.data.grouped import learns_groups
from finetune_keras.data.labels import as_text
from finetune_keras.data.outputs import check_shape, is_detector
from finetune_keras.data.pairs import Pairs
from finetune_keras.data.task import Task
from finetune_keras.models.detectors import BoxFinder, true_boxes
from finetune_keras.results.mask_outcomes import MaskOutcomes, beside_truth
from finetune_keras.results.outcomes import Outcomes
from finetune_keras.results.predicted import (
    as_arrays,
    checked_weights,
    open_data,
    predict_batch,
    to_numpy,
)
from finetune_keras.results.retrieval import search_groups, search_pairs


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
        return lambda x, y: _read_boxes(find, to_numpy(x), y)
    return lambda x, y: _read_one(model, x, y)


def _read_one(model, x, y):
    _check_batch(y)
    outputs = predict_batch(model, x)
    return y, outputs, keras.tree.map_structure(to_numpy, x)


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
        weight = checked_weights(np.concatenate(weights), len(labels))
    vectors = np.concatenate(vectors)
    found, asks = search_groups(vectors, labels, weight)
    # What comes in batches is not kept: any of it may be among the worst.
    if isinstance(data, (tuple, list)):
        x = as_arrays(data[0])
        worst.update(found.losses, 0, lambda i: _copy(x, asks[i]))
    return found, worst.kept


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
        checked_weights(weight, len(labels)),
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
        weight = checked_weights(weight, len(labels))
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
