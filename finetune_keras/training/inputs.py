"""Training and validation data, met at the door."""

import functools
import itertools
import math

import keras
import numpy as np

from finetune_keras.data.buckets import Buckets
from finetune_keras.data.label_checks import check_targets
from finetune_keras.data.labels import as_numbers
from finetune_keras.models.model import encoder_of
from finetune_keras.models.outside_graph import (
    prepares_inputs,
    texts_as_arrays,
)
from finetune_keras.models.tf_data import (
    epochs_of,
    is_shuffled,
    remembers_passes,
)
from finetune_keras.training.data_checks import (
    check_batched,
    check_names,
    has_labels,
)
from finetune_keras.training.label_watch import LabelWatch


class Inputs:
    """Data in any form that `model.fit` takes, checked against the model.

    Args:
        data: Tuple of arrays `(x, y)` or `(x, y, sample_weight)`, or a
            `tf.data.Dataset`, `keras.utils.PyDataset` or other iterable. Raw
            texts are tokenised if the model has an encoder.
        model: Compiled `keras.Model`.
        name: String, what messages call it, such as `"train"`.
        batch_size: Integer, batch size of arrays. Defaults to `32`.
        steps: Integer, steps an epoch, or `None`. Defaults to `None`.

    Attributes:
        given: The data as they were passed.
        shuffle: Boolean, whether the order of buckets changes with each
            epoch. `True` until it is set.
    """

    def __init__(self, data, model, name, batch_size=None, steps=None):
        check_batched(data, model, name)
        self.given = data
        if encoder_of(model) is not None:
            data = model.tokenize(data, batch_size, training=name == "train")
        self.is_arrays = isinstance(data, (tuple, list))
        if self.is_arrays and prepares_inputs(model):
            data = texts_as_arrays(data)
        if self.is_arrays and len(data) == 3 and data[2] is None:
            data = data[:2]
        self.data = data
        self.name = name
        self.steps = steps
        self.shuffle = True
        self.is_buckets = isinstance(data, Buckets)
        self.is_dataset = not self.is_arrays and hasattr(data, "element_spec")
        self.batch_size = (batch_size or 32) if self.is_arrays else batch_size
        self._check_form()
        if self.is_arrays:
            self._check_arrays()
        if self.is_buckets:
            self.batch_size = data.batch_size
        self.check = functools.partial(check_labels, model, name=name)
        for labels in self._labels():
            self.check(labels)
        self.watch = LabelWatch(self.check)

    @property
    def remembers_passes(self):
        """Whether its order or draws hang on the passes before."""
        if hasattr(self.given, "element_spec"):
            return remembers_passes(self.given)
        if isinstance(self.given, keras.utils.PyDataset):
            base = keras.utils.PyDataset
            hooks = ("on_epoch_begin", "on_epoch_end")
            own = [getattr(type(self.given), name) for name in hooks]
            return own != [getattr(base, name) for name in hooks]
        return hasattr(self.given, "__next__")

    def _look_costs_order(self):
        held = [e.held is not None for e in epochs_of(self.data)]
        if held and all(held):
            return remembers_passes(self.data)
        return is_shuffled(self.data)

    def hold_epoch(self, epoch):
        """Gives data of this library the order and draws of an epoch.

        Args:
            epoch: Integer, or `None` to let each pass have the next ones.
        """
        if self.is_dataset:
            for epochs in epochs_of(self.data):
                epochs.held = epoch
        if self.is_buckets and self.data.renew and epoch is not None:
            self.data = self.data.renew()

    @property
    def fit_arguments(self):
        """Dict of what `fit` takes for it."""
        if self.is_buckets:
            data = self.data.dataset(self.shuffle)
            # So many steps need not be an epoch, and go on in the next one.
            data = data.repeat() if self.steps else data
            return {"x": data, "shuffle": False}
        if not self.is_arrays:
            ordered = not isinstance(self.data, keras.utils.PyDataset)
            # Keras warns of asking a dataset for another order.
            order = {"shuffle": False} if ordered else {}
            return {"x": self.watch.over(self.data), **order}
        names = ("x", "y", "sample_weight")
        parts = dict(zip(names, self.data, strict=False))
        return {**parts, "batch_size": self.batch_size}

    @property
    def num_batches(self):
        """Integer, batches an epoch, or `None` where it is not known."""
        if self.steps:
            return self.steps
        if self.is_arrays:
            size = keras.tree.flatten(self.data[1])[0].shape[0]
            return -(-size // self.batch_size)
        if self.is_dataset:
            count = int(self.data.cardinality())
        elif isinstance(self.data, keras.utils.PyDataset):
            count = self.data.num_batches
        else:
            count = len(self.data) if hasattr(self.data, "__len__") else None
        return None if count is None or not 0 <= count < math.inf else count

    def batches(self):
        """Iterates once over `(x, y)` in batches, an epoch at most."""
        if not self.is_arrays:
            for batch in itertools.islice(self.data, self.steps):
                self.check(batch[1])
                yield batch
            return
        x_y = tuple(self.data[:2])
        size = keras.tree.flatten(x_y)[0].shape[0]
        for start in range(0, size, self.batch_size):
            part = slice(start, start + self.batch_size)
            yield keras.tree.map_structure(lambda a, p=part: a[p], x_y)

    def example(self):
        """A batch for its shapes, or `None` where a look would cost order."""
        if self.is_arrays:
            size = self.batch_size
            return keras.tree.map_structure(lambda a: a[:size], self.data)
        if isinstance(self.data, keras.utils.PyDataset):
            return self.data[0]
        costs_order = self.is_dataset and self._look_costs_order()
        if costs_order or hasattr(self.data, "__next__"):
            return None
        return next(iter(self.data))

    def spec(self):
        """What tells the shapes of a batch with no look at the data.

        Returns:
            Tuple of arrays or their specs, or `None`.
        """
        if self.is_dataset:
            return self.data.element_spec
        return self.example() if self.is_arrays or self.is_buckets else None

    @property
    def validation_arguments(self):
        """Dict of what `fit` takes to validate on it."""
        if self.is_arrays:
            return {"validation_data": tuple(self.data)}
        if self.is_buckets:
            return {"validation_data": self.data.dataset()}
        return {"validation_data": self.watch.over(self.data)}

    def _check_form(self):
        parts = self.data.parts[0] if self.is_buckets else self.data
        tuples = self.is_arrays or self.is_buckets
        if tuples and len(parts) not in (2, 3):
            raise ValueError(
                f"`{self.name}` must hold labels: a tuple (x, y) or (x, y, "
                f"sample_weight). Received: a tuple of {len(parts)}"
            )
        if self.is_dataset and not has_labels(self.data.element_spec):
            raise ValueError(
                f"`{self.name}` must hold labels: its elements must be tuples "
                "(x, y) or (x, y, sample_weight). Received: elements of "
                f"{self.data.element_spec}"
            )
        known = self.is_arrays or self.is_dataset
        known = known or isinstance(self.data, keras.utils.PyDataset)
        if hasattr(self.data, "__next__") and self.steps is None:
            training = self.name == "train"
            steps = "steps_per_epoch" if training else "validation_steps"
            raise ValueError(
                f"`{self.name}` is a generator, which one epoch may exhaust. "
                "Pass a `keras.utils.PyDataset` or a `tf.data.Dataset`, or "
                f"`{steps}` for an endless one. "
                f"Received: {self.name}={self.data!r}"
            )
        if not known and not hasattr(self.data, "__iter__"):
            raise ValueError(
                f"`{self.name}` must be a tuple of arrays, a "
                "`tf.data.Dataset` or a `keras.utils.PyDataset`. "
                f"Received: {self.name}={self.data!r}"
            )

    def _check_arrays(self):
        parts = keras.tree.flatten(tuple(self.data))
        odd = [part for part in parts if not getattr(part, "shape", ())]
        if isinstance(odd and odd[0], (str, bytes)):
            as_numbers(keras.tree.flatten(self.data[1]), self.name)
        if odd:
            raise ValueError(
                f"`{self.name}` must hold arrays, or lists, tuples or dicts "
                "of arrays. Turn lists of numbers into arrays with "
                f"`numpy.array`. Received: {odd[0]!r} among the arrays"
            )
        if any(map(_is_no_number, keras.tree.flatten(self.data[0]))):
            raise ValueError(
                f"`{self.name}` holds an array of nothing but NaN or infinity. "
                "Look at how it is made. Received: arrays of shapes "
                f"{[tuple(part.shape) for part in parts]}"
            )
        sizes = [part.shape[0] for part in parts]
        if 0 in sizes or len(set(sizes)) > 1:
            raise ValueError(
                f"The arrays of `{self.name}` must be of one length, and not "
                f"empty. Received: arrays of length {sizes}"
            )

    def _labels(self):
        """Labels that can be looked at: all of arrays, else of a batch."""
        if self.is_arrays:
            return [self.data[1]]
        if self.is_buckets:
            return [part[1] for part in self.data.parts]
        if isinstance(self.data, keras.utils.PyDataset):
            return self._first(self.data[0] if len(self.data) else None)
        if self.is_dataset:
            if int(self.data.cardinality()) == 0:
                return self._first(None)
            # Looking into a shuffled one would change its later orders.
            if not is_shuffled(self.data):
                return self._first(next(iter(self.data), None))
        return []

    def _first(self, batch):
        if batch is None:
            raise ValueError(
                f"`{self.name}` is empty: it has no batch. "
                f"Received: {self.name}={self.data!r}"
            )
        return [batch[1]]


def evaluation_arguments(data):
    """Dict of what `evaluate` takes to judge on arrays, data or buckets."""
    if isinstance(data, Buckets):
        return {"x": data.dataset()}
    if not isinstance(data, (tuple, list)):
        return {"x": data}
    return dict(zip(("x", "y", "sample_weight"), data, strict=False))


def _is_no_number(array):
    """Tells whether there is no finite number in an array of floats."""
    if getattr(getattr(array, "dtype", None), "kind", None) != "f":
        return False
    # The first rows tell it of most arrays, whatever their size.
    parts = (array[:8], array) if len(array) else ()
    return all(not np.isfinite(part).any() for part in parts) and bool(parts)


def check_labels(model, y, name):
    """Compares labels with the outputs of the model and their losses."""
    check_names(model, y, name)
    for labels, loss, output in _each_output(model, y):
        shape = None if output is None else tuple(output.shape)
        check_targets(labels, loss, shape, name)


def _each_output(model, y):
    """Lists `(labels, loss, output)`, as far as they can be told apart."""
    outputs = getattr(model, "outputs", None) or [None]
    loss = getattr(model, "loss", None)
    if len(outputs) == 1:
        parts = keras.tree.flatten(y), keras.tree.flatten(loss), outputs
        same = all(len(part) == 1 and part[0] is not None for part in parts[:2])
        return list(zip(*parts, strict=True)) if same else []
    names = model.output_names
    labels, losses = _by_name(y, names), _by_name(loss, names)
    return [
        (labels[name], losses[name], output)
        for name, output in zip(names, outputs, strict=True)
        if labels.get(name) is not None and losses.get(name) is not None
    ]


def _by_name(parts, names):
    if isinstance(parts, (list, tuple)) and len(parts) == len(names):
        return dict(zip(names, parts, strict=True))
    return parts if isinstance(parts, dict) else {}


def labels_rank(train):
    """Rank of a batch of labels, where it can be told without reading.

    A last dimension of one is not counted: ids of classes may come as columns.
    """
    if isinstance(train, (tuple, list)) and len(train) > 1:
        y = train[1]
        if isinstance(y, dict):
            return None
        # Lists of tags may differ in length.
        if isinstance(y, (list, tuple)) and len(y):
            return 1 + np.ndim(y[0])
        return _rank(np.shape(y))
    spec = getattr(train, "element_spec", None)
    if isinstance(spec, tuple) and len(spec) > 1:
        return _rank(getattr(spec[1], "shape", ()) or ())
    return None


def _rank(shape):
    return len(shape) - (len(shape) > 1 and shape[-1] == 1)
