"""LoRA for each type of layer: how two thin factors stand for a kernel."""

import math
import re
import string

import keras
from keras import ops

from finetune_keras.adapters.layer import AdapterLayer, Factor, full_precision
from finetune_keras.engine.layers import causal_padding


class LoRALayer(AdapterLayer):
    """Two factors beside the kernel of a layer.

    A subclass tells, for one type of layer, the shapes of the factors, their
    product, and how the layer applies a kernel.
    """

    # On the factors the switch costs less than on the outputs.
    switches_itself = True
    # Dimensions of the kernel over which DoRA takes the norm.
    input_axes = (0,)
    # Where the rank stands among the dimensions of B; in A it is the last.
    rank_axis = 0

    def __init__(self, base, method, name, rank):
        super().__init__(base, method, name)
        self.rank = rank
        self.scale = method.scale_of(rank)
        for part in method.parts:
            setattr(self, part, Factor(name=part, dtype=self.dtype_policy))
        if method.dropout:
            self.lora_dropout = keras.layers.Dropout(
                method.dropout, name="lora_dropout", dtype=self.dtype_policy
            )

    def build(self, input_shape):
        super().build(input_shape)
        self.method.build_factors(self, *self.factor_shapes(self.rank))
        if self.method.variant == "dora":
            norm = self._norm(ops.cast(self._base().kernel, "float32"))
            self.magnitude.build(norm.shape)
            self.magnitude.kernel.assign(norm)

    def change(self, inputs, outputs):
        if self.method.dropout:
            inputs = self.lora_dropout(inputs)
        if self.method.variant == "dora":
            with full_precision():
                # Rounding would be all that is left of two near kernels.
                change = self.switched(self.kernel_change())
            return self.linear(inputs, ops.cast(change, self.compute_dtype))
        a, b = self.method.factors(self)
        a = ops.convert_to_tensor(a)
        a = ops.where(self.switch == 0, ops.zeros_like(a), a)
        return self.low_rank(inputs, a, self.switched(b) * self.scale)

    def weight_changes(self):
        return [(self.kernel_of_base(), self.kernel_change())]

    def kernel_of_base(self):
        """The weight that the factors stand beside."""
        return self._base().kernel

    def kernel_change(self):
        """What the adapter adds to the kernel of its base."""
        change = self.product(*self.method.factors(self)) * self.scale
        if self.method.variant != "dora":
            return change
        kernel = ops.cast(self._base().kernel, change.dtype)
        # The paper holds the norm fixed in the backward pass (section 4.3).
        norm = ops.stop_gradient(self._norm(kernel + change))
        ratio = self.magnitude.kernel / ops.maximum(norm, 1e-6)
        return ratio * (kernel + change) - kernel

    def matrix(self, kernel):
        """An array like the kernel as the matrix that the factors make."""
        shape_a, _, _ = self.factor_shapes(1)
        return kernel.reshape(math.prod(shape_a), -1)

    def _norm(self, kernel):
        squares = ops.sum(ops.square(kernel), self.input_axes, keepdims=True)
        return ops.sqrt(squares)

    def initializers(self, fan_in):
        """How A and B start."""
        # Kaiming with a = sqrt(5), as in the code of the paper's authors.
        limit = 1 / math.sqrt(fan_in)
        return keras.initializers.RandomUniform(-limit, limit), "zeros"

    def factor_shapes(self, rank):
        """Shapes of A and B, and how many inputs A sums up."""
        raise NotImplementedError

    def product(self, a, b):
        """The change of the kernel that the two factors stand for."""
        return ops.matmul(a, b)

    def linear(self, inputs, kernel):
        """What the layer makes of its inputs with another kernel."""
        raise NotImplementedError

    def low_rank(self, inputs, a, b):
        """The same with the product of two factors for a kernel."""
        return self.linear(inputs, self.product(a, b))


class DenseLoRA(LoRALayer):
    """LoRA for `keras.layers.Dense`."""

    def factor_shapes(self, rank):
        inputs, units = self._base().kernel.shape
        return (inputs, rank), (rank, units), inputs

    def linear(self, inputs, kernel):
        return ops.matmul(inputs, kernel)

    def low_rank(self, inputs, a, b):
        return ops.matmul(ops.matmul(inputs, a), b)


class EinsumDenseLoRA(LoRALayer):
    """LoRA for `keras.layers.EinsumDense`, so for attention's projections.

    The kernel is taken for a matrix, from all the dimensions that the equation
    sums over to all that it makes.
    """

    def __init__(self, base, method, name, rank):
        super().__init__(base, method, name, rank)
        self.equation = base.equation
        self.read, self.kernel_labels, self.written = re.split(
            ",|->", base.equation.replace(" ", "")
        )
        kernel = self.kernel_labels
        self.summed = [x for x in kernel if x not in self.written]
        self.made = [x for x in kernel if x not in self.read]
        both = [x for x in kernel if x not in [*self.summed, *self.made]]
        rank = next(x for x in string.ascii_letters if x not in base.equation)
        self.a_labels = "".join([*both, *self.summed, rank])
        self.b_labels = "".join([*both, rank, *self.made])
        left = [x for x in self.read if x not in self.summed]
        self.middle = "".join([*left, rank])
        self.input_axes = tuple(kernel.index(x) for x in self.summed)
        self.rank_axis = len(both)
        order = [*both, *self.summed, *self.made]
        self.order = [kernel.index(x) for x in order]

    def factor_shapes(self, rank):
        sizes = dict(
            zip(self.kernel_labels, self._base().kernel.shape, strict=True)
        )
        shape_a = [sizes.get(label, rank) for label in self.a_labels]
        shape_b = [sizes.get(label, rank) for label in self.b_labels]
        return shape_a, shape_b, math.prod(sizes[x] for x in self.summed)

    def matrix(self, kernel):
        turned = kernel.transpose(self.order)
        both = turned.shape[: self.rank_axis]
        inputs = math.prod(kernel.shape[i] for i in self.input_axes)
        return turned.reshape(*both, inputs, -1)

    def product(self, a, b):
        labels = f"{self.a_labels},{self.b_labels}->{self.kernel_labels}"
        return ops.einsum(labels, a, b)

    def linear(self, inputs, kernel):
        return ops.einsum(self.equation, inputs, kernel)

    def low_rank(self, inputs, a, b):
        down = f"{self.read},{self.a_labels}->{self.middle}"
        up = f"{self.middle},{self.b_labels}->{self.written}"
        return ops.einsum(up, ops.einsum(down, inputs, a), b)


class ConvLoRA(LoRALayer):
    """LoRA for `Conv1D`, `Conv2D` and `Conv3D`, grouped ones too.

    A is a convolution like the layer's own to `rank` channels, B a pointwise
    one. In a grouped convolution all groups share A.
    """

    def __init__(self, base, method, name, rank):
        super().__init__(base, method, name, rank)
        self.input_axes = tuple(range(base.rank + 1))

    def factor_shapes(self, rank):
        *window, channels, filters = self._base().kernel.shape
        fan_in = math.prod(window) * channels
        return (*window, channels, rank), (rank, filters), fan_in

    def linear(self, inputs, kernel):
        base, padding = self._base(), self._base().padding
        if padding == "causal":
            inputs = ops.pad(inputs, causal_padding(base))
            padding = "valid"
        return ops.conv(
            inputs,
            kernel,
            strides=list(base.strides),
            padding=padding,
            dilation_rate=base.dilation_rate,
            data_format=base.data_format,
        )

    def low_rank(self, inputs, a, b):
        base = self._base()
        if base.groups > 1:
            return super().low_rank(inputs, a, b)
        down = self.linear(inputs, a)
        pointwise = ops.reshape(b, (1,) * base.rank + tuple(b.shape))
        return ops.conv(
            down, pointwise, padding="valid", data_format=base.data_format
        )


class DepthwiseConvLoRA(LoRALayer):
    """LoRA for `DepthwiseConv1D` and `DepthwiseConv2D`.

    The kernel is taken for a matrix, from the window to all the channels.
    """

    def __init__(self, base, method, name, rank):
        super().__init__(base, method, name, rank)
        self.input_axes = tuple(range(base.rank))

    def factor_shapes(self, rank):
        *window, channels, multiplier = self._base().kernel.shape
        shape_b = (rank, channels * multiplier)
        return (*window, rank), shape_b, math.prod(window)

    def product(self, a, b):
        return ops.reshape(ops.matmul(a, b), self._base().kernel.shape)

    def linear(self, inputs, kernel):
        base = self._base()
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=base.strides,
            padding=base.padding,
            dilation_rate=base.dilation_rate,
            data_format=base.data_format,
        )


class EmbeddingLoRA(LoRALayer):
    """LoRA for `keras.layers.Embedding`, and reversible ones with one table.

    A has a row for each token and starts at zero, B starts random: as in the
    code of the paper's authors. There is no dropout of tokens.
    """

    def __init__(self, base, method, name, rank):
        super().__init__(base, method, name, rank)
        # Half precision has not the numbers of all tokens.
        self.autocast = False

    def kernel_of_base(self):
        return self._base().embeddings

    def factor_shapes(self, rank):
        tokens, units = self._base().embeddings.shape
        return (tokens, rank), (rank, units), tokens

    def initializers(self, fan_in):
        return "zeros", keras.initializers.RandomNormal(stddev=1.0)

    def change(self, inputs, outputs, reverse=False):
        a, b = self.method.factors(self)
        if reverse:
            down = ops.matmul(inputs, ops.transpose(b))
            change = ops.matmul(down, ops.transpose(a))
        else:
            rows = ops.take(a, ops.cast(inputs, "int32"), axis=0)
            change = ops.matmul(ops.cast(rows, self.compute_dtype), b)
        return self.switched(change * self.scale)


_LAYERS = {
    keras.layers.Dense: DenseLoRA,
    keras.layers.EinsumDense: EinsumDenseLoRA,
    keras.layers.Conv1D: ConvLoRA,
    keras.layers.Conv2D: ConvLoRA,
    keras.layers.Conv3D: ConvLoRA,
    keras.layers.DepthwiseConv1D: DepthwiseConvLoRA,
    keras.layers.DepthwiseConv2D: DepthwiseConvLoRA,
    keras.layers.Embedding: EmbeddingLoRA,
}


def lora_class(layer):
    """Class of the LoRA for a layer, or `None` where there is none."""
    for kind, lora in _LAYERS.items():
        if isinstance(layer, kind):
            return lora
    return None
