"""Labels of data that comes in batches, looked at on their way into `fit`."""

import contextlib

import keras
import numpy as np


class LabelWatch:
    """Looks at the labels of every batch that is read, with `check`.

    Before training only a batch can be looked at, of data that shuffles not
    even one. On JAX a class that the model does not have would be learnt as
    none, without a word. From within a `tf.data.Dataset` an error comes as one
    of TensorFlow: it is kept as `error`.
    """

    def __init__(self, check):
        self.check = check
        self.error = None

    def look(self, labels):
        """Checks the labels of a batch, and remembers what is wrong."""
        try:
            self.check(labels)
        except ValueError as error:
            self.error = error
            raise

    def over(self, data):
        """Returns data that is the same, and looked at as it is read."""
        if hasattr(data, "element_spec"):
            return self._over_dataset(data)
        if isinstance(data, keras.utils.PyDataset):
            # Another process would need a copy of the model.
            several = data.use_multiprocessing
            return data if several else _WatchedData(data, self.look)
        if hasattr(data, "__next__"):
            return self._over_generator(data)
        return data

    def _over_generator(self, batches):
        for batch in batches:
            self.look(batch[1])
            yield batch

    def _over_dataset(self, dataset):
        import tensorflow as tf

        specs = keras.tree.flatten(dataset.element_spec[1])
        if not all(isinstance(spec, tf.TensorSpec) for spec in specs):
            return dataset

        def look(*arrays):
            self.look(keras.tree.pack_sequence_as(structure, arrays))
            return np.True_

        def see(*batch):
            labels = keras.tree.flatten(batch[1])
            seen = tf.numpy_function(look, labels, tf.bool)
            with tf.control_dependencies([seen]):
                return keras.tree.map_structure(tf.identity, batch)

        structure = dataset.element_spec[1]
        return dataset.map(see)

    @contextlib.contextmanager
    def telling(self):
        """Raises what was found instead of what TensorFlow makes of it."""
        try:
            yield
        except Exception:
            if self.error is None:
                raise
            error, self.error = self.error, None
            raise error from None


class _WatchedData(keras.utils.PyDataset):
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
        self.look(batch[1])
        return batch

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()
