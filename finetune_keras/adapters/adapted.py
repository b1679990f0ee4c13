"""How a layer computes with the adapters that it holds."""

import contextlib
import functools
import threading

import keras
from keras import ops

from finetune_keras.adapters.attention import attend
from finetune_keras.adapters.layer import AdapterLayer
from finetune_keras.engine.calls import other_activation
from finetune_keras.engine.layers import ATTENTION, hold, let_go
from finetune_keras.engine.private import get_keras_mask, set_keras_mask
from finetune_keras.models.adapters_by_path import adapters_in

# One thread at a time takes the activation of a layer away.
_ACTIVATION = threading.RLock()


def attach(layer, adapter, path):
    """Puts an adapter in its base, where it takes effect at once.

    The calls of the base are wrapped on the object itself: its class stays
    what it is, and so do its config and its copies. `path` is that of the
    layer in its model, for the paths of the weights.
    """
    with contextlib.ExitStack() as scopes:
        for part in path.split("/"):
            scopes.enter_context(keras.name_scope(part))
        adapter.build(None)
    if not adapters_in(layer):
        # Past Keras's tracking, which is locked once a layer is built.
        vars(layer).update(_adapted_calls(layer))
    hold(layer, adapter.name, adapter)


def detach(layer, adapter):
    """Takes an adapter out of its base."""
    # Other models that share the layer may hold a trace with it.
    adapter.switch.assign(0.0)
    let_go(layer, adapter.name, adapter)
    if not adapters_in(layer):
        for name in (ATTENTION, "call", "quantized_call"):
            vars(layer).pop(name, None)


def _adapted_calls(layer):
    """Dict from the names of methods to what stands in their place."""
    if isinstance(layer, keras.layers.MultiHeadAttention):
        own = getattr(layer, ATTENTION)

        @functools.wraps(own)
        def compute(*args, **kwargs):
            return attend(own, adapters_in(layer), *args, **kwargs)

        return {ATTENTION: compute}
    calls = {"call": layer.call, "quantized_call": layer.quantized_call}
    return {name: _wrapped(layer, own) for name, own in calls.items()}


def _wrapped(layer, own):
    @functools.wraps(own)
    def call(inputs, *args, **kwargs):
        return _call(layer, own, inputs, args, kwargs)

    return call


def _call(layer, call, inputs, args, kwargs):
    adapters = adapters_in(layer)
    read = inputs
    for adapter in adapters:
        if _overrides(adapter, "change_inputs"):
            read = _add(read, adapter(inputs))
    changes = [x for x in adapters if _overrides(x, "change")]
    with _without_activation(layer if changes else None) as activation:
        outputs = call(read, *args, **kwargs)
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
        with other_activation(layer, None):
            yield activation
