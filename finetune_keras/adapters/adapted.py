"""How a layer computes with the adapters that it holds."""

import contextlib
import functools
import threading

import keras
from keras import ops

from finetune_keras.adapters.attention import attend
from finetune_keras.adapters.layer import AdapterLayer, adapters_in
from finetune_keras.engine.layers import ATTENTION, hold, let_go
from finetune_keras.engine.private import (
    GLOBAL_CUSTOM_NAMES,
    get_keras_mask,
    set_keras_mask,
)

# One thread at a time takes the activation of a layer away.
_ACTIVATION = threading.RLock()


def attach(layer, adapter, path):
    """Puts an adapter in its base, where it takes effect at once.

    Args:
        layer: The base, a `keras.layers.Layer`.
        adapter: An `AdapterLayer` made for it.
        path: String, path of the layer in its model, for the weights' paths.
    """
    with contextlib.ExitStack() as scopes:
        for part in path.split("/"):
            scopes.enter_context(keras.name_scope(part))
        adapter.build(None)
    if not is_adapted(layer):
        layer.__class__ = _adapted_class(type(layer))
    hold(layer, adapter.name, adapter)


def detach(layer, adapter):
    """Takes an adapter out of its base."""
    # Other models that share the layer may hold a trace with it.
    adapter.switch.assign(0.0)
    let_go(layer, adapter.name, adapter)
    if not adapters_in(layer):
        layer.__class__ = layer.base_class


def is_adapted(layer):
    """Tells whether a layer holds adapters."""
    return isinstance(layer, Adapted)


@contextlib.contextmanager
def base_classes(layers):
    """Gives adapted layers their own classes back, for writing configs."""
    adapted = [(layer, type(layer)) for layer in layers if is_adapted(layer)]
    for layer, kind in adapted:
        layer.__class__ = kind.base_class
    try:
        yield
    finally:
        for layer, kind in adapted:
            layer.__class__ = kind


class Adapted:
    """What the class of a layer gets on top when the layer holds adapters."""


@functools.cache
def _adapted_class(kind):
    """Makes the class of a layer of this kind that holds adapters."""

    members = {
        **_adapted_calls(kind),
        "base_class": kind,
        # Keras names a class in a file by these; it must find the base's.
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    adapted = type(kind.__name__, (Adapted, kind), members)
    names = GLOBAL_CUSTOM_NAMES
    if kind in names:
        names[adapted] = names[kind]
    return adapted


def _adapted_calls(kind):
    if issubclass(kind, keras.layers.MultiHeadAttention):

        compute_attention = getattr(kind, ATTENTION)

        @functools.wraps(compute_attention)
        def compute(self, *args, **kwargs):
            own = functools.partial(compute_attention, self)
            return attend(own, adapters_in(self), *args, **kwargs)

        return {ATTENTION: compute}

    @functools.wraps(kind.call)
    def call(self, inputs, *args, **kwargs):
        return _call(self, kind.call, inputs, args, kwargs)

    @functools.wraps(kind.quantized_call)
    def quantized_call(self, inputs, *args, **kwargs):
        return _call(self, kind.quantized_call, inputs, args, kwargs)

    return {"call": call, "quantized_call": quantized_call}


def _call(layer, call, inputs, args, kwargs):
    adapters = adapters_in(layer)
    read = inputs
    for adapter in adapters:
        if _overrides(adapter, "change_inputs"):
            read = _add(read, adapter(inputs))
    changes = [x for x in adapters if _overrides(x, "change")]
    with _without_activation(layer if changes else None) as activation:
        outputs = call(layer, read, *args, **kwargs)
    mask = get_keras_mask(outputs)
    for own in ("training", "mask"):
        kwargs.pop(own, None)
    changed = outputs
    for adapter in changes:
        changed = _add(changed, adapter(inputs, outputs, *args, **kwargs))
    if activation is not None:
        changed = activation(changed)
    for adapter in adapters:
        if _overrides(adapter, "change_sequence"):
            mask = _mask_of(layer, inputs) if mask is None else mask
            changed, mask = adapter.change_sequence(changed, mask)
    if mask is not None:
        set_keras_mask(changed, mask)
    return changed


def _overrides(adapter, method):
    return getattr(type(adapter), method) is not getattr(AdapterLayer, method)


def _mask_of(layer, inputs):
    """The mask that Keras would put on the outputs of a layer."""
    masks = keras.tree.map_structure(get_keras_mask, inputs)
    return layer.compute_mask(inputs, masks) if layer.supports_masking else None


def _add(tensor, change):
    if change is None:
        return tensor
    return tensor + ops.cast(change, tensor.dtype)


@contextlib.contextmanager
def _without_activation(layer):
    """Lets a layer give what stands before its activation."""
    with _ACTIVATION if layer is not None else contextlib.nullcontext():
        activation = getattr(layer, "activation", None)
        if activation in (None, keras.activations.linear):
            yield None
            return
        # Past Keras's tracking, which would take this for a new part.
        members = vars(layer)
        own = "activation" in members
        members["activation"] = None
        try:
            yield activation
        finally:
            if own:
                members["activation"] = activation
            else:
                del members["activation"]
