"""What LoRA and its relatives have in common: two thin factors a kernel."""

import re

import keras
import numpy as np

from finetune_keras.adapters.lora_layers import EmbeddingLoRA, lora_class
from finetune_keras.adapters.method import Method
from finetune_keras.adapters.targets import attention_or_pointwise
from finetune_keras.models.adapters_by_path import layers_at


class LowRank(Method):
    """Two thin factors beside each kernel.

    A subclass says which weights there are (`parts`), how they start
    (`build_factors`) and what they make (`factors`).
    """

    variant, dropout = "lora", 0.0
    # Whether it needs the values of kernels, which quantised ones have not.
    reads_kernels = False

    def supports(self, layer):
        """Tells whether a layer can have this adapter."""
        kind = lora_class(layer)
        if self.variant == "dora" and kind is EmbeddingLoRA:
            return False
        two_tables = not getattr(layer, "tie_weights", True)
        capped = getattr(layer, "logit_soft_cap", None) is not None
        whole = layer.dtype_policy.quantization_mode is None
        by_kernel = self.reads_kernels or kind is EmbeddingLoRA
        return (
            kind is not None
            and not two_tables
            and not capped
            and (whole or not by_kernel)
        )

    def default_layers(self, leaves):
        """Picks the layers that get it where none are named."""
        if isinstance(self.rank, dict):
            return [x for x, path in leaves.items() if self.rank_at(path)]
        return attention_or_pointwise(leaves)

    def layer_for(self, layer, name, rank=None):
        """Makes the adapter of a layer, see `AdapterLayer`."""
        return lora_class(layer)(layer, self, name, rank or self.rank)

    def make(self, model, paths, name):
        ranks = [self.rank_at(path) for path in paths]
        if None in ranks:
            raise ValueError(
                "`rank` tells no rank of the layer "
                f"{paths[ranks.index(None)]!r}. Add it, or a pattern such as "
                f'".*": 8. Received: rank={self.rank!r}'
            )
        layers = layers_at(model, paths)
        return [
            self.layer_for(layer, f"adapter_{name}", rank)
            for layer, rank in zip(layers, ranks, strict=True)
        ]

    def rank_at(self, path):
        """The rank of the layer at a path, `None` if nothing tells it."""
        if not isinstance(self.rank, dict):
            return self.rank
        name = path.rsplit("/", 1)[-1]
        for one, rank in self.rank.items():
            if one in (path, name) or re.fullmatch(one, path):
                return rank
        return None

    def renamed(self, paths):
        same = all(old == new for old, new in paths.items())
        if same or not isinstance(self.rank, dict):
            return self
        ranks = {new: self.rank_at(old) for old, new in paths.items()}
        return type(self)(**{**self.get_config(), "rank": ranks})

    def scale_of(self, rank):
        """Float, the factor on the product of A and B."""
        return 1.0

    def build_factors(self, adapter, shape_a, shape_b, fan_in):
        """Makes the weights of the `LoRALayer` of a kernel."""
        raise NotImplementedError

    def factors(self, adapter):
        """The two factors that a `LoRALayer` computes with."""
        raise NotImplementedError


def factors_of(matrix, rank):
    """The two factors that come nearest to a matrix, or to each of several.

    Where the matrix is smaller than the rank, so are the factors.
    """
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s[..., :rank])
    a = u[..., :rank] * root[..., None, :]
    return a, root[..., None] * v[..., :rank, :]


def fill_factors(adapter, a, b):
    """Gives a `LoRALayer` factors; what they leave of the rank adds nothing."""
    shape_a, shape_b, _ = adapter.factor_shapes(adapter.rank)
    more = adapter.rank - a.shape[-1]
    # One of the two random, or neither would ever move.
    rest = np.array(keras.ops.convert_to_numpy(adapter.lora_a.kernel))
    rest = rest.reshape(*a.shape[:-1], -1)[..., adapter.rank - more :]
    zeros = np.zeros((*b.shape[:-2], more, b.shape[-1]), b.dtype)
    a, b = np.concatenate([a, rest], -1), np.concatenate([b, zeros], -2)
    adapter.lora_a.kernel.assign(a.reshape(shape_a))
    adapter.lora_b.kernel.assign(b.reshape(shape_b))
