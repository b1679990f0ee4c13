"""Which layers can be made again of what Keras writes of them."""

import contextlib
import hashlib
import json
import random
import warnings
import weakref

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.nodes import nodes_of
from finetune_keras.engine.private import global_state
from finetune_keras.models.hub import HubLayer
from finetune_keras.models.trainable_set import quantized_layers

_LARGE = 5_000_000
# Digests of what was made again, by class: to build it takes milliseconds.
_READ_AGAIN = weakref.WeakKeyDictionary()


def unreadable_layers(model):
    """Dict from layers that a file could not give back to the reason.

    Each kind of layer is written and made again, which takes milliseconds. A
    model with a `get_config` of its own is made again by its constructor, and
    its layers are no concern of the file.
    """
    return _unreadable(model) if _writes_its_layers(model) else {}


def warn_if_unreadable(model):
    """Tells before a training that the file of its model would be no use.

    Args:
        model: A `keras.Model`.
    """
    reasons = unreadable_layers(model)
    if not _writes_its_layers(model) and quantized_layers(model):
        kind = type(model).__name__
        reasons[model.name] = f"{kind} does not write which layers are int8"
    if reasons:
        warnings.warn(
            "The model trains, but its `.keras` file could not be read again: "
            f"{reasons}. Keep its weights with `save_weights`, or give the "
            "layers a `get_config` with all that their constructor takes.",
            stacklevel=3,
        )


def closed_models(model):
    """Finds inner models that must stay whole, or no file could be read.

    They write down how they were made, and some of their layers, which would
    stand in the file one by one if they were opened, cannot.
    """
    inner = [x for x in graph.all_layers(model) if graph.graph_of(x)]
    return [x for x in inner if _must_stay_whole(x)]


def in_one_piece(model):
    """Puts a model that must stay whole into another one, as its one layer.

    A model whose layers can stand anywhere is returned as it is.
    """
    if graph.graph_of(model) is None or not _must_stay_whole(model):
        return model
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name),
        model.input,
    )
    return keras.Model(inputs, model(inputs), name=model.name)


def tensors_of(model):
    """Finds the tensors of a graph, by their own identity and from inside.

    Dict from the `id` of each tensor, and of each output of an inner model, to
    the tensor that stands for it in the graph.
    """
    whole = graph.graph_of(model)
    known = {id(x): x for x in whole.inputs}
    for node in nodes_of(model):
        known.update((id(x), x) for x in node.outputs)
        inner = graph.graph_of(node.operation)
        if inner is not None:
            pairs = zip(inner.outputs, node.outputs, strict=True)
            known.update((id(x), y) for x, y in pairs)
    return known


def _must_stay_whole(model):
    return not _writes_its_layers(model) and bool(_unreadable(model))


def _writes_its_layers(model):
    """Tells whether the layers of a model stand in its config one by one."""
    module = type(model).get_config.__module__.split(".")[0]
    is_ours = module in ("keras", "finetune_keras")
    return is_ours and graph.graph_of(model) is not None


def _unreadable(model):
    reasons, seen = {}, set()
    for layer in graph.inner_layers(model):
        if graph.graph_of(layer) is not None:
            reasons.update(unreadable_layers(layer))
        elif type(layer) not in seen:
            seen.add(type(layer))
            with _nothing_drawn():
                reason = _reason(layer)
            if reason:
                reasons[layer.name] = f"{type(layer).__name__}: {reason}"
    return reasons


def _is_python_lambda(layer):
    function = getattr(layer, "function", None)
    is_lambda = getattr(function, "__name__", None) == "<lambda>"
    return is_lambda and isinstance(layer, keras.layers.Lambda)


def _reason(layer):
    if isinstance(layer, (HubLayer, keras.layers.TFSMLayer)):
        return None  # would be fetched or loaded once more
    if _is_python_lambda(layer):
        return None  # is read with `safe_mode=False`, as Keras says itself
    kind = type(layer)
    try:
        text = json.dumps(keras.saving.serialize_keras_object(layer))
        mark = _digest(text.replace(json.dumps(layer.name), ""))
        if mark in _READ_AGAIN.get(kind, ()):
            return None
        written = json.loads(text)
        made = kind.from_config(written["config"])
        shapes = written.get("build_config")
        by_call = kind.build is keras.layers.Layer.build
        # A second one of these would cost seconds.
        large = bool(layer.weights) and layer.count_params() > _LARGE
        if shapes and not (made.built or by_call or large):
            made.build_from_config(shapes)
        _READ_AGAIN.setdefault(kind, set()).add(mark)
    except Exception as error:  # each layer has its own way to fail
        return f"{type(error).__name__}: {str(error).strip()[:300]}"
    return None


def _digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@contextlib.contextmanager
def _nothing_drawn():
    """Leaves random numbers, and the numbers of names, as they were."""
    state, name = random.getstate(), "object_name_uids"
    numbers = global_state.get_global_attribute(name)
    before = dict(numbers or {})
    try:
        yield
    finally:
        random.setstate(state)
        if numbers is not None:
            numbers.clear()
            numbers.update(before)
