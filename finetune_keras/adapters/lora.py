"""LoRA: a low-rank change beside each frozen kernel."""

import math

import keras

from finetune_keras.adapters.lora_layers import (
    EmbeddingLoRA,
    LoRALayer,
    lora_class,
)
from finetune_keras.adapters.method import Method
from finetune_keras.adapters.targets import attention_or_pointwise
from finetune_keras.arguments import (
    check,
    integer,
    number,
    one_of,
    part,
    positive,
)
from finetune_keras.engine import graph
from finetune_keras.models.adapters_by_path import adapters_in


@keras.saving.register_keras_serializable(package="finetune_keras")
class LoRA(Method):
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
        rank: Integer, the width of the factors. Defaults to `8`.
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
    """

    def __init__(self, rank=8, alpha=16, dropout=0.0, variant="lora"):
        check(
            rank=(rank, integer(1)),
            alpha=(alpha, positive),
            dropout=(dropout, part, "the share of inputs dropped"),
            variant=(variant, one_of("lora", "rslora", "dora")),
        )
        self.rank = int(rank)
        self.alpha = alpha
        self.dropout = dropout
        self.variant = variant

    @property
    def scale(self):
        """Float, the factor on the product of A and B."""
        root = math.sqrt(self.rank) if self.variant == "rslora" else self.rank
        return self.alpha / root

    def supports(self, layer):
        """Tells whether a layer can have this adapter."""
        kind = lora_class(layer)
        if self.variant == "dora" and kind is EmbeddingLoRA:
            return False
        two_tables = not getattr(layer, "tie_weights", True)
        capped = getattr(layer, "logit_soft_cap", None) is not None
        whole = layer.dtype_policy.quantization_mode is None
        by_kernel = self.variant == "dora" or kind is EmbeddingLoRA
        return (
            kind is not None
            and not two_tables
            and not capped
            and (whole or not by_kernel)
        )

    def default_layers(self, leaves):
        """Picks the layers that get it where none are named."""
        return attention_or_pointwise(leaves)

    def layer_for(self, layer, name):
        """Makes the adapter of a layer, see `AdapterLayer`."""
        return lora_class(layer)(layer, self, name)


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
    if not any(isinstance(adapter, LoRALayer) for adapter in adapters):
        raise ValueError(
            "The model has no LoRA. Add it first: `add_adapters(model, "
            f"LoRA())`. Received: model={model.name!r}"
        )
    return {r".*/lora_b": float(ratio)}
