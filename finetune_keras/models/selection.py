"""Turns any specification of layers into the leaf layers that it means."""

import difflib
import numbers
import re

import keras

from finetune_keras.engine import graph
from finetune_keras.models.group_parts import LayerGroup
from finetune_keras.models.subclassed import attribute_names


def match(groups, spec):
    """Lists the leaf layers that a specification means, in any order."""
    if isinstance(spec, (list, tuple, set)):
        if not spec:
            raise ValueError(
                "The selection of layers is empty. Pass at least one layer, "
                f'name or group, or "all". Received: layers={spec!r}'
            )
        # Adapters and the head, if there is one.
        lacks = len(spec) > 1 and groups.head is None
        named = [one for one in spec if not (lacks and one == "head")]
        return [layer for one in named for layer in match(groups, one)]
    found = [x for x in _match_one(groups, spec) if x in groups.leaves]
    # Lists cut from `model.layers` hold the input; it selects nothing.
    if not found and not isinstance(spec, keras.layers.InputLayer):
        raise ValueError(_no_match(groups, spec))
    return found


def is_batch_norm(layer):
    """Tells whether a layer keeps statistics of the batches that it sees."""
    return isinstance(layer, keras.layers.BatchNormalization)


def _layers(groups):
    """Lists the layers of the model at any depth, and those beside it."""
    beside = graph.layers_beside(groups.model)
    return [*graph.all_layers(groups.model), *beside]


def _match_one(groups, spec):
    if isinstance(spec, LayerGroup):
        return spec.layers
    if isinstance(spec, keras.layers.Layer):
        return _leaves_of(groups, [spec])
    if isinstance(spec, type):
        kinds = [x for x in _layers(groups) if isinstance(x, spec)]
        found = [leaf for x in kinds for leaf in graph.leaf_layers(x)]
        return [x for x in found if x in groups.inside]
    if isinstance(spec, str):
        return _match_name(groups, spec)
    if isinstance(spec, re.Pattern):
        return _match_path(groups, spec)
    if isinstance(spec, numbers.Integral) and not isinstance(spec, bool):
        last = _last_groups(groups, spec)
        return [layer for group in last for layer in group.layers]
    if callable(spec):
        return [layer for layer in groups.inside if spec(layer)]
    raise ValueError(
        "Layers are selected by name, regular expression, `Layer`, layer "
        "class, `LayerGroup`, number of groups, callable, or a list of these, "
        "such as `model.layers[4:]` or `layer_groups(model)[-2:]`. "
        f"Received: layers={spec!r} of type {type(spec).__name__}"
    )


def _leaves_of(groups, layers):
    """Lists the leaves of layers, which must have got their weights.

    Those in the graph have: what is not built there needs none.
    """
    found = [
        leaf
        for layer in layers
        for leaf in (
            graph.leaf_layers(layer) if graph.inner_layers(layer) else [layer]
        )
    ]
    for leaf in found:
        waits = type(leaf).build is not keras.layers.Layer.build
        # Some make their weights as they are made, and are never built.
        waits = waits and leaf not in groups.inside
        if waits and not leaf.built and not graph.own_variables(leaf):
            raise ValueError(
                f"The layer {leaf.name!r} is not built yet: it has no weights "
                "to freeze or to train. Call the model on a batch first. "
                f"Received: a layer of type {type(leaf).__name__}"
            )
    return found


def _last_groups(groups, number):
    count = number + bool(groups.head)
    if number < 0 or not 0 < count <= len(groups):
        names = [group.name for group in groups]
        raise ValueError(
            "An integer is the head and the last n groups before it, or the "
            "last n groups of a model without a head, and this model has no "
            f'such {number}. Pass "all" for all of them, or layers by their '
            f"names or as in `model.layers[3:5]`. Its groups are {names}. "
            f"Received: layers={number}"
        )
    return groups[-count:]


def _match_name(groups, name):
    if name == "all":
        return list(groups.inside)
    if name == "backbone":
        head = set(groups.head.layers if groups.head else ())
        return [layer for layer in groups.inside if layer not in head]
    # Many groups have the name of their last layer, often one of no weights.
    for group in groups.every:
        if group.name == name:
            return group.layers
    held = attribute_names(groups.model)
    named = [
        layer
        for layer in _layers(groups)
        if name in (layer.name, held.get(id(layer)))
    ]
    if named:
        return _rather_inside(groups, _leaves_of(groups, named))
    try:
        return _match_path(groups, re.compile(name))
    except re.error as error:
        raise ValueError(
            "`layers` is neither the name of a layer or group nor a regular "
            f"expression ({error}). Received: layers={name!r}"
        ) from error


def _match_path(groups, pattern):
    found = [x for x, path in groups.leaves.items() if pattern.fullmatch(path)]
    return _rather_inside(groups, found)


def _rather_inside(groups, found):
    """Leaves out what stands beside the graph, if there is more."""
    return [x for x in found if x in groups.inside] or found


def _no_match(groups, spec):
    if isinstance(spec, keras.layers.Layer):
        what, name = f"`layers` holds the layer {spec.name!r}", spec.name
    else:
        what, name = f"`layers` asks for {spec!r}", str(spec)
    names = [group.name for group in groups]
    known = sorted({x.name for x in _layers(groups)} | set(names))
    nearest = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    return (
        f"No layer of the model matches: {what}. The layer groups are "
        f"{names}, and the model has {len(groups.leaves)} leaf layers. "
        f"Nearest names: {nearest}. Pass a layer or group name, a regular "
        "expression on the whole layer path, or a `Layer`. "
        f"Received: layers={spec!r}"
    )
