"""What an adapter is: a small layer inside the layer that it changes.

This is the one place of the room that touches private attributes of Keras.
"""

import contextlib
import functools
import weakref

import keras
from keras import ops


class AdapterLayer(keras.layers.Layer):
    """A small trained layer that lives in another layer, its base.

    The base stays the same object with the same weights. Its outputs, before
    its activation, become `outputs + switch * change(inputs, outputs)`, for
    each adapter that it holds. A method of your own is two classes: one like
    this, and one with the arguments, like `LoRA`.

    Args:
        base: The `keras.layers.Layer` to change, built.
        method: The method with its arguments, such as a `LoRA`.
        name: String, `"adapter_"` and the name of the adapter.

    Attributes:
        method: The method that made it.
        switch: Scalar weight that no training moves: 1 where the adapter is
            on, 0 where it is off. Being a weight and not a flag, it takes
            effect in a `predict` that is compiled already.

    Example:

    ```python
    import keras, finetune_keras as ft
    from finetune_keras.adapters.adapter import add_adapters
    from finetune_keras.adapters.layer import AdapterLayer
    from finetune_keras.adapters.method import Method

    class Shift(AdapterLayer):
        def build(self, input_shape):
            super().build(input_shape)
            self.shift = self.add_weight((1,), "zeros", name="shift")

        def change(self, inputs, outputs):
            return self.shift

    @keras.saving.register_keras_serializable(package="mine")
    class ShiftMethod(Method):
        def supports(self, layer):
            return isinstance(layer, keras.layers.Dense)

        def layer_for(self, layer, name):
            return Shift(layer, self, name)

    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="a")(inputs))
    add_adapters(model, ShiftMethod(), target_layers="a")
    ```
    """

    # Whether `change` has the switch in it, where that is cheaper.
    switches_itself = False

    def __init__(self, base, method, name):
        super().__init__(name=name, dtype=_float_policy(base.dtype_policy))
        # Held weakly: as an attribute, Keras would take it for a part.
        self._base = weakref.ref(base)
        self.method = method
        self.supports_masking = True

    def build(self, input_shape):
        self.switch = self.add_weight(
            (), "ones", "float32", trainable=False, name="switch"
        )

    def call(self, inputs, outputs=None, **kwargs):
        if outputs is None:
            change = self.change_inputs(inputs)
        else:
            change = self.change(inputs, outputs, **kwargs)
        if change is None or self.switches_itself:
            return change
        return self.switched(change)

    def switched(self, tensor):
        """Multiplies by the switch; nothing passes where it is off."""
        tensor = ops.convert_to_tensor(tensor)
        # The product alone would let a diverged adapter through when off.
        switch = ops.cast(self.switch, tensor.dtype)
        return ops.where(switch == 0, ops.zeros_like(tensor), switch * tensor)

    def change(self, inputs, outputs, **kwargs):
        """What the adapter adds to the outputs of its base.

        Args:
            inputs: Tensor, what the base was called with.
            outputs: Tensor, what it made of it, before its activation.
            **kwargs: Further arguments of the base's call.

        Returns:
            Tensor that broadcasts to the shape of `outputs`, or `None` for
            nothing.
        """
        return None

    def change_inputs(self, inputs):
        """What the adapter adds to the inputs of its base.

        Args:
            inputs: Tensor, what the base was called with.

        Returns:
            Tensor of the shape of `inputs`, or `None` for nothing.
        """
        return None

    def weight_changes(self):
        """What to add to the weights of the base to do without the adapter.

        Returns:
            List of pairs of a variable of the base and a tensor, or `None`
            where the method cannot be merged.
        """
        return None


class Factor(keras.layers.Layer):
    """One trained weight as a layer, so that it has a path and flag of its own.

    Args:
        name: String.
    """

    def build(self, shape, initializer="zeros"):
        self.kernel = self.add_weight(shape, initializer, name="kernel")


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
    layer._tracker.unlock()
    setattr(layer, adapter.name, adapter)
    layer._tracker.lock()


def detach(layer, adapter):
    """Takes an adapter out of its base."""
    layer._tracker.unlock()
    layer._tracker.untrack(adapter)
    layer._tracker.lock()
    delattr(layer, adapter.name)
    if not adapters_in(layer):
        layer.__class__ = layer.base_class


def is_adapted(layer):
    """Tells whether a layer holds adapters."""
    return isinstance(layer, Adapted)


def adapters_in(layer):
    """Lists the adapters that a layer holds itself."""
    return [x for x in layer._layers if isinstance(x, AdapterLayer)]


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

    @functools.wraps(kind.call)
    def call(self, inputs, *args, **kwargs):
        return _call(self, kind.call, inputs, args, kwargs)

    @functools.wraps(kind.quantized_call)
    def quantized_call(self, inputs, *args, **kwargs):
        return _call(self, kind.quantized_call, inputs, args, kwargs)

    members = {
        "call": call,
        "quantized_call": quantized_call,
        "base_class": kind,
        # Keras names a class in a file by these; it must find the base's.
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    return type(kind.__name__, (Adapted, kind), members)


def _call(layer, call, inputs, args, kwargs):
    adapters = adapters_in(layer)
    read = inputs
    for adapter in adapters:
        if type(adapter).change_inputs is not AdapterLayer.change_inputs:
            read = _add(read, adapter(inputs))
    with _without_activation(layer) as activation:
        outputs = call(layer, read, *args, **kwargs)
    mask = getattr(outputs, "_keras_mask", None)
    for own in ("training", "mask"):
        kwargs.pop(own, None)
    changed = outputs
    for adapter in adapters:
        changed = _add(changed, adapter(inputs, outputs, *args, **kwargs))
    if activation is not None:
        changed = activation(changed)
    if mask is not None:
        changed._keras_mask = mask
    return changed


def _add(tensor, change):
    if change is None:
        return tensor
    return tensor + ops.cast(change, tensor.dtype)


@contextlib.contextmanager
def _without_activation(layer):
    """Lets a layer give what stands before its activation."""
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


def forget_traces(model):
    """Lets a model trace its steps anew at their next use."""
    for name in ("train_function", "test_function", "predict_function"):
        function = getattr(model, name, None)
        # `jax.jit` would know the step again, and use the trace of before.
        for cell in getattr(function, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "clear_cache"):
                cell.cell_contents.clear_cache()
        if function is not None:
            setattr(model, name, None)


def _float_policy(policy):
    """The policy of a layer, without quantisation."""
    compute, variable = policy.compute_dtype, policy.variable_dtype
    return variable if compute == variable else f"mixed_{compute}"
