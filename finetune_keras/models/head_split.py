"""The tensor of a backbone that its head reads."""

import keras

from finetune_keras.engine import graph
from finetune_keras.models.atoms import weighted_atoms
from finetune_keras.models.head_finder import collapses, find_head
from finetune_keras.models.inline import opened
from finetune_keras.models.readable import in_one_piece, tensors_of


def split_head(model):
    """Finds the tensor that the head of a model reads.

    Returns the model with inner models opened, and its tensor below the head;
    its output where there is no head.
    """
    if graph.graph_of(model) is None:
        opened(model)
    model = in_one_piece(model)
    steps, _, outputs = graph.walk(model)
    if len(outputs) > 1:
        return opened(model), backbone_features(model)
    cuts = graph.cut_points(steps, outputs, graph.is_mask)
    atoms = weighted_atoms(steps)
    head = find_head(steps, cuts, outputs, atoms)
    flat = opened(model)
    if not head:
        return flat, graph.graph_of(flat).outputs[0]
    tensor = _end_of_backbone(model, steps, cuts, atoms, head)
    return flat, same_tensor(flat, steps, tensor)


def _end_of_backbone(model, steps, cuts, atoms, head):
    """The last tensor below pooling, dropout and dense layers.

    It is the one that carries everything, not the output of the last step:
    that may compute a mask, or a part of what the head reads.
    """
    body = [atom for atom in atoms if atom not in head]
    start = max(atom.last for atom in body)
    stop = min(atom.first for atom in head)
    best = None
    for position in [p for p in range(start, stop) if p in cuts]:
        between = steps[start + 1 : position + 1]
        if best is not None and any(map(is_of_head, between)):
            break
        best = cuts[position]
    if best is None:
        raise ValueError(
            "The head reads several tensors of the backbone, and no single "
            "one could take their place. Make a model of the features that "
            "the new head is to read first: `keras.Model(model.inputs, "
            f"features)`. Received: model={model.name!r}"
        )
    return best


def is_of_head(step):
    """Tells whether a step flattens, pools, or is random, as dropout is."""
    flattens = isinstance(step.operation, keras.layers.Flatten)
    return flattens or collapses(step) or graph.is_random(step.operation)


def same_tensor(flat, steps, tensor):
    """Output of the same call in the flattened model."""
    position, place = next(
        (i, [x is tensor for x in step.tensors].index(True))
        for i, step in enumerate(steps)
        if any(x is tensor for x in step.tensors)
    )
    operation = steps[position].operation
    calls = [i for i, s in enumerate(steps) if s.operation is operation]
    flat_steps = graph.walk(flat)[0]
    same = [step for step in flat_steps if step.operation is operation]
    return _outside(flat, same[calls.index(position)].tensors[place])


def _outside(model, tensor):
    """A tensor as the model has it that an inner, closed model gives."""
    known = tensors_of(model)
    if id(tensor) not in known:
        raise ValueError(
            "The new head would stand within an inner model that must stay "
            "whole, as layers of it cannot be read from a file. Put the head "
            f"on its output. Received: model={model.name!r}, {tensor}"
        )
    return known[id(tensor)]


def backbone_features(model):
    """Features of a transformer backbone; other models must have one output."""
    outputs = model.output
    if isinstance(outputs, dict) and "sequence_output" in outputs:
        return outputs
    raise ValueError(
        "A head goes on a model with one output. Name the one of several that "
        'you mean, `output="name"`, or make a model of it alone: '
        "`keras.Model(model.inputs, model.outputs[0])`. "
        f"Received: model={model.name!r} with {len(model.outputs)} outputs: "
        f"{model.output_names}"
    )
