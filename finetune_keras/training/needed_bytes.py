"""How many bytes training needs: weights, and what a step keeps."""

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.calls import changed_calls
from finetune_keras.models.summary import bytes_of


def weight_bytes(model):
    """Bytes of the weights of a model, each in its own numbers."""
    return sum(map(bytes_of, {id(v): v for v in model.weights}.values()))


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
                    kept.extend(bytes_of(t) for t in tensors if _is_array(t))
                return outputs

            return call

        return change

    with changed_calls([(layer, watched(layer)) for layer in leaves]):
        model(x, training=True)
    return sum(kept)


def _is_array(value):
    return keras.ops.is_tensor(value)
