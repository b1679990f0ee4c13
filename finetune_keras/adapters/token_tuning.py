"""The vectors of some tokens alone, beside a table that stays as it is."""

import keras
import numpy as np
from keras import ops

from finetune_keras.adapters.layer import AdapterLayer, Factor
from finetune_keras.adapters.method import Method
from finetune_keras.arguments import Kind, check, is_number


def _are_ids(values):
    if not isinstance(values, (list, tuple, range)) or not len(values):
        return False
    fit = all(is_number(one) and one == int(one) >= 0 for one in values)
    return fit and len(set(values)) == len(values)


@keras.saving.register_keras_serializable(package="finetune_keras")
class TokenTuning(Method):
    """For `add_adapters`: only the vectors of some tokens train.

    It is for tokens that a vocabulary has gained. A change of the vector of
    each, which starts at zero, stands beside the table of an `Embedding`, and
    counts for the scores of the tokens too where the same table makes these,
    as in most language models. All other vectors stay as they are, to the bit.
    By default the embedding with the most tokens gets it.

    Args:
        tokens: List or range of integers, the ids of the tokens, each once.

    Raises:
        ValueError: If `tokens` are no ids.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(100, 8, name="words")(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.TokenTuning(range(98, 100)))
    print([v.shape for v in model.trainable_variables])  # (2, 8), and the head
    ```
    """

    def __init__(self, tokens):
        kind = Kind("a list of integers from 0, each once", _are_ids)
        check(tokens=(tokens, kind, "the ids of what trains"))
        self.tokens = [int(token) for token in tokens]

    def supports(self, layer):
        return (
            isinstance(layer, keras.layers.Embedding)
            and layer.dtype_policy.quantization_mode is None
            and getattr(layer, "tie_weights", True)
            and getattr(layer, "logit_soft_cap", None) is None
            and max(self.tokens) < layer.input_dim
        )

    def default_layers(self, leaves):
        return sorted(leaves, key=lambda layer: -layer.input_dim)[:1]

    def layer_for(self, layer, name):
        return _TokenChange(layer, self, name)


class _TokenChange(AdapterLayer):
    """A change of some rows of a table."""

    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        # Half precision has not the numbers of all tokens.
        self.autocast = False
        self.vectors = Factor(name="vectors", dtype=self.dtype_policy)
        # Of each token its row here, 0 of those that stay.
        self.rows = np.zeros(base.input_dim, "int32")
        self.rows[method.tokens] = 1 + np.arange(len(method.tokens))

    def build(self, input_shape):
        super().build(input_shape)
        units = self._base().output_dim
        self.vectors.build((len(self.method.tokens), units))

    def change(self, inputs, outputs, reverse=False):
        vectors = ops.convert_to_tensor(self.vectors.kernel)
        if reverse:
            scores = ops.matmul(inputs, ops.transpose(vectors))
            none = ops.zeros_like(scores[..., :1])
            scores = ops.concatenate([none, scores], axis=-1)
            return ops.take(scores, self.rows, axis=-1)
        none = ops.zeros_like(vectors[:1])
        vectors = ops.concatenate([none, vectors], axis=0)
        rows = ops.take(self.rows, ops.cast(inputs, "int32"), axis=0)
        return ops.take(vectors, rows, axis=0)

    def weight_changes(self):
        table = self._base().embeddings
        places = np.array(self.method.tokens, "int32")[:, None]
        change = ops.scatter(places, self.vectors.kernel, table.shape)
        return [(table, change)]
