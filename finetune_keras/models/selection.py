"""One function that turns any specification into leaf layers."""

import difflib
import re

import keras

from finetune_keras.models import graph
from finetune_keras.models.layer_groups import LayerGroup, layer_groups


def select_layers(model, layers="all"):
    """Turns a specification of layers into the leaf layers that it means.

    Freezing, adapters and learning rates all take the same specification.

    Args:
        model: A `keras.Model`.
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
            - an integer or a slice, as in `model.layers[...]`;
            - a callable that takes a leaf layer and returns a boolean;
            - a list of any of these.

            Defaults to `"all"`.

    Returns:
        List of leaf layers in the order of the model, each once.

    Raises:
        ValueError: If any part of `layers` matches nothing. The message names
            what exists and what is nearest.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    print(len(ft.select_layers(model, "block13")))
    print(len(ft.select_layers(model, keras.layers.DepthwiseConv2D)))
    print(ft.select_layers(model, r"conv_pw_1[23]"))
    ```
    """
    leaves = {
        layer: path
        for layer, path in graph.leaf_layers(model).items()
        if not isinstance(layer, keras.layers.InputLayer)
    }
    chosen = set(_match(model, leaves, layers))
    return [layer for layer in leaves if layer in chosen]


def _match(model, leaves, spec):
    if isinstance(spec, (list, tuple, set)):
        if not spec:
            raise ValueError(
                "The selection of layers is empty. Pass at least one layer, "
                f'name or group, or "all". Received: layers={spec!r}'
            )
        return [layer for one in spec for layer in _match(model, leaves, one)]
    found = [x for x in _match_one(model, leaves, spec) if x in leaves]
    # Lists cut from `model.layers` hold the input; it selects nothing.
    if not found and not isinstance(spec, keras.layers.InputLayer):
        raise ValueError(_no_match(model, leaves, spec))
    return found


def _match_one(model, leaves, spec):
    if isinstance(spec, LayerGroup):
        return spec.layers
    if isinstance(spec, keras.layers.Layer):
        return list(graph.leaf_layers(spec))
    if isinstance(spec, type):
        return _match_class(model, spec)
    if isinstance(spec, str):
        return _match_name(model, leaves, spec)
    if isinstance(spec, re.Pattern):
        return _match_path(leaves, spec)
    if isinstance(spec, (int, slice)) and not isinstance(spec, bool):
        return _match_position(model, spec)
    if callable(spec):
        return [layer for layer in leaves if spec(layer)]
    raise ValueError(
        "Layers are selected by name, regular expression, `Layer`, layer "
        "class, `LayerGroup`, integer, slice, callable, or a list of these. "
        f"Received: layers={spec!r} of type {type(spec).__name__}"
    )


def _match_class(model, kind):
    matches = [x for x in graph.all_layers(model) if isinstance(x, kind)]
    return [leaf for x in matches for leaf in graph.leaf_layers(x)]


def _match_name(model, leaves, name):
    if name == "all":
        return list(leaves)
    groups = {group.name: group.layers for group in layer_groups(model)}
    if name == "backbone":
        head = set(groups.get("head", []))
        return [layer for layer in leaves if layer not in head]
    # Many groups have the name of their last layer, often one of no weights.
    if name in groups:
        return groups[name]
    named = [x for x in graph.all_layers(model) if x.name == name]
    if named:
        return [leaf for x in named for leaf in graph.leaf_layers(x)]
    try:
        return _match_path(leaves, re.compile(name))
    except re.error as error:
        raise ValueError(
            "`layers` is neither the name of a layer or group nor a regular "
            f"expression ({error}). Received: layers={name!r}"
        ) from error


def _match_path(leaves, pattern):
    return [layer for layer, path in leaves.items() if pattern.fullmatch(path)]


def _match_position(model, position):
    try:
        picked = model.layers[position]
    except IndexError:
        return []
    picked = picked if isinstance(picked, list) else [picked]
    return [leaf for layer in picked for leaf in graph.leaf_layers(layer)]


def _no_match(model, leaves, spec):
    if isinstance(spec, keras.layers.Layer):
        what, name = f"`layers` holds the layer {spec.name!r}", spec.name
    else:
        what, name = f"`layers` asks for {spec!r}", str(spec)
    groups = [group.name for group in layer_groups(model)]
    known = sorted({x.name for x in graph.all_layers(model)} | set(groups))
    nearest = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    return (
        f"No layer of the model matches: {what}. The layer groups are "
        f"{groups}, and the model has {len(leaves)} leaf layers. Nearest "
        f"names: {nearest}. Pass a layer or group name, a regular expression "
        f"on the whole layer path, or a `Layer`. Received: layers={spec!r}"
    )
