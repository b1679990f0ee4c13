"""From what a model learns: data in any form, with one face."""

import itertools
import math

import keras

from finetune_keras.data.buckets import Buckets
from finetune_keras.data.pairs import Pairs
from finetune_keras.data.prompts import Prompts
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

NAMES = ("x", "y", "sample_weight")
# The sampler of torch for streams; batches may come from the data itself.
_IN_ORDER = {
    "BatchSampler",
    "NoneType",
    "SequentialSampler",
    "_InfiniteConstantSampler",
}


class Source:
    """Data in one of the forms that `fit` takes; each form is a subclass.

    Args:
        data: The data.
        batch_size: Integer, of data that does not come in batches.

    Attributes:
        num_batches: Integer, batches of a pass; `math.inf` of what never
            ends, or may not, and `None` where it is not known.
        is_shuffled: Boolean, whether each pass has an order of its own.
        fit_shuffles: Boolean, whether `fit` gives it one.
        remembers_passes: Boolean, whether a pass hangs on those before.
        is_exhausted: Boolean, whether there is only one pass.
    """

    is_shuffled = fit_shuffles = remembers_passes = is_exhausted = False
    num_batches = None

    def __init__(self, data, batch_size=None):
        self.data = data
        self.batch_size = batch_size

    @staticmethod
    def of(data, batch_size=None, name="data"):
        """The source of data of any form; raises where it has none."""
        kind = kind_of(data)
        if kind is not None:
            return kind(data, batch_size)
        if hasattr(data, "flow_from_directory"):
            raise ValueError(
                f"`{name}` must hold examples, and a generator of images makes "
                "some: pass what its `flow_from_directory` or `flow` returns. "
                "`ft.image_folder` looks at every file first, and "
                '`ft.image_classifier(..., augmentation="medium")` varies '
                f"images. Received: {name} of type {type(data).__name__}"
            )
        raise ValueError(
            f"`{name}` must hold labels: pass a tuple of arrays (x, y), a "
            "batched `tf.data.Dataset`, a `keras.utils.PyDataset` or another "
            "iterable of batches. Of data with splits pass one, such as "
            f"`data.test`. Received: {name} of type {type(data).__name__}"
        )

    def held(self, epoch):
        """The source with the order and draws of an epoch, where it can."""
        return self

    def batches(self):
        """Iterates once over the batches."""
        return iter(self.data)

    def example(self):
        """A batch for its shapes, or `None` where a look would cost order."""
        return None if self.is_exhausted else next(iter(self.data))

    def spec(self):
        """What tells the shapes of a batch with no look at it, or `None`."""

    def first(self):
        """The first batch; `None` where it differs, or a look costs it."""

    def fit_arguments(self):
        """Dict of what `fit` takes."""
        # Keras warns of asking what has an order for another.
        return {"x": self.data, "shuffle": False}

    def watched(self, look, pick, every=True):
        """What `fit` reads of it; `look` sees what `pick` takes of batches.

        Of every batch, or at least of the first of a pass.
        """
        return self.seen(lambda batch: look(pick(batch)))

    def seen(self, look):
        """What `fit` reads of it; `look` sees its batches, where it can."""
        return self.data

    def facts(self, digest):
        """What tells it from other data, as plain data."""
        return {"class": type(self.data).__name__, "first batch": None}


class Arrays(Source):
    """A tuple of arrays: `(x, y)` or `(x, y, sample_weight)`."""

    fit_shuffles = True

    def __init__(self, data, batch_size=None):
        data = tuple(data)
        data = data[:2] if len(data) == 3 and data[2] is None else data
        super().__init__(data, batch_size or 32)

    @property
    def num_batches(self):
        size = keras.tree.flatten(self.data)[0].shape[0]
        return -(-size // self.batch_size)

    def batches(self):
        for index in range(self.num_batches):
            start = index * self.batch_size
            yield self._rows(slice(start, start + self.batch_size))

    def _rows(self, rows):
        return keras.tree.map_structure(
            lambda a: None if a is None else a[rows], self.data
        )

    def example(self):
        return self._rows(slice(self.batch_size))

    spec = example

    def fit_arguments(self):
        parts = dict(zip(NAMES, self.data, strict=False))
        return {**parts, "batch_size": self.batch_size}

    def facts(self, digest):
        parts = zip(NAMES, self.data, strict=False)
        return {name: digest(part) for name, part in parts}


class TextBuckets(Source):
    """Tokenised texts, sorted by length, or examples of groups."""

    fit_shuffles = True

    def __init__(self, data, batch_size=None):
        super().__init__(data, data.batch_size)

    @property
    def num_batches(self):
        return len(self.data)

    def spec(self):
        return self.example()

    def fit_arguments(self, shuffle=True, endless=False):
        data = self.data.dataset(shuffle)
        return {"x": data.repeat() if endless else data, "shuffle": False}

    def seen(self, look):
        return self.data.dataset()

    def held(self, epoch):
        draws = self.data.renew is not None and epoch is not None
        return TextBuckets(self.data.renew()) if draws else self


class Related(Source):
    """Pairs or triplets of inputs."""

    fit_shuffles = True

    def __init__(self, data, batch_size=None):
        super().__init__(data, batch_size or 32)

    @property
    def num_batches(self):
        return -(-len(self.data.units) // self.batch_size)

    def example(self):
        return None

    def facts(self, digest):
        return {"columns": [digest(column) for column in self.data.columns]}


class Texts(Source):
    """Prompts and answers, as they are before they are tokenised."""

    fit_shuffles = True

    @property
    def num_batches(self):
        return -(-len(self.data) // (self.batch_size or 32))

    def example(self):
        return None

    def facts(self, digest):
        data = self.data
        kinds = data.sequence_length, data.stride, data.packing
        return {"texts": digest(repr((data.examples, kinds)))}


class Dataset(Source):
    """A `tf.data.Dataset`."""

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


class Sequence(Source):
    """A `keras.utils.PyDataset`."""

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


class Loader(Source):
    """A `DataLoader` of torch, or data of grain: what Keras reads in order."""

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


class Batches(Source):
    """Another iterable of batches."""

    def __init__(self, data, batch_size=None):
        super().__init__(InOrder(data))

        self.num_batches = self.data.num_batches

    def seen(self, look):
        return WatchedSequence(self.data, look)

    def facts(self, digest):
        return {"class": type(self.data.data).__name__, "first batch": None}


class Generator(Source):
    """An iterator, which is over after one pass."""

    num_batches = math.inf
    remembers_passes = is_exhausted = True

    def seen(self, look):
        return watched_batches(self.data, look)


def same_twice(read):
    """What is read, if it is the same a second time; or `None`."""
    one, two = read(), read()
    return one if one == two else None


def kind_of(data):
    """The class of source that data is, or `None`."""
    return next((kind for kind, fits in _KINDS.items() if fits(data)), None)


def _is_loader(data):
    rooms = [kind.__module__ for kind in type(data).__mro__]
    return any(room.startswith(("torch.utils.data", "grain")) for room in rooms)


def _is_plain(data):
    return isinstance(data, (dict, str, bytes)) or hasattr(data, "shape")


_KINDS = {
    Arrays: lambda data: isinstance(data, (tuple, list)),
    TextBuckets: lambda data: isinstance(data, Buckets),
    Related: lambda data: isinstance(data, Pairs),
    Texts: lambda data: isinstance(data, Prompts),
    Sequence: lambda data: isinstance(data, keras.utils.PyDataset),
    Dataset: lambda data: hasattr(data, "element_spec"),
    Loader: _is_loader,
    Generator: lambda data: hasattr(data, "__next__"),
    Batches: lambda data: hasattr(data, "__iter__") and not _is_plain(data),
}
