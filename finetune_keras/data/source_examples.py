"""Sources of examples, which `fit` puts into batches: arrays and texts."""

import keras

from finetune_keras.data.buckets import Buckets
from finetune_keras.data.pairs import Pairs
from finetune_keras.data.prompts import Prompts
from finetune_keras.data.source import Source

NAMES = ("x", "y", "sample_weight")


class Arrays(Source):
    """A tuple of arrays: `(x, y)` or `(x, y, sample_weight)`."""

    fit_shuffles = True

    @staticmethod
    def fits(data):
        return isinstance(data, (tuple, list))

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

    @staticmethod
    def fits(data):
        return isinstance(data, Buckets)

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

    @staticmethod
    def fits(data):
        return isinstance(data, Pairs)

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

    @staticmethod
    def fits(data):
        return isinstance(data, Prompts)

    @property
    def num_batches(self):
        return -(-len(self.data) // (self.batch_size or 32))

    def example(self):
        return None

    def facts(self, digest):
        return self.data.facts(digest)


KINDS = (Arrays, TextBuckets, Related, Texts)
