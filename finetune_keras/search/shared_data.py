"""Data that all trials of a search read, decoded once."""

import collections
import hashlib

import keras
import numpy as np

from finetune_keras.cache.shared_activations import example_digests
from finetune_keras.data.pipeline import free_memory
from finetune_keras.data.source import Source, kind_of
from finetune_keras.data.source_batches import Dataset
from finetune_keras.data.source_examples import Arrays, Related, Texts
from finetune_keras.data.tf_data import is_augmented, is_shuffled

_DIGESTED = 2**26  # bytes of an array


def in_memory(data):
    """Turns a dataset into arrays, where that changes nothing.

    Trials then need not decode it again, and may have batches of any size. A
    dataset stays one where a second pass has other examples, since it augments
    or draws them at random; where it has no end, batches of different shapes or
    labels with names; or would take more than a third of the free memory. No
    trial can write to what all of them read.

    Args:
        data: As in `fine_tune`.

    Returns:
        Tuple of arrays, or `data`.
    """
    if kind_of(data) is Arrays:
        return keras.tree.map_structure(_read_only, tuple(data))
    if kind_of(data) is not Dataset or not _fits(data):
        return data
    arrays = _arrays(data)
    if _contents(data) != collections.Counter(example_digests(arrays)):
        return data
    return keras.tree.map_structure(_read_only, arrays)


def _contents(data):
    """Counts the examples of one more pass, with their labels."""
    counts = collections.Counter()
    for batch in data:
        counts.update(example_digests(batch))
    return counts


def _read_only(array):
    if not isinstance(array, np.ndarray):
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def _arrays(data):
    batches = [keras.tree.map_structure(np.asarray, batch) for batch in data]
    columns = [
        keras.tree.map_structure(lambda *parts: np.concatenate(parts), *column)
        for column in zip(*batches, strict=True)
    ]
    return _in_fixed_order(columns) if is_shuffled(data) else tuple(columns)


def _in_fixed_order(columns):
    """Sorts examples by content: the order of a shuffled pass is no other."""
    digests = example_digests(columns[0])
    order = np.array(sorted(range(len(digests)), key=digests.__getitem__))
    return tuple(
        keras.tree.map_structure(lambda array: array[order], column)
        for column in columns
    )


def _fits(data):
    spec = data.element_spec
    if not isinstance(spec, tuple) or int(data.cardinality()) < 1:
        return False
    if any(keras.tree.is_nested(labels) for labels in spec[1:]):
        return False
    parts = keras.tree.flatten(spec)
    shapes = [getattr(part, "shape", None) for part in parts]
    if any(s is None or s.rank is None or None in s[1:] for s in shapes):
        return False
    if is_augmented(data):
        return False
    first = keras.tree.flatten(next(iter(data)))
    size = sum(np.asarray(part).nbytes for part in first)
    return size * int(data.cardinality()) < free_memory() / 3


def describe(data):
    """Returns what tells data from other data, without reading it all."""
    if kind_of(data) is Arrays:
        return [_digest(part) for part in data]
    if kind_of(data) is Dataset:
        return [int(data.cardinality()), str(data.element_spec)]
    if kind_of(data) in (Texts, Related):
        return [Source.of(data, name="data").facts(_digest)]
    return [type(data).__name__]


def _digest(data):
    """Returns a digest of arrays, texts or lists; of large ones, of a part."""
    found = hashlib.blake2b(digest_size=8)
    for part in keras.tree.flatten(data):
        part = np.asarray(part)
        found.update(f"{part.dtype}{part.shape}".encode())
        if part.ndim:
            part = part[:: 1 + part.nbytes // _DIGESTED]
        # The bytes of objects, such as strings, would be addresses.
        is_object = part.dtype == "O"
        found.update(
            repr(part.tolist()).encode() if is_object else part.tobytes()
        )
    return found.hexdigest()


def drop_old(shared, budget):
    """Forgets the oldest prefixes once activations take too much memory.

    Args:
        shared: A `SharedActivations`.
        budget: Integer, bytes.
    """
    sizes = {name: _size(rows) for name, rows in shared.rows.items()}
    for name in list(shared.rows):
        if sum(sizes.values()) <= budget:
            return
        del shared.rows[name], sizes[name]


def _size(rows):
    row = next(iter(rows.values()), ())
    return len(rows) * sum(part.nbytes for part in row)
