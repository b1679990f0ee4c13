"""Blocks that are computed again in the backward pass, not kept."""

import contextlib

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.calls import changed_calls
from finetune_keras.engine.layers import every_layer
from finetune_keras.models.selection import is_batch_norm


@contextlib.contextmanager
def rematerialized(model, on=True):
    """Has each block of a model keep what it reads, and nothing within.

    Blocks are layers with layers inside, as those of transformers are.
    """
    blocks = _blocks(model) if on else []
    with changed_calls([(block, _again) for block in blocks]):
        yield


def _blocks(model):
    found = {}
    steps = graph.walk(model)[0] if graph.graph_of(model) else []
    for step in steps:
        if len(graph.leaf_layers(step.operation)) > 1:
            found.setdefault(step.operation, step.path)
    if not found:
        raise ValueError(
            "`remat=True` computes blocks again, layers with layers inside, "
            "and the model has none. Received: model="
            f"{model.name!r} of type {type(model).__name__}"
        )
    for block, path in found.items():
        _check_repeats(block, path)
    return list(found)


def _check_repeats(block, path):
    """Refuses a block that would compute something else again."""
    for layer in every_layer(block):
        draws = getattr(layer, "seed_generator", None) is not None
        draws = draws and bool(getattr(layer, "rate", 1.0))
        if draws or (is_batch_norm(layer) and layer.trainable):
            raise ValueError(
                f"The block {path!r} holds {layer.name!r}, a "
                f"{type(layer).__name__}, which would do something else when "
                "it is computed again, and gradients would be wrong. Make the "
                "model with `dropout=0`, freeze batch normalisation, or leave "
                "`remat` out."
            )


def _again(function):
    """A change of a call by which its tensors are computed again."""

    def call(*args, **kwargs):
        parts = keras.tree.flatten((args, kwargs))
        places = [i for i, x in enumerate(parts) if keras.ops.is_tensor(x)]

        # Keras's own takes no tensors by name on TensorFlow.
        def compute(*tensors):
            whole = list(parts)
            for i, tensor in zip(places, tensors, strict=True):
                whole[i] = tensor
            packed = keras.tree.pack_sequence_as((args, kwargs), whole)
            args_now, kwargs_now = packed
            return function(*args_now, **kwargs_now)

        return keras.remat(compute)(*(parts[i] for i in places))

    return call
