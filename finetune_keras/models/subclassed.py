"""The parts of a model without a graph, told by one call of it."""

import re
import warnings
import weakref

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.calls import changed_calls
from finetune_keras.engine.layers import call_facts, every_layer

# A call of a large model takes seconds to trace.
_ORDERS = weakref.WeakKeyDictionary()


def parts_by_call(model):
    """Lists the layers with weights of a model without a graph, as called.

    Pairs of a name and a list of leaf layers. The last one is the head, if it
    looks like one. What is not called is left out.
    """
    layers, names = call_order(model), attribute_names(model)
    if layers is None:
        warnings.warn(
            f"The call of {type(model).__name__}, a subclassed model, cannot "
            "be traced: its top-level layers, in the order of their "
            "definition, are its layer groups. Build it by one call on a "
            "batch, with all inputs in its first argument.",
            stacklevel=5,
        )
        layers = graph.inner_layers(model)
        layers.sort(key=lambda layer: _is_head(names[id(layer)]))
    parts = []
    for layer in layers:
        leaves = [x for x in graph.leaf_layers(layer) if graph.own_variables(x)]
        # Alone, a frozen `BatchNormalization` would be a group of nothing.
        if parts and leaves and all(map(is_norm, leaves)):
            parts[-1][1].extend(leaves)
        elif leaves:
            parts.append((names[id(layer)], leaves))
    return _with_head(_each_once(parts))


def call_order(model):
    """Lists the layers that a model holds, in the order of their first calls.

    Those that are not called are left out. `None` where the call cannot be
    traced.
    """
    held = [id(layer) for layer in every_layer(model)]
    known, places = _ORDERS.get(model, (None, None))
    if known != held:
        places = _traced_places(model)
        held = [id(layer) for layer in every_layer(model)]
        _ORDERS[model] = held, places
    children = graph.inner_layers(model)
    return places and [children[place] for place in places]


def _traced_places(model):
    """Places among the inner layers in the order of first calls, or `None`."""
    for dtype in ("float32", "int32"):
        called = []
        try:
            arguments = _symbolic_arguments(model, dtype)
            with _recorded(graph.inner_layers(model), called):
                keras.Operation.compute_output_spec(model, **arguments)
        except Exception:  # whatever a person's own `call` may raise
            continue
        return list(dict.fromkeys(called))
    return None


def _symbolic_arguments(model, dtype):
    """Makes tensors of the shapes that a model was built with."""
    shapes, names, takes_training = call_facts(model)
    names = [name for name in names if name != "training"]
    if len(shapes) == 1:
        shapes = {names[0]: next(iter(shapes.values()))}
    arguments = {
        name.removesuffix("_shape"): _tensors(shape, dtype)
        for name, shape in shapes.items()
    }
    if takes_training:
        # Some branches are taken in training alone.
        arguments["training"] = True
    return arguments


def _tensors(shape, dtype):
    # Keras keeps shapes in containers of its own, which JAX does not take.
    if isinstance(shape, dict):
        return {name: _tensors(one, dtype) for name, one in shape.items()}
    if any(isinstance(one, (dict, list, tuple)) for one in shape):
        return [_tensors(one, dtype) for one in shape]
    return keras.KerasTensor(tuple(shape), dtype)


def _recorded(children, called):
    """Has each call of a layer, or of one inside, note down its place."""
    places = {}
    for place, child in enumerate(children):
        for layer in every_layer(child):
            places.setdefault(layer, place)
    places.update((child, place) for place, child in enumerate(children))
    return changed_calls(
        [(layer, _recorder(called, place)) for layer, place in places.items()]
    )


def _recorder(called, place):
    def change(function):
        def call(*args, **kwargs):
            called.append(place)
            return function(*args, **kwargs)

        return call

    return change


def attribute_names(model):
    """Dict from the `id` of a held layer to its attribute, else its name."""
    names = {}
    # On torch, layers are not among the plain attributes.
    held = {**vars(model), **vars(model).get("_modules", {})}
    for name, value in held.items():
        if isinstance(value, keras.layers.Layer):
            names[id(value)] = name.strip("_")
        elif not name.startswith("_"):
            for key, one in _members(value):
                names.setdefault(id(one), f"{name}_{key}")
    for layer in graph.inner_layers(model):
        if _is_head(layer.name):
            names[id(layer)] = layer.name
        names.setdefault(id(layer), layer.name)
    return names


def _members(value):
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else []


def is_norm(layer):
    """Tells whether a layer normalises or scales rather than mixes."""
    name = type(layer).__name__
    return "Normalization" in name or "Scale" in name or name == "PReLU"


def _each_once(parts):
    """Leaves a layer that is shared to the part that calls it first."""
    seen, once = set(), []
    for name, leaves in parts:
        new = [x for x in leaves if x not in seen]
        seen.update(new)
        if new:
            once.append((name, new))
    return once


def _with_head(parts):
    """Puts the last parts together as the head, where they look like one."""
    if len(parts) < 2:
        return parts
    start = len(parts) - _may_be_head(parts[-1][1])
    while start > 1 and _is_head(parts[start - 1][0]):
        start -= 1
    head = [layer for _, leaves in parts[start:] for layer in leaves]
    body = [
        (leaves[0].name if name == "head" and head else name, leaves)
        for name, leaves in parts[:start]
    ]
    return [*body, ("head", head)] if head else body


def _is_head(name):
    return re.search(r"(^|_)head(_|$)", name) is not None


def _may_be_head(leaves):
    dense = (keras.layers.Dense, keras.layers.EinsumDense)
    return isinstance(leaves[-1], dense) and all(
        isinstance(x, dense) or is_norm(x) for x in leaves
    )
