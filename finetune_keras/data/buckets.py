"""Examples of many lengths, in batches of similar ones."""

import copy
import itertools

import keras
import numpy as np

from finetune_keras.engine.packages import tensorflow as tf

LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Buckets:
    """Sequences sorted into few lengths, so that little is padding.

    `parts` are tuples `(x, y)` or `(x, y, sample_weight)` of arrays, one for
    each length; `rows` tell where their examples stood before. Each batch has
    sequences of one bucket, padded to its length: compiled steps meet a
    handful of shapes. What does not fill a batch goes up to the next longer
    bucket, so that an epoch has one incomplete batch at most. `renew` makes
    the next `Buckets`, of data that change with each epoch.
    """

    def __init__(self, parts, batch_size=32, renew=None, rows=None):
        self.parts = parts
        self.batch_size = batch_size
        self.renew = renew
        self.rows = rows

    @classmethod
    def sort(
        cls,
        x,
        lengths,
        labels=(),
        batch_size=32,
        renew=None,
        cut_labels=False,
        limits=LENGTHS,
    ):
        """Sorts padded sequences into buckets.

        `lengths` tells how much of each is no padding; `labels` are further
        arrays, labels and sample weights, which `cut_labels` cuts as `x`;
        `limits` are the lengths of buckets.
        """
        longest = int(max(lengths))
        limits = [n for n in limits if n < longest] + [longest]
        order = np.argsort(lengths, kind="stable")
        bucket = np.searchsorted(limits, lengths[order])
        parts, rows, start = [], [], 0
        for i, limit in enumerate(limits):
            stop = int(np.searchsorted(bucket, i, side="right"))
            if limit != longest:
                stop -= (stop - start) % batch_size
            if stop <= start:
                continue
            chosen = np.sort(order[start:stop])
            rows.append(chosen)
            part = _take((x, *labels), chosen)
            short = keras.tree.map_structure(
                lambda array, limit=limit: array[:, :limit],
                part if cut_labels else part[0],
            )
            parts.append(short if cut_labels else (short, *part[1:]))
            start = stop
        return cls(parts, batch_size, renew, rows)

    def __len__(self):
        """Number of batches."""
        return sum(-(-size // self.batch_size) for size in self.sizes)

    @property
    def sizes(self):
        """List of integers, how many examples each part has."""
        return [len(keras.tree.flatten(part)[0]) for part in self.parts]

    def __iter__(self):
        """Iterates once over the batches, shortest first."""
        for part, rows in self._batches(None):
            yield _take(self.parts[part], rows)

    def dataset(self, shuffle=False):
        """Makes a `tf.data.Dataset`; each pass over it is an epoch.

        It ends after `len(self)` batches: of one without an end, Keras takes
        more where `steps_per_execution` does not divide the epoch. An order
        that changes hangs on the state of NumPy's random generator now.
        """
        spec = keras.tree.map_structure(
            lambda *a: tf.TensorSpec(_common_shape(a), a[0].dtype), *self.parts
        )
        seed = np.random.randint(2**31) if shuffle else None
        batches = self._endless(seed)

        def epoch():
            # Taken at once where a pass begins: Keras leaves some passes on
            # JAX and torch after a batch.
            for part, rows in list(itertools.islice(batches, len(self))):
                yield _take(part, rows)

        dataset = tf.data.Dataset.from_generator(epoch, output_signature=spec)
        known = tf.data.experimental.assert_cardinality(len(self))
        return dataset.apply(known).prefetch(2)

    def _endless(self, seed):
        random = None if seed is None else np.random.default_rng(seed)
        now = self
        while True:
            for part, rows in now._batches(random):
                yield now.parts[part], rows
            now = now.renew() if now.renew else now

    def _batches(self, random):
        """Lists `(part, rows)` for each batch of an epoch."""
        batches = []
        for part, size in enumerate(self.sizes):
            rows = self._order(part, random)
            starts = range(0, size, self.batch_size)
            batches += [(part, rows[i : i + self.batch_size]) for i in starts]
        if random is not None:
            random.shuffle(batches)
        return batches

    def _order(self, part, random):
        """The examples of a part in the order of an epoch."""
        rows = np.arange(self.sizes[part])
        if random is not None:
            random.shuffle(rows)
        return rows

    def with_parts(self, parts):
        """The same batches of other arrays, such as stored activations."""
        new = copy.copy(self)
        new.parts, new.renew = parts, None
        return new

    def restore(self, outputs):
        """Puts what was computed of each part back into the old order.

        Sequences are padded with zeros to the longest.
        """
        rows = np.concatenate(self.rows)
        shape = np.max([array.shape for array in outputs], axis=0)
        whole = np.concatenate([_pad(array, shape) for array in outputs])
        restored = np.empty_like(whole)
        restored[rows] = whole
        return restored


def _take(part, rows):
    return keras.tree.map_structure(lambda array: array[rows], part)


def _pad(array, shape):
    missing = [(0, 0)]
    missing += [
        (0, a - b) for a, b in zip(shape[1:], array.shape[1:], strict=True)
    ]
    return np.pad(array, missing)


def _common_shape(arrays):
    """The shape of batches: `None` where the parts differ."""
    sizes = zip(*(a.shape[1:] for a in arrays), strict=True)
    return (None, *(s[0] if len(set(s)) == 1 else None for s in sizes))
