"""The tensors in which the layer groups of a backbone end."""

import numbers

from finetune_keras.arguments import is_number, nearest
from finetune_keras.engine import graph
from finetune_keras.models.group_parts import best_cut
from finetune_keras.models.head_finder import trunk_cuts
from finetune_keras.models.head_split import (
    backbone_features,
    is_of_head,
    same_tensor,
)
from finetune_keras.models.inline import opened
from finetune_keras.models.layer_groups import LayerGroups
from finetune_keras.models.readable import in_one_piece


def split_depths(model, features):
    """Finds the tensors of several depths that a head is to read.

    Returns the model with inner models opened, and the tensors in their order.
    """
    if graph.graph_of(model) is None:
        opened(model)
    model = in_one_piece(model)
    groups = LayerGroups(model)
    # Asked before the names of inner models are changed.
    found = _choose(_ends(groups), features)
    flat = opened(model)
    return flat, [same_tensor(flat, groups.steps, end) for end in found]


def _ends(groups):
    """Dict from the groups of a backbone to the tensor that each ends in.

    It is the one that carries everything, before anything pools, flattens or
    drops it; `None` where there are several, as inside a residual block.
    """
    steps, _, outputs = graph.walk(groups.model)
    head = groups.head.variables if groups.head else ()
    cuts = trunk_cuts(steps, outputs, {id(variable) for variable in head})
    places = [_places(steps, group) for group in groups]
    if groups.head:
        # The last norm may be in one layer with the blocks before it.
        known = {place for below in places[:-1] for place in below}
        places[-1] = [place for place in places[-1] if place not in known]
    ends = {}
    for i, group in enumerate(groups.backbone):
        start = max(place for below in places[: i + 1] for place in below)
        above = [place for group in places[i + 1 :] for place in group]
        stop = min(above, default=len(steps))
        ends[group.name] = cuts.get(_end(steps, cuts, start, stop))
    if len(set(outputs)) > 1:
        last = backbone_features(groups.model)
        last = last.get("pooled_output", last["sequence_output"])
        ends[groups[-1].name] = ends[groups[-1].name] or last
    return ends


def _places(steps, group):
    own = {id(variable) for variable in group.variables}
    return [
        place
        for place, step in enumerate(steps)
        if any(id(v) in own for v in getattr(step.operation, "variables", ()))
    ]


def _end(steps, cuts, start, stop):
    """Place of the step that ends a group, or `None`."""
    for place in range(start + 1, stop):
        if place in cuts and is_of_head(steps[place]):
            stop = place
            break
    return best_cut(steps, cuts, start, stop)


# === Which depths ===


def _choose(ends, features):
    """Lists the tensors of the depths that are asked for."""
    whole = [name for name, end in ends.items() if end is not None]
    if features == "blocks":
        chosen = whole
    elif is_number(features, numbers.Integral):
        chosen = whole[-features:] if 0 < features <= len(whole) else []
    else:
        chosen = _named(ends, features)
    if not chosen:
        raise ValueError(
            '`features` must be "blocks", an integer, the last n layer groups '
            "of the backbone, or a list of their names. Those that end in one "
            f"tensor are {whole}. Received: features={features!r}"
        )
    return [ends[name] for name in ends if name in chosen]


def _named(ends, features):
    if not isinstance(features, (list, tuple)):
        return []
    names = [getattr(one, "name", one) for one in features]
    for name in names:
        if name not in ends:
            raise ValueError(
                "`features` must hold names of layer groups of the backbone, "
                f"which are {list(ends)}.{nearest(name, list(ends))} "
                f"Received: features={features!r}"
            )
        if ends[name] is None:
            raise ValueError(
                f"The layer group {name!r} ends in no single tensor that "
                "carries everything, as inside a residual block, and has no "
                "features of its own. Name one behind it. "
                f"Received: features={features!r}"
            )
    return names
