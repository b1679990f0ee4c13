"""Training and validation data, met at the door."""

import functools
import itertools
import math

import keras
import numpy as np

from finetune_keras.data.box_checks import check_boxes
from finetune_keras.data.buckets import Buckets
from finetune_keras.data.grouped import in_groups, learns_groups
from finetune_keras.data.label_checks import check_targets
from finetune_keras.data.labels import as_numbers
from finetune_keras.data.outputs import is_detector, writes_text
from finetune_keras.data.prompts import Prompts
from finetune_keras.data.source import Source
from finetune_keras.data.source_batches import Dataset
from finetune_keras.data.source_examples import Arrays, TextBuckets
from finetune_keras.data.task import Task
from finetune_keras.models.detectors import check_trains_on_boxes
from finetune_keras.models.model import encoder_of
from finetune_keras.models.outside_graph import (
    leaves_arrays_in_order,
    prepares_inputs,
    texts_as_arrays,
)
from finetune_keras.text.generation import for_answers
from finetune_keras.text.prompt_tokens import as_prompts, tokenize
from finetune_keras.training.data_checks import (
    check_batched,
    check_boxes_fit,
    check_names,
    check_tuple,
    has_labels,
    labels_of,
)
from finetune_keras.training.feed import in_order_of_fit
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
        source: The `Source` that is trained on.
        given: That of the data as they were passed.
        shuffle: Boolean, whether the order of buckets, and of arrays that the
            model would leave in their order, changes with each epoch. `True`
            until it is set.
        prompts: The `Prompts` that were tokenised, or `None`.
    """

    def __init__(self, data, model, name, batch_size=None, steps=None):
        self.prompts = None
        if writes_text(model):
            data = as_prompts(data, name)
        check_batched(data, model, name)
        check_boxes_fit(model, data, name)
        self.given = Source.of(data, batch_size, name)
        if isinstance(data, Prompts):
            self.prompts = data
            data = tokenize(model, data, batch_size)
        elif encoder_of(model) is not None:
            data = model.tokenize(data, batch_size, training=name == "train")
        elif prepares_inputs(model):
            data = _to_prepare(data, self.given, name)
        elif learns_groups(Task.of(model), data):
            data = in_groups(data, batch_size)
        self.source = Source.of(data, batch_size, name)
        self.name, self.steps, self.shuffle = name, steps, True
        self.in_order = leaves_arrays_in_order(model)
        self._check_form()
        self.check = functools.partial(check_labels, model, name=name)
        for labels in self._labels():
            self.check(labels)
        self.watch = LabelWatch(self.check, name)

    @property
    def data(self):
        """The data of the source."""
        return self.source.data

    @property
    def batch_size(self):
        """Integer, or `None` of data in batches of their own."""
        return self.source.batch_size

    @property
    def remembers_passes(self):
        """Whether its order or draws hang on the passes before."""
        return self.given.remembers_passes

    def hold_epoch(self, epoch):
        """Gives data of this library the order and draws of an epoch.

        Args:
            epoch: Integer, or `None` to let each pass have the next ones.
        """
        self.source = self.source.held(epoch)

    @property
    def fit_arguments(self):
        """Dict of what `fit` takes for it."""
        if isinstance(self.source, TextBuckets):
            # So many steps need not be an epoch, and go on in the next one.
            return self.source.fit_arguments(self.shuffle, bool(self.steps))
        if isinstance(self.source, Arrays) and self.in_order and self.shuffle:
            # A model that learns one class after the other forgets the first.
            data = in_order_of_fit(self.data, self.batch_size, self.shuffle)
            return {"x": data, "shuffle": False}
        arguments = self.source.fit_arguments()
        if not isinstance(self.source, Arrays):
            arguments["x"] = self.watch.over(self.source)
        return arguments

    @property
    def validation_arguments(self):
        """Dict of what `fit` takes to validate on it."""
        return {"validation_data": self.watch.over(self.source)}

    @property
    def num_batches(self):
        """Integer, batches an epoch, or `None` where it is not known."""
        count = self.steps or self.source.num_batches
        return None if count == math.inf else count

    def batches(self):
        """Iterates once over batches, an epoch at most."""
        for batch in itertools.islice(self.source.batches(), self.steps):
            self.check(labels_of(batch, self.name))
            yield batch

    def example(self):
        """A batch for its shapes, or `None` where a look would cost order."""
        return self.source.example()

    def spec(self):
        """What tells the shapes of a batch with no look at the data."""
        return self.source.spec()

    def _check_form(self):
        source = self.source
        buckets = isinstance(source, TextBuckets)
        parts = self.data.parts[0] if buckets else self.data
        if buckets or isinstance(source, Arrays):
            check_tuple(parts, self.name)
        if isinstance(source, Dataset):
            labels_of(source.spec(), self.name)
        if source.is_exhausted and self.steps is None:
            training = self.name == "train"
            steps = "steps_per_epoch" if training else "validation_steps"
            raise ValueError(
                f"`{self.name}` is a generator, which one epoch may exhaust. "
                "Pass a `keras.utils.PyDataset` or a `tf.data.Dataset`, or "
                f"`{steps}` for an endless one. "
                f"Received: {self.name}={self.data!r}"
            )
        if isinstance(source, Arrays):
            self._check_arrays()

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
        if isinstance(self.source, Arrays):
            return [self.data[1]]
        if isinstance(self.source, TextBuckets):
            return [part[1] for part in self.data.parts]
        source, first = self.source, self.source.first()
        read = isinstance(source, Dataset) and not source.is_shuffled
        if first is None and (read or source.num_batches == 0):
            raise ValueError(
                f"`{self.name}` is empty: it has no batch. "
                f"Received: {self.name}={self.data!r}"
            )
        return [] if first is None else [labels_of(first, self.name)]


def _to_prepare(data, source, name):
    """Data for a model that prepares them; refuses what it cannot map."""
    if isinstance(source, Arrays):
        return texts_as_arrays(data)
    if not hasattr(data, "map"):
        raise ValueError(
            "A model with a preprocessor takes arrays or a `tf.data.Dataset`, "
            "to run it over them. Pass one, or set `model.preprocessor = None` "
            f"and prepare the data yourself. Received: {name} of type "
            f"{type(data).__name__}"
        )
    return data


def graph_for(train, validation=None):
    """What makes the graph that takes tokenised prompts, or `None`.

    For a `FlatModel`. Both must come tokenised, or neither.
    """
    given = [inputs for inputs in (train, validation) if inputs is not None]
    found = [inputs.prompts for inputs in given]
    if all(prompts is None for prompts in found):
        return None
    if any(prompts is None for prompts in found):
        raise ValueError(
            "Where training or validation data are texts, both must be: pass "
            "what `ft.prompts` returns. Received: train of type "
            f"{type(train.given.data).__name__}, and validation of type "
            f"{type(validation.given.data).__name__}"
        )
    packing = any(prompts.packing for prompts in found)
    return functools.partial(for_answers, packing=packing)


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
    if is_detector(model):
        check_trains_on_boxes(model)
        check_boxes(y, Task.of(model), name)
        return
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
    source = Source.of(train, name="train")
    batch = source.spec() or source.first()
    if has_labels(batch):
        return _rank(getattr(batch[1], "shape", ()) or ())
    return None


def _rank(shape):
    return len(shape) - (len(shape) > 1 and shape[-1] == 1)
