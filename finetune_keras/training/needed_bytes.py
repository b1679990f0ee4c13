"""How many bytes training needs: weights, and what a step keeps."""

import math

import keras
import numpy as np

from finetune_keras.engine import graph
from finetune_keras.engine.calls import changed_calls


def weight_bytes(model):
    """Bytes of the weights of a model, each in its own numbers."""
    return sum(map(_bytes, {id(v): v for v in model.weights}.values()))


def activation_bytes(model, x):
    """Estimates the bytes that a step keeps for its backward pass.

    These are the outputs of all layers without layers inside, for one batch,
    from the first on that trains. What a layer keeps within, and what is
    computed between layers, is not counted, nor is what is saved by fusing
    them or by computing them again.
    """
    leaves = graph.leaf_layers(model)
    trained = {layer for layer in leaves if layer.trainable_variables}
    kept = []

    def watched(layer):
        def change(function):
            def call(*args, **kwargs):
                outputs = function(*args, **kwargs)
                if kept or layer in trained:
                    tensors = keras.tree.flatten(outputs)
                    kept.extend(_bytes(t) for t in tensors if _is_array(t))
                return outputs

            return call

        return change

    with changed_calls([(layer, watched(layer)) for layer in leaves]):
        model(x, training=True)
    return sum(kept)


def _is_array(value):
    return keras.ops.is_tensor(value)


def _bytes(tensor):
    name = keras.backend.standardize_dtype(tensor.dtype)
    size = 2 if name == "bfloat16" else np.dtype(name).itemsize
    return math.prod(tensor.shape) * size
