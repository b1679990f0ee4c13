"""The number of a pass over a dataset, which its order can hang on."""

import numpy as np

from finetune_keras.engine.packages import tensorflow as tf

# Beside the seed of the order, so that draws do not hang together with it.
_DRAWS = 1


class Epochs:
    """Counts the passes over a dataset, or says which one each is to be.

    An order or a draw that hangs on a seed and this number alone is the same
    in another process that goes on in the middle of a training. `shuffles`
    tells whether the order hangs on it; `held` is the number of every pass
    from now on, or `None` to count on.
    """

    def __init__(self, shuffles=True):
        self.shuffles = shuffles
        self.passes = 0
        self.held = None

    def dataset(self, draw, shape):
        """Makes a `tf.data.Dataset` that is drawn anew for each pass.

        `draw` makes an array of integers of the number of the pass, and must
        not hang on anything that changes; its rows are the dataset.
        """

        def read(_):
            rows = tf.numpy_function(lambda: self._draw(draw), [], tf.int64)
            return tf.data.Dataset.from_tensor_slices(
                tf.ensure_shape(rows, shape)
            )

        dataset = tf.data.Dataset.from_tensors(0).flat_map(read)
        size = tf.data.experimental.assert_cardinality(shape[0])
        dataset = dataset.apply(size)
        dataset.epochs = self
        return dataset

    def _draw(self, draw):
        epoch = self.held
        if epoch is None:
            epoch, self.passes = self.passes, self.passes + 1
        return np.asarray(draw(epoch), "int64")


def with_draws(batches, seed):
    """Pairs of a batch and a number, drawn anew in each pass.

    The draws hang on the seed and the number of the pass alone.
    """
    count = int(batches.cardinality())
    draws = Epochs().dataset(
        lambda epoch: random_of(seed + _DRAWS, epoch).integers(
            2**31, size=count
        ),
        [count],
    )
    return tf.data.Dataset.zip((batches, draws))


def random_of(seed, epoch):
    """Returns a generator of NumPy for a pass."""
    return np.random.default_rng([int(seed) % 2**63, int(epoch)])
