"""One function that turns any specification into leaf layers."""

import difflib
import numbers
import re

import keras

from finetune_keras.models import graph
from finetune_keras.models.layer_groups import (
    OUTSIDE,
    LayerGroup,
    layer_groups,
    outside_group,
)
from finetune_keras.models.subclassed import attribute_names


def select_layers(model, layers="all"):
    """Turns a specification of layers into the leaf layers that it means.

    Freezing, phases, adapters and learning rates all take the same
    specification. Layers that a model holds beside its graph, such as a
    teacher, are meant only where they are named: as a `Layer`, by their name,
    the attribute or the path, or as `"outside the graph"`.

    Args:
        model: A `keras.Model`, built.
        layers: What to select, one of
            - `"all"`, `"backbone"` (all but the head) or `"head"`;
            - the name of a layer group, see `layer_groups`; where a layer has
              the same name, the group is meant;
            - the name of a layer, at any depth; an inner model or a composite
              layer stands for all its leaves;
            - a regular expression that matches a whole layer path, such as
              `r".*/(query|value)"`; a path is the names of the layers around
              a leaf and its own, joined by `/`;
            - a `Layer`, a layer class, or a `LayerGroup`;
            - an integer n of at least 0: the head and the last n groups before
              it, or the last n groups of a model without a head;
            - a callable that takes a leaf layer and returns a boolean;
            - a list of any of these.

            Defaults to `"all"`.

    Returns:
        List of leaf layers in the order of the model, each once.

    Raises:
        ValueError: If any part of `layers` matches nothing, or the model or
            what is named is not built yet. The message names what exists and
            what is nearest.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    print(len(ft.select_layers(model, "block13")))
    print(len(ft.select_layers(model, keras.layers.DepthwiseConv2D)))
    print(ft.select_layers(model, r"conv_pw_1[23]"))
    ```
    """
    leaves = _Leaves(model)
    chosen = set(_match(leaves, layers))
    return [layer for layer in leaves.every if layer in chosen]


class _Leaves:
    """The leaf layers of a model, in its graph and beside it."""

    def __init__(self, model):
        self.model = model
        self.groups = layer_groups(model)
        self.outside = outside_group(model, self.groups)
        self.every = {
            layer: path
            for layer, path in graph.every_leaf(model).items()
            if not isinstance(layer, keras.layers.InputLayer)
        }
        beside = self.outside.layers if self.outside else ()
        self.inside = {x: p for x, p in self.every.items() if x not in beside}

    def layers(self):
        """Lists the layers of the model at any depth."""
        beside = graph.layers_beside(self.model)
        return [*graph.all_layers(self.model), *beside]

    def rather_inside(self, found):
        """Leaves out what stands beside the graph, if there is more."""
        return [x for x in found if x in self.inside] or found


def _match(leaves, spec):
    if isinstance(spec, (list, tuple, set)):
        if not spec:
            raise ValueError(
                "The selection of layers is empty. Pass at least one layer, "
                f'name or group, or "all". Received: layers={spec!r}'
            )
        return [layer for one in spec for layer in _match(leaves, one)]
    found = [x for x in _match_one(leaves, spec) if x in leaves.every]
    # Lists cut from `model.layers` hold the input; it selects nothing.
    if not found and not isinstance(spec, keras.layers.InputLayer):
        raise ValueError(_no_match(leaves, spec))
    return found


def _match_one(leaves, spec):
    if isinstance(spec, LayerGroup):
        return spec.layers
    if isinstance(spec, keras.layers.Layer):
        return _leaves_of([spec])
    if isinstance(spec, type):
        kinds = [x for x in leaves.layers() if isinstance(x, spec)]
        found = [leaf for x in kinds for leaf in graph.leaf_layers(x)]
        return [x for x in found if x in leaves.inside]
    if isinstance(spec, str):
        return _match_name(leaves, spec)
    if isinstance(spec, re.Pattern):
        return _match_path(leaves, spec)
    if isinstance(spec, numbers.Integral) and not isinstance(spec, bool):
        groups = _last_groups(leaves.groups, spec)
        return [layer for group in groups for layer in group.layers]
    if callable(spec):
        return [layer for layer in leaves.inside if spec(layer)]
    raise ValueError(
        "Layers are selected by name, regular expression, `Layer`, layer "
        "class, `LayerGroup`, number of groups, callable, or a list of these, "
        "such as `model.layers[4:]` or `layer_groups(model)[-2:]`. "
        f"Received: layers={spec!r} of type {type(spec).__name__}"
    )


def _leaves_of(layers):
    """Lists the leaves of layers, which must have got their weights."""
    found = [leaf for layer in layers for leaf in graph.leaf_layers(layer)]
    for leaf in found:
        waits = type(leaf).build is not keras.layers.Layer.build
        # Some make their weights as they are made, and are never built.
        if waits and not leaf.built and not graph.own_variables(leaf):
            raise ValueError(
                f"The layer {leaf.name!r} is not built yet: it has no weights "
                "to freeze or to train. Call the model on a batch first. "
                f"Received: a layer of type {type(leaf).__name__}"
            )
    return found


def _last_groups(groups, number):
    has_head = groups[-1].name == "head"
    count = number + has_head
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


def _match_name(leaves, name):
    if name == "all":
        return list(leaves.inside)
    groups = {group.name: group.layers for group in leaves.groups}
    if name == "backbone":
        head = set(groups.get("head", []))
        return [layer for layer in leaves.inside if layer not in head]
    # Many groups have the name of their last layer, often one of no weights.
    if name in groups:
        return groups[name]
    if name == OUTSIDE and leaves.outside:
        return leaves.outside.layers
    held = attribute_names(leaves.model)
    named = [
        layer
        for layer in leaves.layers()
        if name in (layer.name, held.get(id(layer)))
    ]
    if named:
        return leaves.rather_inside(_leaves_of(named))
    try:
        return _match_path(leaves, re.compile(name))
    except re.error as error:
        raise ValueError(
            "`layers` is neither the name of a layer or group nor a regular "
            f"expression ({error}). Received: layers={name!r}"
        ) from error


def _match_path(leaves, pattern):
    found = [x for x, path in leaves.every.items() if pattern.fullmatch(path)]
    return leaves.rather_inside(found)


def _no_match(leaves, spec):
    if isinstance(spec, keras.layers.Layer):
        what, name = f"`layers` holds the layer {spec.name!r}", spec.name
    else:
        what, name = f"`layers` asks for {spec!r}", str(spec)
    groups = [group.name for group in leaves.groups]
    known = sorted({x.name for x in leaves.layers()} | set(groups))
    nearest = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    return (
        f"No layer of the model matches: {what}. The layer groups are "
        f"{groups}, and the model has {len(leaves.every)} leaf layers. Nearest "
        f"names: {nearest}. Pass a layer or group name, a regular expression "
        f"on the whole layer path, or a `Layer`. Received: layers={spec!r}"
    )
