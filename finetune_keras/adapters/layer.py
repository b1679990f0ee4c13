"""What an adapter is: a small layer inside the layer that it changes."""

import weakref

import keras
import numpy as np
from keras import ops

from finetune_keras.engine.private import AutocastScope
from finetune_keras.models.adapters_by_path import InnerAdapter


class AdapterLayer(InnerAdapter):
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
        head: Tuple of the weights of the head that goes with the adapter, kept
            while another one is in place; `None` while its own is, and empty
            before there was one.
    """

    # Whether `change` has the switch in it, where that is cheaper.
    switches_itself = False
    # In an attention layer: how many vectors stand in front of the tokens.
    prompt_length = 0

    def __init__(self, base, method, name):
        super().__init__(name=name, dtype=_float_policy(base.dtype_policy))
        # Held weakly: as an attribute, Keras would take it for a part.
        self._base = weakref.ref(base)
        self.method = method
        self.head = ()
        self.supports_masking = True

    def build(self, input_shape):
        self.switch = self.add_weight(
            (), "ones", "float32", trainable=False, name="switch"
        )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.head is None:
            store["head"] = np.ones(())
        for i, value in enumerate(self.head or ()):
            store[f"head_{i}"] = value

    def load_own_variables(self, store):
        keys = list(store.keys())
        own = [key for key in keys if key.isdigit()]
        super().load_own_variables({key: store[key] for key in own})
        if "head" in keys:
            self.head = None
            return
        places = range(len(keys) - len(own))
        self.head = tuple(np.array(store[f"head_{i}"]) for i in places)

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
        """What it adds to the outputs of its base, `None` for nothing.

        Args:
            inputs: Tensor, what the base was called with.
            outputs: Tensor, what it made of it, before its activation.
            **kwargs: Further arguments of the base's call.
        """
        return None

    def change_inputs(self, inputs):
        """What it adds to the inputs of its base, `None` for nothing."""
        return None

    def change_sequence(self, outputs, mask):
        """Makes `(batch, length, features)`, and mask, longer or shorter."""
        return outputs, mask

    def weight_changes(self):
        """What to add to the weights of the base to do without the adapter.

        Pairs of a variable of the base and a tensor, or `None` where the method
        cannot be merged.
        """
        return None


def full_precision():
    """A scope in which weights are read as they are, not in half precision."""
    return AutocastScope(None)


class Factor(keras.layers.Layer):
    """One trained weight as a layer, so that it has a path and flag of its own.

    Args:
        name: String.
    """

    def build(self, shape, initializer="zeros"):
        self.kernel = self.add_weight(shape, initializer, name="kernel")


def _float_policy(policy):
    """The policy of a layer, without quantisation."""
    compute, variable = policy.compute_dtype, policy.variable_dtype
    return variable if compute == variable else f"mixed_{compute}"
