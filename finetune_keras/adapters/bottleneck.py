"""Bottleneck adapters: a small network behind each block."""

import re

import keras

from finetune_keras.adapters.layer import AdapterLayer
from finetune_keras.adapters.method import Method
from finetune_keras.adapters.targets import (
    FEEDFORWARD_OUTPUT,
    mixes_channels,
    name_matches,
)
from finetune_keras.arguments import check, integer, one_of

_ATTENTION_OUTPUT = re.compile(
    r"(?i)(.*[^a-z])?(attention_output|attn_out|[a-z]*o_proj|out_proj)"
    r"([^a-z].*)?"
)


@keras.saving.register_keras_serializable(package="finetune_keras")
class Bottleneck(Method):
    """Bottleneck adapters, for `add_adapters`.

    Behind a layer comes a dense layer to a few units, an activation and a
    dense layer back, added to what went in. The last starts at zero, so that
    nothing changes at the start. It goes behind layers whose features are
    last; by default behind the output projections of attention and
    feed-forward blocks, before their residual sum, and in a model without
    such names behind the pointwise convolutions and dense layers of the
    backbone. It cannot be merged.

    Args:
        units: Integer, the width of the bottleneck. Defaults to `64`.
        activation: String, an activation of Keras. Defaults to `"gelu"`.
        placement: `"houlsby"`, behind attention and feed-forward, or
            `"pfeiffer"`, behind feed-forward only. Defaults to `"houlsby"`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.Bottleneck(units=4))
    print(len(model.trainable_variables))  # 6
    ```

    Reference:
        - [Houlsby et al., 2019](https://arxiv.org/abs/1902.00751)
        - [Pfeiffer et al., 2020](https://arxiv.org/abs/2005.00247)
    """

    def __init__(self, units=64, activation="gelu", placement="houlsby"):
        check(
            units=(units, integer(1)),
            placement=(placement, one_of("houlsby", "pfeiffer")),
        )
        if not isinstance(activation, str):
            raise ValueError(
                "`activation` must be the name of an activation, so that it "
                f"can be kept in a file. Received: activation={activation!r}"
            )
        keras.activations.get(activation)
        self.units = int(units)
        self.activation = activation
        self.placement = placement

    def supports(self, layer):
        if isinstance(layer, keras.layers.Conv2D):
            return layer.data_format == "channels_last"
        if isinstance(layer, keras.layers.EinsumDense):
            return _width(layer) is not None
        return isinstance(layer, keras.layers.Dense)

    def default_layers(self, leaves):
        places = [FEEDFORWARD_OUTPUT]
        if self.placement == "houlsby":
            places.append(_ATTENTION_OUTPUT)
        named = [x for x in leaves for p in places if name_matches(x, p)]
        mixing = [x for x in leaves if mixes_channels(x)]
        return named or mixing or list(leaves)

    def layer_for(self, layer, name):
        return _BottleneckLayer(layer, self, name)


def _width(layer):
    """How many features the outputs of a layer have, `None` if it is open."""
    if not isinstance(layer, keras.layers.EinsumDense):
        return layer.kernel.shape[-1]
    _, kernel, written = re.split(",|->", layer.equation.replace(" ", ""))
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    return sizes.get(written[-1])


class _BottleneckLayer(AdapterLayer):
    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        features = _width(base)
        # The widths of the paper's initialisation; zero makes the identity.
        small = keras.initializers.TruncatedNormal(stddev=1e-2)
        self.features = features
        self.down = keras.layers.Dense(
            method.units,
            method.activation,
            kernel_initializer=small,
            name="down",
            dtype=self.dtype_policy,
        )
        self.up = keras.layers.Dense(
            features,
            kernel_initializer="zeros",
            name="up",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.down.build((None, self.features))
        self.up.build((None, self.method.units))

    def change(self, inputs, outputs):
        return self.up(self.down(outputs))
