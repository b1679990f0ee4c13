"""New models of the graph of an old one: opened, replayed, or cut."""

import warnings

import keras

from finetune_keras.arguments import check_model
from finetune_keras.engine.graph import (
    all_layers,
    graph_of,
    speaks_for_its_layers,
    walk,
)
from finetune_keras.engine.nodes import histories_kept, pack_inputs, run_through
from finetune_keras.models.outside_graph import with_preprocessing
from finetune_keras.models.readable import closed_models


def inline_models(model):
    """Opens the inner models of a model, with shared layers and weights.

    Args:
        model: A `keras.Model` that has a graph.

    Returns:
        A `keras.Model` with the same inputs, outputs and layers, in which no
        layer is a model. `model` itself if there is nothing to open. From
        then on, `layer.output` is the tensor in the new graph. An inner
        model stays as it is where layers of it could not be read from a file
        (some of KerasHub's), with a warning. What a
        KerasHub task does before its graph is part of it: its scaling and
        resizing become the first layer, and with its tokeniser it is a
        `FineTuneModel` that takes texts.

    Raises:
        ValueError: If `model` has no graph, or prepares its inputs in a way
            that cannot stand in one.

    Example:

    ```python
    import keras, finetune_keras as ft

    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    inputs = keras.Input((4,))
    nested = keras.Model(inputs, keras.layers.Dense(2)(base(inputs)))
    print([layer.name for layer in ft.inline_models(nested).layers])
    ```
    """
    flat = opened(model)
    left = [layer.name for layer in flat.layers if graph_of(layer)]
    if left:
        warnings.warn(
            f"The inner models {left} stay closed: layers of theirs cannot be "
            "read from a file one by one, and the flat model could not be "
            "loaded.",
            stacklevel=2,
        )
    if flat is model:
        return model
    return speaks_for_its_layers(with_preprocessing(model, flat))


def opened(model, everything=False, steps=None):
    """Does what `inline_models` does with the graph alone, as it stands.

    With `everything`, also inner models are opened that must stay whole if the
    new model is to be saved. `steps` are those of the model, if known.
    """
    check_model(model)
    if graph_of(model) is None:
        raise ValueError(
            "Only a functional or sequential model that has been built has a "
            "graph. Give the model an `Input`, or call it on data once. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    closed = [] if everything else closed_models(model)
    inner = [layer for layer in model.layers if graph_of(layer)]
    if all(layer in closed for layer in inner):
        return model
    make_names_unique(steps or walk(model)[0], closed)
    inputs, outputs = replay(model, closed=closed)
    return keras.Model(inputs, outputs, name=model.name)


def replay(model, inputs=None, call=None, closed=None):
    """Runs a model's graph again on symbolic tensors, inner models opened.

    `inputs` are in their structure, by default new ones like the old.
    `call(operation, *args, **kwargs)` makes each step. `closed` are the inner
    models that are called as they are, by default those that must stay whole.
    """
    closed = closed_models(model) if closed is None else closed
    call = call or (lambda operation, *args, **kw: operation(*args, **kw))

    def step(operation, *args, **kwargs):
        inner = graph_of(operation)
        if inner is None or operation in closed:
            return call(operation, *args, **kwargs)
        # Inner models are entered without `training`: Keras passes it down.
        return run_through(inner, args[0], step)

    inputs = new_inputs(model) if inputs is None else inputs
    return inputs, run_through(model, inputs, step)


def new_inputs(model):
    """New inputs like those of a model, in their structure."""
    inputs = [_input_like(tensor) for tensor in graph_of(model).inputs]
    return pack_inputs(model, inputs)


def _input_like(tensor):
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        name=tensor.name,
    )


def make_names_unique(steps, closed):
    """Renames inner layers whose name would stand twice in a flat graph."""
    paths, whole = {}, {x for one in closed for x in all_layers(one)}
    for step in steps:
        if step.operation not in whole:
            paths.setdefault(step.operation, step.path)
    names = [layer.name for layer in paths]
    for layer, path in paths.items():
        if names.count(layer.name) > 1 and "/" in path:
            layer.name = path.replace("/", "_")


def tail(tensors, outputs):
    """Makes a model from tensors inside a graph, inputs among them, onwards.

    Where an input of the graph stands among inner tensors, Keras gives it a
    new place in its history, and the whole model could not be saved any more.
    """
    with histories_kept(tensors):
        return keras.Model(tensors, outputs)
