"""Methods that scale and shift: (IA)3, BitFit, norms only."""

import re

import keras
from keras import ops

from finetune_keras.adapters.layer import AdapterLayer, Factor
from finetune_keras.adapters.method import Method
from finetune_keras.adapters.targets import (
    FEEDFORWARD_OUTPUT,
    mixes_channels,
    name_matches,
)

_KEY_OR_VALUE = re.compile(r"(?i)(.*[^a-z])?(key|value|[kv]_proj)([^a-z].*)?")


@keras.saving.register_keras_serializable(package="finetune_keras")
class IA3(Method):
    """(IA)3, for `add_adapters`: a learnt factor for each activation.

    In layers named key or value the outputs are scaled, in all others the
    inputs. By default these are the key and value projections of attention
    and the output layers of feed-forward blocks; in a model without
    attention, the pointwise convolutions and dense layers of the backbone. All
    factors start at one.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.IA3())
    print([v.path for v in model.trainable_variables])
    ```

    Reference:
        - [Liu et al., 2022](https://arxiv.org/abs/2205.05638)
    """

    def supports(self, layer):
        if isinstance(layer, keras.layers.Conv2D):
            return layer.groups == 1
        if isinstance(layer, keras.layers.EinsumDense):
            return _is_in_order(layer, name_matches(layer, _KEY_OR_VALUE))
        return isinstance(layer, keras.layers.Dense)

    def default_layers(self, leaves):
        keys = [x for x in leaves if name_matches(x, _KEY_OR_VALUE)]
        outputs = [x for x in leaves if name_matches(x, FEEDFORWARD_OUTPUT)]
        mixing = [x for x in leaves if mixes_channels(x)]
        return [*keys, *outputs] if keys else mixing or list(leaves)

    def layer_for(self, layer, name):
        return _Scale(layer, self, name)


class _Scale(AdapterLayer):
    """A factor for each input, or each output, of a layer with a kernel."""

    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        self.on_outputs = name_matches(base, _KEY_OR_VALUE)
        self.scale = Factor(name="scale", dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        self.sizes, self.axes, self.at = _features(
            self._base(), self.on_outputs
        )
        self.scale.build(self.sizes, "ones")

    def change(self, inputs, outputs):
        if self.on_outputs:
            return outputs * (ops.reshape(self.scale.kernel, self.at) - 1)

    def change_inputs(self, inputs):
        if not self.on_outputs:
            return inputs * (ops.reshape(self.scale.kernel, self.at) - 1)

    def weight_changes(self):
        base = self._base()
        shape = [
            size if axis in self.axes else 1
            for axis, size in enumerate(base.kernel.shape)
        ]
        factor = self.scale.kernel - 1
        changes = [(base.kernel, base.kernel * ops.reshape(factor, shape))]
        if self.on_outputs and base.bias is not None:
            at = self.at[-len(base.bias.shape) :]
            change = base.bias * ops.reshape(factor, at)
            if tuple(change.shape) != tuple(base.bias.shape):
                return None
            changes.append((base.bias, change))
        return changes


def _features(layer, of_outputs):
    """Which dimensions are features: `(sizes, axes, at)`.

    Their sizes, their places in the kernel, and the shape in which a factor for
    each lies on a tensor of the layer.
    """
    shape = tuple(layer.kernel.shape)
    if not isinstance(layer, keras.layers.EinsumDense):
        axis = len(shape) - (1 if of_outputs else 2)
        first = getattr(layer, "data_format", None) == "channels_first"
        behind = layer.rank if first else 0
        return (shape[axis],), (axis,), (shape[axis],) + (1,) * behind
    labels, kernel, here = _labels(layer, of_outputs)
    sizes = dict(zip(kernel, shape, strict=True))
    here = here.replace(".", "")
    at = tuple(sizes[x] if x in labels else 1 for x in here)
    axes = tuple(kernel.index(x) for x in labels)
    return tuple(sizes[x] for x in labels), axes, at


def _labels(layer, of_outputs):
    """Features of an `EinsumDense`: their labels, its kernel's, a tensor's."""
    read, kernel, written = re.split(",|->", layer.equation.replace(" ", ""))
    here, there = (written, read) if of_outputs else (read, written)
    return [x for x in kernel if x in here and x not in there], kernel, here


def _is_in_order(layer, of_outputs):
    """Tells whether features lie alike in the tensor and in the kernel."""
    labels, _, here = _labels(layer, of_outputs)
    order = [x for x in here if x in labels]
    return order == labels and here.find("...") in (-1, 0)


@keras.saving.register_keras_serializable(package="finetune_keras")
class BitFit(Method):
    """BitFit, for `add_adapters`: only the biases train.

    A learnt shift stands beside the bias of each dense and convolutional layer,
    `LayerNormalization` and `BatchNormalization`; it starts at zero. So it can
    be switched, kept in a file and merged like any adapter.

    Example:

    ```python
    import keras, finetune_keras as ft

    mobilenet = keras.applications.MobileNet(alpha=0.25, weights=None)
    ft.add_adapters(mobilenet, ft.BitFit())
    ```

    Reference:
        - [Ben Zaken et al., 2021](https://arxiv.org/abs/2106.10199)
    """

    def supports(self, layer):
        if _is_norm(layer):
            return layer.beta is not None
        kinds = (
            keras.layers.Dense,
            keras.layers.EinsumDense,
            keras.layers.Conv1D,
            keras.layers.Conv2D,
            keras.layers.Conv3D,
            keras.layers.Conv1DTranspose,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3DTranspose,
            keras.layers.DepthwiseConv1D,
            keras.layers.DepthwiseConv2D,
            keras.layers.SeparableConv1D,
            keras.layers.SeparableConv2D,
        )
        return isinstance(layer, kinds) and layer.bias is not None

    def layer_for(self, layer, name):
        return (_NormShift if _is_norm(layer) else _Shift)(layer, self, name)


@keras.saving.register_keras_serializable(package="finetune_keras")
class NormTuning(Method):
    """For `add_adapters`: only the scales and shifts of normalisation train.

    For `LayerNormalization` and `BatchNormalization`; the statistics of the
    latter stay fixed.

    Example:

    ```python
    import keras, finetune_keras as ft

    mobilenet = keras.applications.MobileNet(alpha=0.25, weights=None)
    ft.add_adapters(mobilenet, ft.NormTuning())
    ```

    Reference:
        - [Frankle et al., 2020](https://arxiv.org/abs/2003.00152)
        - [Zhao et al., 2023](https://arxiv.org/abs/2312.11420)
    """

    def supports(self, layer):
        both = (getattr(layer, "gamma", None), getattr(layer, "beta", None))
        return _is_norm(layer) and any(v is not None for v in both)

    def layer_for(self, layer, name):
        return _NormChange(layer, self, name)


def _is_norm(layer):
    if isinstance(layer, keras.layers.LayerNormalization):
        return not getattr(layer, "rms_scaling", False)
    return isinstance(layer, keras.layers.BatchNormalization)


class _Shift(AdapterLayer):
    """A shift beside the bias of a layer with a kernel."""

    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        self.shift = Factor(name="shift", dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        self.shift.build(self._bias().shape)

    def change(self, inputs, outputs):
        base, shift = self._base(), self.shift.kernel
        if getattr(base, "data_format", None) == "channels_first":
            shift = ops.reshape(shift, (-1,) + (1,) * base.rank)
        return shift + ops.zeros_like(outputs)

    def weight_changes(self):
        return [(self._bias(), self.shift.kernel)]

    def _bias(self):
        return self._base().bias


class _NormShift(_Shift):
    """A shift beside the bias of a normalisation."""

    def change(self, inputs, outputs):
        return _spread(self._base(), self.shift.kernel, outputs)

    def _bias(self):
        return self._base().beta


class _NormChange(AdapterLayer):
    """Changes of scale and shift of a normalisation, statistics fixed."""

    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        both = ("gamma", "beta")
        self.parts = [x for x in both if getattr(base, x, None) is not None]
        for part in self.parts:
            factor = Factor(name=f"{part}_change", dtype=self.dtype_policy)
            setattr(self, f"{part}_change", factor)

    def build(self, input_shape):
        super().build(input_shape)
        for part in self.parts:
            factor = getattr(self, f"{part}_change")
            factor.build(getattr(self._base(), part).shape)

    def change(self, inputs, outputs):
        base, change = self._base(), 0.0
        if "gamma" in self.parts:
            scale = _spread(base, self.gamma_change.kernel, outputs)
            change = change + scale * _normalise(base, inputs)
        if "beta" in self.parts:
            change = change + _spread(base, self.beta_change.kernel, outputs)
        return change

    def weight_changes(self):
        base = self._base()
        return [
            (getattr(base, part), getattr(self, f"{part}_change").kernel)
            for part in self.parts
        ]


def _axes(layer, rank):
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return [axis % rank for axis in axes]


def _spread(layer, values, outputs):
    """Lays a value for each feature out along the axes of a tensor."""
    rank = len(outputs.shape)
    axes = _axes(layer, rank)
    shape = [outputs.shape[i] if i in axes else 1 for i in range(rank)]
    return ops.reshape(values, shape)


def _normalise(layer, inputs):
    """What a normalisation makes before its scale and shift."""
    x = ops.cast(inputs, "float32")
    if isinstance(layer, keras.layers.BatchNormalization):
        mean = _spread(layer, layer.moving_mean, x)
        variance = _spread(layer, layer.moving_variance, x)
    else:
        axes = _axes(layer, len(x.shape))
        mean = ops.mean(x, axes, keepdims=True)
        variance = ops.var(x, axes, keepdims=True)
    scaled = (x - mean) / ops.sqrt(variance + layer.epsilon)
    return ops.cast(scaled, inputs.dtype)
