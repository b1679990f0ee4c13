"""VeRA: fixed random factors for all layers, scaled by trained vectors."""

import math

import keras
import numpy as np
from keras import ops

from finetune_keras.adapters.lora_layers import EmbeddingLoRA, lora_class
from finetune_keras.adapters.low_rank import LowRank
from finetune_keras.arguments import check, integer, part


@keras.saving.register_keras_serializable(package="finetune_keras")
class VeRA(LowRank):
    """Vector-based random matrix adaptation, for `add_adapters`.

    It changes kernels as `LoRA` does, by a product of two thin factors. These
    are random, fixed and shared by all layers, and drawn anew from the seed
    wherever the model is loaded, so that no file holds them. A vector between
    them, one number a rank, and a vector behind them, one number an output,
    train: a tenth of the weights of LoRA and less. The last starts at zero,
    so that nothing changes at the start. It goes where LoRA goes but into
    `Embedding`, and wants about ten times the learning rate.

    Args:
        rank: Integer, the width of the factors; it costs little, so that it
            may be large. Defaults to `256`.
        dropout: Float in [0, 1), share of the inputs dropped in training.
            Defaults to `0.0`.
        seed: Integer of at least 0, of the random factors. Defaults to `0`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.VeRA(rank=16))
    print([v.shape for v in model.trainable_variables])
    ```

    Reference:
        - [Kopiczko et al., 2023](https://arxiv.org/abs/2310.11454)
    """

    parts = ("vera_d", "vera_b")

    def __init__(self, rank=256, dropout=0.0, seed=0):
        check(
            rank=(rank, integer(1)),
            dropout=(dropout, part, "the share of inputs dropped"),
            seed=(seed, integer(0)),
        )
        self.rank = int(rank)
        self.dropout = dropout
        self.seed = int(seed)
        # One tensor for all layers of a size.
        self._drawn = {}

    def supports(self, layer):
        """Tells whether a layer can have this adapter."""
        return super().supports(layer) and lora_class(layer) != EmbeddingLoRA

    def build_factors(self, adapter, shape_a, shape_b, fan_in):
        behind = list(shape_b)
        behind[adapter.rank_axis] = 1
        adapter.vera_d.build((self.rank,), keras.initializers.Constant(0.1))
        adapter.vera_b.build(behind)
        a = self._random(0, math.prod(shape_a[:-1])) * math.sqrt(6 / fan_in)
        self._keep(("a", *shape_a, fan_in), a.reshape(shape_a))
        b = self._random(1, math.prod(behind)) * math.sqrt(6 / self.rank)
        both = behind[: adapter.rank_axis]
        b = b.reshape(*both, -1, self.rank).swapaxes(-1, -2)
        self._keep(("b", *shape_b), b.reshape(shape_b))

    def factors(self, adapter):
        shape_a, shape_b, fan_in = adapter.factor_shapes(self.rank)
        down, up = adapter.vera_d.kernel, adapter.vera_b.kernel
        a = self._drawn[("a", *shape_a, fan_in)]
        b = self._drawn[("b", *shape_b)]
        return ops.cast(a, down.dtype) * down, ops.cast(b, up.dtype) * up

    def _random(self, which, rows):
        """Rows of a random factor; fewer are the first of more."""
        rng = np.random.default_rng([self.seed, which])
        return rng.uniform(-1, 1, (rows, self.rank)).astype("float32")

    def _keep(self, key, array):
        if key not in self._drawn:
            self._drawn[key] = ops.convert_to_tensor(array, "float32")
