"""Stored activations on their way into `fit`, with little else."""

import keras
import numpy as np

from finetune_keras.data.buckets import Buckets
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.engine.private import dataset_of_indices


def feed(model, train, validation, batch_size, shuffle):
    """Tells `fit` how to read stored activations, as a dict of arguments.

    A suffix is often so small that an epoch of `fit` spends most of its time
    on making iterators: four an epoch on TensorFlow. There one endless
    dataset serves all epochs, in the order in which `fit` would take the
    arrays, and one more the validation; what is on disk is read in batches,
    and not, as `fit` does, at once. Where `steps_per_execution` does not
    divide an epoch, `fit` would read on into the next one: it gets arrays.
    """
    if isinstance(train, Buckets):
        arguments = {"x": train.dataset(shuffle), "shuffle": False}
        if validation is not None:
            arguments["validation_data"] = validation.dataset()
        return arguments
    if not _may_be_endless(model, train, validation, batch_size):
        names = ("x", "y", "sample_weight")
        arguments = dict(zip(names, train, strict=False))
        arguments.update(batch_size=batch_size, shuffle=shuffle)
        return {**arguments, "validation_data": validation}
    # The datasets have their order; Keras warns of asking for another.
    arguments = {"x": _endless(train, batch_size, shuffle), "shuffle": False}
    arguments["steps_per_epoch"] = _steps(train, batch_size)
    if validation is not None:
        arguments["validation_data"] = _endless(validation, batch_size, False)
        arguments["validation_steps"] = _steps(validation, batch_size)
    return arguments


def in_order_of_fit(data, batch_size, shuffle):
    """A `tf.data.Dataset` over arrays in the order that `fit` would take.

    Args:
        data: Tuple of arrays, or of tuples and dicts of arrays.
        batch_size: Integer.
        shuffle: `True`, or `"batch"`, as `fit` takes it.
    """
    order = dataset_of_indices(np.arange(_length(data)), batch_size, shuffle)
    size = tf.data.experimental.assert_cardinality(_steps(data, batch_size))
    take = _taking(data)
    return order.map(lambda indices, *_: take(indices)).apply(size)


def _may_be_endless(model, train, validation, batch_size):
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync > 1:
        return False
    parts = [data for data in (train, validation) if data is not None]
    at_once = model.steps_per_execution
    return not any(_steps(data, batch_size) % at_once for data in parts)


def _steps(data, batch_size):
    return -(-_length(data) // batch_size)


def _length(data):
    return len(keras.tree.flatten(data[0])[0])


def _endless(data, batch_size, shuffle):
    """A `tf.data.Dataset` over arrays, without end."""
    order = _order(_length(data), batch_size, shuffle)
    return order.map(_taking(data)).prefetch(2)


def _taking(data):
    """What makes a batch of indices a batch of the data."""
    arrays = [_Rows(array) for array in keras.tree.flatten(data)]

    def take(indices):
        rows = [array.take(indices) for array in arrays]
        packed = keras.tree.pack_sequence_as(data, rows)
        return keras.tree.lists_to_tuples(packed)

    return take


def _order(length, batch_size, shuffle):
    """Batches of indices, epoch after epoch, as `fit` would take arrays."""
    if not shuffle:
        return tf.data.Dataset.range(length).batch(batch_size).repeat()
    order = dataset_of_indices(np.arange(length), batch_size, shuffle)
    order = order.map(lambda indices, *_: indices)
    # Under a global seed `fit` repeats its order: each new iterator begins
    # with the same state. `get_seed` knows another number where there is none.
    seeded = tf.compat.v1.get_seed(1)[0] != _NO_SEED
    return (order.cache() if seeded else order).repeat()


_NO_SEED = 87654321


class _Rows:
    """Rows of an array in memory, or of one on disk."""

    def __init__(self, array):
        self.on_disk = isinstance(array, np.memmap)
        self.array = array if self.on_disk else tf.constant(array)

    def take(self, indices):
        if not self.on_disk:
            return tf.gather(self.array, indices)
        array = self.array
        rows = tf.numpy_function(lambda i: array[i], [indices], array.dtype)
        return tf.ensure_shape(rows, (None, *array.shape[1:]))
