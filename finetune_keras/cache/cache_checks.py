"""When activations of a frozen prefix must not be stored, and why not."""

import math

import keras
import numpy as np

from finetune_keras.cache.activation_store import CacheRefused
from finetune_keras.data.source_batches import Dataset
from finetune_keras.data.source_examples import Arrays, TextBuckets
from finetune_keras.data.tf_data import is_augmented
from finetune_keras.engine import graph
from finetune_keras.engine.fit_state import keras_generator_left_as_it_was
from finetune_keras.models.outside_graph import own_methods

AUGMENTED = (
    "the dataset gives other examples at each pass; store several with "
    'cache={"views": k}'
)
_METHODS = (
    "call",
    "train_step",
    "test_step",
    "compute_loss",
    "compute_metrics",
)
# Of Keras, but what they do is the user's, or moves with each batch.
_OPEN_LAYERS = (
    keras.layers.FlaxLayer,
    keras.layers.JaxLayer,
    keras.layers.Lambda,
    keras.layers.SpectralNormalization,
    keras.layers.TFSMLayer,
    keras.layers.TorchModuleWrapper,
)


def check_data(inputs, views):
    """Refuses data that cannot be read `views` times alike, ahead of it."""
    source, data = inputs.source, inputs.data
    kinds = Arrays, Dataset, TextBuckets
    if inputs.steps is not None or not isinstance(source, kinds):
        raise CacheRefused(
            f"`{inputs.name}` is neither arrays nor a finite dataset"
        )
    if isinstance(source, TextBuckets) and data.renew:
        raise CacheRefused(AUGMENTED)
    if source.num_batches == math.inf:
        raise CacheRefused("the dataset has no end")
    if views == 1 and isinstance(source, Dataset) and is_augmented(data):
        raise CacheRefused(AUGMENTED)


def check_methods(model):
    """Refuses methods of the user's own: a graph does not show them."""
    inner = [x for x in graph.all_layers(model) if graph.graph_of(x)]
    pairs = [(model, name) for name in _METHODS]
    for one, name in [*pairs, *((x, "call") for x in inner)]:
        if not _is_ours(getattr(one, name)):
            raise CacheRefused(f"{one.name!r} has a `{name}` of its own")
    # Those of KerasHub run a preprocessor first, and so do we.
    lost = own_methods(model)
    if lost:
        raise CacheRefused(f"{model.name!r} has a `{lost[0]}` of its own")


def check_below(operations, trained):
    """Refuses layers below the cut that move, or add to the loss."""
    for operation in operations:
        if not isinstance(operation, keras.layers.Layer):
            continue
        for layer in [operation, *graph.all_layers(operation)]:
            name = layer.name
            if any(id(v) in trained for v in graph.own_variables(layer)):
                raise CacheRefused(f"the layer {name!r} trains below it")
            if (
                isinstance(layer, keras.layers.BatchNormalization)
                and layer.trainable
            ):
                raise CacheRefused(f"the statistics of {name!r} move")
            if getattr(layer, "activity_regularizer", None):
                raise CacheRefused(f"{name!r} adds to the loss")


def check_training(prefix, operations, x):
    """Refuses layers that do something else, or more, in training.

    Only the user's own can: what Keras's do is known without a look.
    """
    x = keras.tree.map_structure(lambda array: array[:16], x)
    weights, state = (
        list(map(keras.ops.convert_to_tensor, variables))
        for variables in (
            prefix.trainable_variables,
            prefix.non_trainable_variables,
        )
    )
    with keras_generator_left_as_it_was():
        keras.random.uniform(())
        trained, moved, losses = prefix.stateless_call(
            weights, state, x, training=True, return_losses=True
        )
        # A layer that draws numbers at all times is to draw others.
        keras.random.uniform(())
        predicted = prefix(x, training=False)
    if losses:
        raise CacheRefused("a layer below the cut adds to the loss")
    if any(map(graph.is_random, operations)):
        return
    before = [*state, *keras.tree.flatten(predicted)]
    after = [*moved, *keras.tree.flatten(trained)]
    if not all(map(_are_alike, before, after)):
        raise CacheRefused("a layer below the cut differs in training")


def _is_ours(thing):
    """Tells whether Keras or this library wrote a function or class."""
    module = getattr(thing, "__module__", None) or ""
    return module.split(".")[0] in ("keras", "finetune_keras")


def is_known(operation):
    """Tells whether training changes nothing in an operation but by rule."""
    layers = [operation]
    if isinstance(operation, keras.layers.Layer):
        layers += graph.all_layers(operation)
    return all(
        _is_ours(type(layer))
        and not isinstance(layer, _OPEN_LAYERS)
        and not getattr(layer, "stateful", False)
        for layer in layers
    )


def _are_alike(one, other):
    """Tells whether two tensors differ by rounding at most."""
    if one is other:
        return True
    exact = keras.backend.standardize_dtype(one.dtype) == "float32"
    one, other = map(keras.ops.convert_to_numpy, (one, other))
    if not keras.backend.is_float_dtype(one.dtype.name):
        return np.array_equal(one, other)
    one, other = (array.astype("float32") for array in (one, other))
    tolerance = 1e-4 if exact else 5e-2
    return np.allclose(one, other, tolerance, tolerance * np.abs(one).max())
