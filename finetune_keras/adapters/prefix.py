"""Prefix tuning: trained keys and values in each attention."""

import keras

from finetune_keras.adapters.layer import AdapterLayer, Factor
from finetune_keras.adapters.method import Method
from finetune_keras.arguments import check, integer


@keras.saving.register_keras_serializable(package="finetune_keras")
class PrefixTuning(Method):
    """Prefix tuning, for `add_adapters`: trained keys and values.

    In each `keras.layers.MultiHeadAttention`, and so in KerasHub's encoders,
    all tokens look at `length` more keys and values, whatever the mask. They
    start small and random, and are trained directly, without the network
    that the paper makes them by during training.

    There is no identity at the start, as there is none in the paper: what
    looks at the prefix looks less at the tokens. Switched with a weight, or
    several at once, their changes of the attended values are added up. Each
    costs one more computation of the attention, so that off is off to the
    bit. It cannot be merged.

    Args:
        length: Integer, number of keys. Defaults to `20`.

    Raises:
        ValueError: If `length` is out of range.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.PrefixTuning(length=5))
    print([v.path for v in model.trainable_variables])
    ```

    Reference:
        - [Li and Liang, 2021](https://arxiv.org/abs/2101.00190)
    """

    goes_into_attention = True

    def __init__(self, length=20):
        check(length=(length, integer(1)))
        self.length = int(length)

    def supports(self, layer):
        # Over several axes there is no one sequence to put a prefix to.
        kind = isinstance(layer, keras.layers.MultiHeadAttention)
        return kind and len(layer.key_dense.partial_output_shape) == 3

    def layer_for(self, layer, name):
        return _Prefix(layer, self, name)


class _Prefix(AdapterLayer):
    """Keys and values in front of those of an attention layer."""

    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        self.prefix_key = Factor(name="prefix_key", dtype=self.dtype_policy)
        self.prefix_value = Factor(name="prefix_value", dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        base, length = self._base(), self.method.length
        for part, dense in (
            (self.prefix_key, base.key_dense),
            (self.prefix_value, base.value_dense),
        ):
            normal = keras.initializers.RandomNormal(stddev=0.02)
            part.build((length, *dense.partial_output_shape[-2:]), normal)

    def change(self, inputs, outputs, with_prefix):
        key, value = self.prefix_key.kernel, self.prefix_value.kernel
        return with_prefix(key, value) - outputs
