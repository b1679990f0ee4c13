"""Which layers get an adapter."""

import re
import warnings
import weakref

import keras

from finetune_keras.adapters.layer import AdapterLayer
from finetune_keras.engine import graph
from finetune_keras.engine.layers import every_layer
from finetune_keras.models.adapters_by_path import bases
from finetune_keras.models.layer_groups import layer_groups, select_layers

_QUERY_OR_VALUE = re.compile(
    r"(?i)(.*[^a-z])?(query|value|[qv]_proj)([^a-z].*)?"
)
# The layer that closes the feed-forward part of a block.
FEEDFORWARD_OUTPUT = re.compile(
    r"(?i)(.*[^a-z])?(feed_?forward|ffn|mlp).*(out|output|2)([^a-z].*)?"
    r"|(.*[^a-z])?down_proj"
)

_HEADS = weakref.WeakKeyDictionary()


def find_targets(model, method, target_layers=None):
    """Dict from the layers that a method goes into to their paths.

    `target_layers` is a selection as in `select_layers`, or `None` for the
    default of the method.
    """
    found = method.find_layers(model)
    if found is not None:
        _check_no_choice(method, target_layers)
        return found
    leaves = base_leaves(model)
    if method.goes_into_attention:
        leaves = attention_layers(model)
    supported = {
        layer: path
        for layer, path in leaves.items()
        if _is_plain(layer) and method.supports(layer)
    }
    head = head_layers(model)
    if target_layers is None:
        inner = {x: p for x, p in supported.items() if x not in head}
        chosen = method.default_layers(inner)
        received = f"target_layers=None, model={model.name!r}"
    else:
        chosen = select_layers(model, target_layers)
        received = f"target_layers={target_layers!r}"
    among = set(chosen)
    if method.goes_into_attention:
        among |= {x for x in supported if _holds_any(x, among)}
    targets = {x: path for x, path in supported.items() if x in among}
    # The head trains in full, and no pattern is meant to hold it back.
    meant = {
        layer: path
        for layer, path in targets.items()
        if layer not in head or _is_named(layer, path, target_layers)
    }
    targets = meant or targets
    if not targets:
        raise ValueError(
            _no_target(method, leaves, supported, chosen, received)
        )
    return targets


def _is_named(layer, path, selection):
    """Tells whether a selection names just this layer."""
    parts = selection if isinstance(selection, (list, tuple)) else [selection]
    return any(
        part is layer or (isinstance(part, str) and part in (layer.name, path))
        for part in parts
    )


def check_places(model, method, paths):
    """Raises where layers that a file names cannot have the method here."""
    layers = {path: layer for layer, path in bases(model).items()}
    free = method.find_layers(model) is None
    for path in paths:
        layer = layers.get(path)
        fits = layer is not None and (_is_plain(layer) or not free)
        if not fits or (free and not method.supports(layer)):
            what = "is not there"
            if layer is not None:
                what = f"is a {type(layer).__name__} that cannot have it"
                mode = layer.dtype_policy.quantization_mode
                what += f", quantised to {mode}" if mode else ""
            raise ValueError(
                f"{method!r} of the file goes into the layer {path!r}, which "
                f"{what}. Load it into the model that it was trained on. "
                f"Received: model={model.name!r}"
            )


def _is_plain(layer):
    # Keras's own LoRA hides the kernel.
    quantized = layer.dtype_policy.quantization_mode
    own_lora = getattr(layer, "lora_enabled", False)
    return quantized in (None, "int8", "int4") and not own_lora


def _holds_any(layer, chosen):
    return not chosen.isdisjoint(graph.leaf_layers(layer))


def _check_no_choice(method, target_layers):
    if target_layers is not None:
        raise ValueError(
            f"{type(method).__name__} has one place, in front of the tokens: "
            "leave `target_layers` out. "
            f"Received: target_layers={target_layers!r}"
        )


def attention_layers(model):
    """Dict from the `MultiHeadAttention`s of a model to their paths."""
    kind = keras.layers.MultiHeadAttention
    return {x: p for x, p in bases(model).items() if isinstance(x, kind)}


def base_leaves(model):
    """Dict from the leaf layers that are no part of an adapter to paths."""
    leaves = graph.leaf_layers(model)
    parts = {
        id(part)
        for leaf in leaves
        if isinstance(leaf, AdapterLayer)
        for part in every_layer(leaf)
    }
    return {leaf: p for leaf, p in leaves.items() if id(leaf) not in parts}


def head_layers(model):
    """Set of the layers of the head, empty where there is none.

    Each switch of adapters asks for it: it is looked for anew only where the
    model holds other layers than before.
    """
    held = list(map(weakref.ref, graph.leaf_layers(model)))
    known, head = _HEADS.get(model, (None, ()))
    if held != known:
        with warnings.catch_warnings():
            # That a subclassed model cannot be cut does not matter here.
            warnings.simplefilter("ignore")
            group = layer_groups(model).head
        head = list(map(weakref.ref, group.layers if group else ()))
        _HEADS[model] = held, head
    return {layer() for layer in head}


def attention_or_pointwise(leaves):
    """Query and value projections; else pointwise and dense; else all."""
    projections = (keras.layers.Dense, keras.layers.EinsumDense)
    named = [
        layer
        for layer in leaves
        if isinstance(layer, projections)
        and name_matches(layer, _QUERY_OR_VALUE)
    ]
    mixing = [layer for layer in leaves if mixes_channels(layer)]
    return named or mixing or list(leaves)


def name_matches(layer, pattern):
    """Tells whether a pattern matches the whole name of a layer."""
    return pattern.fullmatch(layer.name) is not None


def mixes_channels(layer):
    """Tells whether a layer is dense or a pointwise convolution."""
    if isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv2D)):
        return set(layer.kernel_size) == {1}
    return isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense))


def _no_target(method, leaves, supported, chosen, received):
    name = type(method).__name__
    kinds = sorted({type(x).__name__ for x in chosen})
    weighted = {type(x).__name__ for x in leaves if graph.own_variables(x)}
    found = (
        f"The selection holds {', '.join(kinds)}."
        if chosen
        else "The model's head is left out by default."
    )
    could = list(supported.values())
    shown = ", ".join(repr(path) for path in could[:8])
    advice = (
        f"{len(could)} layers could be meant: {shown}"
        + (", ..." if len(could) > 8 else "")
        if could
        else f"The model has none: its weights are in {sorted(weighted)}"
    )
    return (
        f"No layer that {name} can go into. {found} {advice}. Pass names, "
        "regular expressions on the whole path, classes, or a callable as "
        f"`target_layers`. Received: {received}"
    )
