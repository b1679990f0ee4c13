"""Sources of batches: what can be read one after the other."""

import itertools
import math

import keras

from finetune_keras.data.source import Source
from finetune_keras.data.tf_data import (
    epochs_of,
    is_random,
    is_shuffled,
    remembers_passes,
    sources,
)
from finetune_keras.data.watched import (
    InOrder,
    WatchedSequence,
    watched_batches,
    watched_dataset,
    watched_loader,
)

# The sampler of torch for streams; batches may come from the data itself.
_IN_ORDER = {
    "BatchSampler",
    "NoneType",
    "SequentialSampler",
    "_InfiniteConstantSampler",
}


class Sequence(Source):
    """A `keras.utils.PyDataset`."""

    @staticmethod
    def fits(data):
        return isinstance(data, keras.utils.PyDataset)

    @property
    def num_batches(self):
        count = self.data.num_batches
        return math.inf if count is None else count

    @property
    def remembers_passes(self):
        base, kind = keras.utils.PyDataset, type(self.data)
        hooks = ("on_epoch_begin", "on_epoch_end")
        return any(getattr(kind, n) is not getattr(base, n) for n in hooks)

    def batches(self):
        count = self.num_batches
        indices = itertools.count() if count == math.inf else range(count)
        return (self.data[i] for i in indices)

    def example(self):
        return self.data[0]

    def first(self):
        return self.data[0] if self.num_batches else None

    def fit_arguments(self):
        return {"x": self.data}

    def seen(self, look):
        if self.data.use_multiprocessing:
            # Another process would need a copy of the model.
            look(self.data[0])
            return self.data
        return WatchedSequence(self.data, look)

    def facts(self, digest):
        first = same_twice(lambda: digest([len(self.data), self.data[0]]))
        return {"class": type(self.data).__name__, "first batch": first}


class Dataset(Source):
    """A `tf.data.Dataset`."""

    @staticmethod
    def fits(data):
        return hasattr(data, "element_spec")

    @property
    def num_batches(self):
        size = int(self.data.cardinality())
        return {-1: math.inf, -2: None}.get(size, size)

    @property
    def is_shuffled(self):
        return is_shuffled(self.data)

    @property
    def remembers_passes(self):
        return remembers_passes(self.data)

    def held(self, epoch):
        for epochs in epochs_of(self.data):
            epochs.held = epoch
        return self

    def example(self):
        held = [e.held is not None for e in epochs_of(self.data)]
        if held and all(held):
            costs = self.remembers_passes
        else:
            costs = self.is_shuffled
        return None if costs else next(iter(self.data))

    def spec(self):
        return self.data.element_spec

    def first(self):
        # Looking into a shuffled one would change its later orders.
        return None if self.is_shuffled else next(iter(self.data), None)

    def watched(self, look, pick, every=True):
        return watched_dataset(self.data, look, pick, every)

    def facts(self, digest):
        data, first = self.data, None
        marks = [vars(x).get("fingerprint") for x in sources(data)]
        if not is_random(data):
            first = same_twice(lambda: digest(next(iter(data))))
        return {
            "batches": int(data.cardinality()),
            "spec": str(data.element_spec),
            "contents": [mark for mark in marks if mark],
            "first batch": first,
        }


class Loader(Source):
    """A `DataLoader` of torch, or data of grain: what Keras reads in order."""

    @staticmethod
    def fits(data):
        rooms = [kind.__module__ for kind in type(data).__mro__]
        parts = "torch.utils.data", "grain"
        return any(room.startswith(parts) for room in rooms)

    @property
    def num_batches(self):
        return len(self.data) if hasattr(self.data, "__len__") else None

    @property
    def is_shuffled(self):
        names = "sampler", "batch_sampler"
        samplers = [getattr(self.data, name, None) for name in names]
        return not {type(x).__name__ for x in samplers} <= _IN_ORDER

    remembers_passes = is_shuffled

    def example(self):
        return None if self.is_shuffled else next(iter(self.data))

    def seen(self, look):
        of_torch = hasattr(self.data, "batch_sampler")
        return watched_loader(self.data, look) if of_torch else self.data


class Generator(Source):
    """An iterator, which is over after one pass."""

    num_batches = math.inf
    remembers_passes = is_exhausted = True

    @staticmethod
    def fits(data):
        return hasattr(data, "__next__")

    def seen(self, look):
        return watched_batches(self.data, look)


class Batches(Source):
    """Another iterable of batches."""

    @staticmethod
    def fits(data):
        plain = isinstance(data, (dict, str, bytes)) or hasattr(data, "shape")
        return hasattr(data, "__iter__") and not plain

    def __init__(self, data, batch_size=None):
        super().__init__(InOrder(data))

        self.num_batches = self.data.num_batches

    def seen(self, look):
        return WatchedSequence(self.data, look)

    def facts(self, digest):
        return {"class": type(self.data.data).__name__, "first batch": None}


def same_twice(read):
    """What is read, if it is the same a second time; or `None`."""
    one, two = read(), read()
    return one if one == two else None


# What is an iterator has only one pass; what only iterates comes last.
KINDS = (Sequence, Dataset, Loader, Generator, Batches)
