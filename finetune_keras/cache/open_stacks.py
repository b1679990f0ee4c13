"""Layers that are stacks of blocks, laid open, to be cut between the blocks."""

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.nodes import is_selection, maker_of
from finetune_keras.engine.private import get_keras_mask
from finetune_keras.models.atoms import may_be_opened
from finetune_keras.models.inline import replay


def stacks_of(groups):
    """Lists the layers in which a border of groups is, and that may be opened.

    Places of random generators are of no group.
    """
    homes = {id(v): i for i, g in enumerate(groups) for v in g.variables}
    operations = dict.fromkeys(step.operation for step in groups.steps)
    return [
        layer
        for layer in operations
        if may_be_opened(layer)
        and len({homes.get(id(v)) for v in layer.variables} - {None}) > 1
    ]


def with_open_stacks(model, stacks):
    """A flat model again, in which what `stacks` call is called by itself.

    Where it reads one place of what a norm gives, as a token of classes, that
    place alone is normalised: the same numbers, and all that is stored of a
    cut below the norm. `model` itself where the stacks cannot be opened, or
    the weights would stand in another order, by which optimizers know them.
    """
    if not stacks:
        return model
    names = [(x, x.name) for x in graph.all_layers(model)]
    for stack in stacks:
        for layer in graph.all_layers(stack):
            layer.name = f"{stack.name}_{layer.name}"

    def call(operation, *args, **kwargs):
        if operation in stacks and _takes_as_given(operation, args, kwargs):
            return operation.call(*args, **kwargs)
        if is_selection(operation, keras.tree.flatten((args, kwargs))):
            norm, inputs = maker_of(args[0])
            if _normalises_channels(norm):
                return norm(operation(inputs[0], *args[1:], **kwargs))
        return operation(*args, **kwargs)

    try:
        inputs, outputs = replay(model, call=call, closed=[])
        found = keras.Model(inputs, outputs)
        if _order(found) == _order(model):
            return found
    # What a layer does to tensors without values is not known before.
    except Exception:
        pass
    for layer, name in names:
        layer.name = name
    return model


def _takes_as_given(layer, args, kwargs):
    """Tells whether Keras hands tensors to a layer's `call` as they are.

    It casts them to the layer's own type, and adds the masks they carry.
    """
    return all(
        x.dtype == layer.compute_dtype and get_keras_mask(x) is None
        for x in keras.tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    )


def _normalises_channels(layer):
    return type(layer) is keras.layers.LayerNormalization and (
        layer.axis in (-1, [-1], (-1,))
    )


def _order(model):
    return [id(weight) for weight in model.weights]
