"""One of several outputs of a model, alone, and put in its place again."""

import keras

from finetune_keras.arguments import nearest
from finetune_keras.data.several import Several, outputs_by_name
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.engine.nodes import maker_of
from finetune_keras.models.inline import opened
from finetune_keras.models.model import keep_task
from finetune_keras.models.readable import in_one_piece


def in_one_piece_with_outputs(model):
    """The model with inner models opened, all of its outputs by their names."""
    flat = opened(in_one_piece(model))
    if flat is model or list(outputs_by_name(flat)) == list(
        outputs_by_name(model)
    ):
        return flat
    names = outputs_by_name(model)
    outputs = dict(zip(names, flat.outputs, strict=True))
    return keras.Model(graph.graph_of(flat).input, outputs, name=model.name)


def of_one_output(model, name):
    """A model of one output, on the same tensors."""
    outputs = outputs_by_name(model)
    if name not in outputs:
        raise ValueError(
            f"The model has no such output; there are {list(outputs)}. "
            f"Received: output={name!r}.{nearest(name, outputs)}"
        )
    inputs = graph.graph_of(model).input
    return keras.Model(inputs, outputs[name], name=model.name)


def with_new_output(model, name, tensor, rebuild):
    """The model with another tensor as one of its outputs.

    The others stay; `rebuild` makes a model of its kind. Outputs in a list are
    called by their last layers, whose name the new one takes.
    """
    old = outputs_by_name(model)
    if not isinstance(model.output, dict):
        maker_of(tensor)[0].name = name
    outputs = {**old, name: tensor}
    if not isinstance(model.output, dict):
        outputs = list(outputs.values())
    new = rebuild(model, outputs)
    kept = Task.kept_with(model)
    if isinstance(kept, Several):
        parts = {x: part for x, part in kept.parts.items() if x != name}
        own = Several.of_model(new)
        if own is not None:
            keep_task(new, Several({**own.parts, **parts}))
    return new
