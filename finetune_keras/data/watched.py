"""Data of which each batch is looked at as `fit` reads it.

A batch taken beforehand would be drawn from the order as well, and training
would no longer be that of a plain model. What looks may raise.
"""

import keras
import numpy as np

from finetune_keras.engine.packages import tensorflow as tf


def watched_dataset(dataset, look, pick, every):
    """A `tf.data.Dataset`; `every` batch, or the first of a pass."""
    structure = pick(dataset.element_spec)
    specs = keras.tree.flatten(structure)
    plain = all(isinstance(spec, tf.TensorSpec) for spec in specs)
    # One that is distributed already has no such method.
    if not (plain and hasattr(dataset, "enumerate")):
        return dataset

    def call(*arrays):
        look(keras.tree.pack_sequence_as(structure, arrays))
        return np.True_

    def see(index, batch):
        parts = keras.tree.flatten(pick(batch))
        tf.cond(
            every | (index == 0),
            lambda: tf.numpy_function(call, parts, tf.bool),
            lambda: True,
        )
        return batch

    return dataset.enumerate().map(see)


def watched_batches(batches, look):
    """A generator over the batches of an iterator."""
    for batch in batches:
        look(batch)
        yield batch


def watched_loader(loader, look):
    """A torch `DataLoader` that is the same but for the look."""

    class Watched(type(loader)):
        def __init__(self):
            # Of one state: its workers may outlive an epoch.
            self.__dict__ = loader.__dict__

        def __iter__(self):
            return watched_batches(super().__iter__(), look)

    return Watched()


class WatchedSequence(keras.utils.PyDataset):
    """A `keras.utils.PyDataset` around another one."""

    def __init__(self, data, look):
        super().__init__(
            workers=data.workers, max_queue_size=data.max_queue_size
        )
        self.data, self.look = data, look

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        batch = self.data[index]
        self.look(batch)
        return batch

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()


class InOrder(keras.utils.PyDataset):
    """An iterable of batches that `fit` of Keras does not know."""

    def __init__(self, data):
        super().__init__()
        self.data, self.left = data, iter(())

    def __iter__(self):
        return iter(self.data)

    @property
    def num_batches(self):
        return len(self.data) if hasattr(self.data, "__len__") else None

    def __getitem__(self, index):
        batch = next(self.left, None) if index else None
        if batch is None:
            self.left = iter(self.data)
            batch = next(self.left)
        return batch
