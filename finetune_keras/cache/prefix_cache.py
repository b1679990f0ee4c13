"""The frozen prefix of a model, computed once instead of every epoch."""

import keras
import numpy as np

from finetune_keras.cache.activation_store import (
    CacheRefused,
    make_room,
    place_for,
)
from finetune_keras.cache.cache_checks import (
    AUGMENTED,
    check_below,
    check_data,
    check_methods,
    check_training,
    is_known,
)
from finetune_keras.cache.shared_activations import (
    describe_prefix,
    example_digests,
)
from finetune_keras.data.outputs import writes_text
from finetune_keras.data.source_examples import Arrays, TextBuckets
from finetune_keras.engine import backend, graph
from finetune_keras.engine.workers import workers_of
from finetune_keras.models.inline import tail
from finetune_keras.models.model import encoder_of
from finetune_keras.models.outside_graph import prepared


class PrefixCache:
    """The model of a phase cut in two, with the activations in between.

    Args:
        flat: The `FlatModel` of a compiled `keras.Model` with the flags of the
            phase.
        options: Dict, see `cache_options`.
        folder: String, where activations on disk go, or `None`.

    Attributes:
        prefix: `keras.Model` from the inputs to what is stored.
        suffix: `keras.Model` from what is stored to the outputs. It shares
            its layers with the model.
        report: String, what is stored and where.

    Raises:
        CacheRefused: If the cut would change the result.
    """

    def __init__(self, flat, options, folder=None):
        model = flat.groups.model
        if options["storage"] == "off":
            raise CacheRefused("it is switched off")
        if backend.on("jax") and workers_of(model):
            raise CacheRefused("JAX does not predict in several processes")
        self.options = options
        self.folder = folder
        self.model = model
        self.prepares_inputs = flat.prepares_inputs
        check_methods(model)
        # Of texts, dropout below the cut is left out: it guards against
        # overfitting of weights that do not learn.
        self.quiet_layers = ()
        if encoder_of(model) is not None or writes_text(model):
            self.quiet_layers = (keras.layers.Dropout,)
        with flat.opened() as opened:
            self._cut(model, flat, opened)
        self.views = options["views"]
        if self._is_random() and self.views == 1:
            raise CacheRefused(
                "random layers below the cut change from epoch to epoch; "
                'store several passes with cache={"views": k}'
            )
        self.shared = self.views == 1 and options["shared"]
        if self.shared:
            self.description = describe_prefix(self.prefix)
        self.report = None

    # === The cut ===

    def _cut(self, model, flat, opened):
        trained = {id(v) for v in model.trainable_variables}
        carried, below, above = flat.cut(trained)
        self.below = [step.operation for step in below]
        check_below(self.below, trained)
        self.unknown = not all(map(is_known, self.below))
        passing = {key for step in above for key in step.inputs}
        self.passing = [
            i for i in range(len(opened.inputs)) if ("input", i) in passing
        ]
        stored = [*carried, *(opened.inputs[i] for i in self.passing)]
        self.prefix = keras.Model(opened.input, stored)
        self.suffix = tail(stored, opened.output)
        # Optimizers know weights by their place, and so does JAX.
        orders = [
            [id(v) for v in one.trainable_variables]
            for one in (self.suffix, model)
        ]
        if orders[0] != orders[1]:
            raise CacheRefused("the weights would train in another order")

    def _is_random(self):
        return any(graph.is_random(x, self.quiet_layers) for x in self.below)

    # === The activations ===

    def store(self, inputs):
        """Runs the prefix over data once for each view.

        A list of tuples, one a view, for `suffix.fit`: activations, labels and,
        where there are any, sample weights. It sets `shuffle` and `batch_size`
        of `inputs`, and refuses data that cannot be read twice alike.
        """
        # Validation is never augmented, so one view of it holds all.
        self.quiet = inputs.name != "train"
        views = 1 if self.quiet else self.views
        check_data(inputs, self.views)
        source = inputs.source
        inputs.shuffled = source.is_shuffled or source.fit_shuffles
        if self.prepares_inputs:
            data = prepared(self.model, inputs.data, inputs.batch_size)
            return [self._store_dataset(inputs, data) for _ in range(views)]
        if isinstance(source, Arrays):
            return [self._store_arrays(inputs) for _ in range(views)]
        if isinstance(source, TextBuckets):
            return [self._store_buckets(inputs) for _ in range(views)]
        return [self._store_dataset(inputs, inputs.data) for _ in range(views)]

    def _store_arrays(self, inputs):
        x, *labels = inputs.data
        (store,) = self._allocate([(_size(x), None)], inputs.name)
        self._fill(store, x, max(inputs.batch_size, 64))
        return _unpack(store), *labels

    def _store_buckets(self, inputs):
        parts = inputs.data.parts
        extents = [(_size(x), x) for x, *_ in parts]
        stores = self._allocate(extents, inputs.name)
        for store, (x, *_) in zip(stores, parts, strict=True):
            self._fill(store, x, max(inputs.batch_size, 64))
        stored = [
            (keras.tree.lists_to_tuples(_unpack(store)), *labels)
            for store, (_, *labels) in zip(stores, parts, strict=True)
        ]
        return inputs.data.with_parts(stored)

    def _fill(self, store, x, batch):
        for start in range(0, _size(x), batch):
            part = keras.tree.map_structure(
                lambda a, start=start: a[start : start + batch], x
            )
            self._run(part, store, start, batch)

    def _store_dataset(self, inputs, data):
        count = _count_batches(data)
        labels, seen, start, store = [], set(), 0, None
        for x, *rest in data:
            if store is None:
                batch = _size(x)
                extent = count * batch, None
                (store,) = self._allocate([extent], inputs.name)
            if start % batch or _size(x) > batch:
                raise CacheRefused("the batches differ in size")
            if not backend.on("tensorflow"):
                x = keras.tree.map_structure(np.asarray, x)
            start += self._run(x, store, start, batch)
            labels.append(keras.tree.map_structure(np.asarray, rest))
            seen.update(example_digests(x))
        self._check_repeats(data, seen)
        inputs.source.batch_size = batch
        labels = keras.tree.map_structure(_join, *labels)
        store = [array[:start] for array in store]
        return _unpack(store), *labels

    def _check_repeats(self, dataset, seen):
        """Finds out whether a pipeline augments, which a cache would stop."""
        x, *_ = next(iter(dataset))
        if self.views == 1 and not seen.issuperset(example_digests(x)):
            raise CacheRefused(AUGMENTED)

    def _run(self, x, store, start, batch):
        """Computes one batch, filled up so that one trace serves all."""
        count = _size(x)
        if self.unknown and not self.quiet:
            check_training(self.prefix, self.below, x)
            self.unknown = False

        def compute(x):
            if count < batch:
                x = keras.tree.map_structure(lambda a: _extend(a, batch), x)
            return [output[:count] for output in self._activations(x)]

        if self.shared:
            outputs = self.shared.activations(self.description, x, compute)
        else:
            outputs = compute(x)
        for array, output in zip(store, outputs, strict=True):
            if array.shape[1:] != output.shape[1:]:
                raise CacheRefused("activations are shorter than the inputs")
            array[start : start + count] = output
        return count

    def _activations(self, x):
        if self.views == 1 or self.quiet:
            return keras.tree.flatten(self.prefix.predict_on_batch(x))
        outputs = self.prefix(x, training=True)
        outputs = keras.tree.flatten(outputs)
        return [keras.ops.convert_to_numpy(output) for output in outputs]

    def _allocate(self, extents, name):
        """Makes room for parts: how many examples, and what `_room` takes."""
        parts = [self._room(*extent) for extent in extents]
        bytes_ = self.views * sum(
            int(np.prod(shape)) * np.dtype(dtype).itemsize
            for part in parts
            for shape, dtype in part
        )
        where = place_for(bytes_, self.options, self.folder)
        if where == "disk":
            # What does not fit into memory is not remembered there either.
            self.shared = None
        if name == "train":
            views = f", {self.views} views" if self.views > 1 else ""
            layer = self.below[-1].name
            place = "in memory" if where == "memory" else "on disk"
            self.report = (
                f"{bytes_ / 2**20:.1f} MiB of activations after {layer!r} "
                f"{place}{views}"
            )
            if any(map(graph.is_random, self.below)) and self.views == 1:
                self.report += ", dropout left out below"
        return [
            [make_room(where, self.folder, *pair) for pair in part]
            for part in parts
        ]

    def _room(self, size, x=None):
        """Lists shape and dtype of what is stored of so many examples.

        `x` are sequences, which tell lengths that are not fixed, or `None`.
        """
        given = [np.shape(array)[1:] for array in keras.tree.flatten(x)]
        carried = len(self.prefix.outputs) - len(self.passing)
        pairs = []
        for i, tensor in enumerate(self.prefix.outputs):
            shape = list(tensor.shape[1:])
            if x is not None and i >= carried:
                shape = given[self.passing[i - carried]]
            elif x is not None and shape and shape[0] is None:
                shape[0] = max(one[0] for one in given)
            if None in shape:
                raise CacheRefused("activations have no fixed shape")
            pairs.append(((size, *shape), self._dtype(tensor)))
        return pairs

    def _dtype(self, tensor):
        if tensor.dtype in ("float32", "float16", "bfloat16"):
            if self.options["dtype"] == "bfloat16":
                import ml_dtypes

                return ml_dtypes.bfloat16
            return "float32"
        return tensor.dtype


def _join(*parts):
    """Puts the labels of batches together."""
    if not parts[0].ndim or len({part.shape[1:] for part in parts}) > 1:
        raise CacheRefused("the labels have no fixed shape")
    return np.concatenate(parts)


def _count_batches(dataset):
    count = int(dataset.cardinality())
    return count if count >= 0 else sum(1 for _ in dataset)


def _size(x):
    return len(keras.tree.flatten(x)[0])


def _extend(array, batch):
    array = np.asarray(array)
    return np.concatenate([array, np.repeat(array[-1:], batch - len(array), 0)])


def _unpack(store):
    return store[0] if len(store) == 1 else store
