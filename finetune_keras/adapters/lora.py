"""LoRA: a low-rank change beside each frozen kernel."""

import math
import numbers
import re

import keras
from keras import ops

from finetune_keras.adapters.low_rank import (
    LowRank,
    factors_of,
    fill_factors,
)
from finetune_keras.arguments import (
    Kind,
    check,
    is_number,
    number,
    one_of,
    part,
    positive,
)
from finetune_keras.engine import graph
from finetune_keras.models.adapters_by_path import adapters_in


def _is_rank(value):
    return is_number(value, numbers.Integral) and value >= 1


def _is_table(value):
    if not isinstance(value, dict) or not value:
        return False
    return all(_is_pattern(k) and _is_rank(v) for k, v in value.items())


def _is_pattern(value):
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


_RANK = Kind(
    "an integer of at least 1, or a dict from layers to such",
    lambda v: _is_rank(v) or _is_table(v),
)


@keras.saving.register_keras_serializable(package="finetune_keras")
class LoRA(LowRank):
    """Low-rank adaptation, for `add_adapters`.

    Beside a frozen kernel W stand two thin factors, and the layer computes
    with `W + scale * A B`. B starts at zero, so that nothing changes at the
    start; A starts uniform, within one over the root of its inputs. It goes
    into `Dense`, `EinsumDense`, `Embedding`, `Conv1D`, `Conv2D`, `Conv3D`
    (grouped ones too), `DepthwiseConv1D` and `DepthwiseConv2D`, also where
    these are parts of Keras's or KerasHub's attention. By default the query
    and value projections of attention get it, and in a model without
    attention the pointwise convolutions and dense layers of the backbone.

    Args:
        rank: Integer, the width of the factors; or a dict from layers to
            such, by name, by path or by a regular expression on the path, of
            which the first that fits holds: `{"query": 8, ".*dense": 4}`. By
            default the layers that it names get the adapter then. Defaults to
            `8`.
        alpha: Float, the strength: `scale` is `alpha / rank`. Defaults to
            `16`.
        dropout: Float in [0, 1), share of the inputs of A dropped in training.
            Defaults to `0.0`.
        variant: One of
            - `"lora"`;
            - `"rslora"`, with `scale = alpha / sqrt(rank)`, for large ranks;
            - `"dora"`, which trains the length of each column of the kernel
              apart from its direction. A step takes longer. Not for
              `Embedding`.

            Defaults to `"lora"`.
        initializer: `"random"`, or `"pissa"`: A and B start as the largest
            singular values of the kernel with their vectors, and what they
            change is counted from there, so that the base stays what it is
            and nothing changes at the start. It learns faster; a step reads
            twice the rank, and making it decomposes each kernel. Not for a
            quantised base. Defaults to `"random"`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.LoRA(rank=2, alpha=4))
    print([v.path for v in model.trainable_variables])
    ```

    Reference:
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685)
        - [Kalajdzievski, 2023](https://arxiv.org/abs/2312.03732) (rsLoRA)
        - [Liu et al., 2024](https://arxiv.org/abs/2402.09353) (DoRA)
        - [Meng et al., 2024](https://arxiv.org/abs/2404.02948) (PiSSA)
    """

    def __init__(
        self,
        rank=8,
        alpha=16,
        dropout=0.0,
        variant="lora",
        initializer="random",
    ):
        check(
            rank=(rank, _RANK),
            alpha=(alpha, positive),
            dropout=(dropout, part, "the share of inputs dropped"),
            variant=(variant, one_of("lora", "rslora", "dora")),
            initializer=(initializer, one_of("random", "pissa")),
        )
        by_layer = isinstance(rank, dict)
        self.rank = dict(rank) if by_layer else int(rank)
        self.alpha = alpha
        self.dropout = dropout
        self.variant = variant
        self.initializer = initializer

    @property
    def parts(self):
        magnitude = ["magnitude"] if self.variant == "dora" else []
        return ["lora_a", "lora_b", *magnitude]

    @property
    def reads_kernels(self):
        return self.variant == "dora" or self.initializer == "pissa"

    def scale_of(self, rank):
        root = math.sqrt(rank) if self.variant == "rslora" else rank
        return self.alpha / root

    def build_factors(self, adapter, shape_a, shape_b, fan_in):
        start_a, start_b = adapter.initializers(fan_in)
        adapter.lora_a.build(shape_a, start_a)
        adapter.lora_b.build(shape_b, start_b)
        if self.initializer == "pissa":
            kernel = ops.convert_to_numpy(adapter.kernel_of_base())
            matrix = adapter.matrix(kernel.astype("float32"))
            found = factors_of(matrix / adapter.scale, adapter.rank)
            fill_factors(adapter, *found)
            for name, factor in (("a", adapter.lora_a), ("b", adapter.lora_b)):
                start = adapter.add_weight(
                    factor.kernel.shape, trainable=False, name=f"start_{name}"
                )
                start.assign(factor.kernel)
                setattr(adapter, f"start_{name}", start)

    def factors(self, adapter):
        a, b = adapter.lora_a.kernel, adapter.lora_b.kernel
        if self.initializer != "pissa":
            return a, b
        a = ops.concatenate([a, adapter.start_a], axis=-1)
        b = ops.concatenate([b, -adapter.start_b], axis=adapter.rank_axis)
        return a, b


def lora_plus_multipliers(model, ratio=16.0):
    """Learning rates of LoRA+: a higher one for B than for A.

    Args:
        model: A `keras.Model` with LoRA.
        ratio: Float of at least 1, how many times the rate of A the rate of B
            is. Defaults to `16.0`.

    Returns:
        Dict for the argument `multipliers` of `layerwise_optimizer`.

    Raises:
        ValueError: If the model has no LoRA, or `ratio` is below 1.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.LoRA(rank=2), target_layers="body")
    optimizer = ft.layerwise_optimizer(
        keras.optimizers.AdamW(1e-4), model,
        multipliers=ft.lora_plus_multipliers(model),
    )
    model.compile(optimizer, "mse")
    ```

    Reference:
        - [Hayou et al., 2024](https://arxiv.org/abs/2402.12354)
    """
    check(ratio=(ratio, number(1)))
    leaves = graph.leaf_layers(model)
    adapters = [a for leaf in leaves for a in adapters_in(leaf)]
    if not any(isinstance(adapter.method, LoRA) for adapter in adapters):
        raise ValueError(
            "The model has no LoRA. Add it first: `add_adapters(model, "
            f"LoRA())`. Received: model={model.name!r}"
        )
    return {r".*/lora_b": float(ratio)}
