"""The last layer of an ensemble: predictions averaged, as plain numbers."""

import keras

from finetune_keras.results.temperature import logits_of


@keras.saving.register_keras_serializable(package="finetune_keras")
class WeightedAverage(keras.layers.Layer):
    """Averages predictions of one kind, each with a weight of its own.

    `factors` are floats, one a prediction; `activation` is what they end in,
    `"softmax"`, `"sigmoid"` or `"linear"`. With `of_logits` the logits behind
    probabilities are added up, and made probabilities again. `facts` are plain
    data: how the weights were chosen.
    """

    def __init__(
        self, factors, activation, of_logits=False, facts=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.factors = list(factors)
        self.activation = activation
        self.of_logits = of_logits
        self.facts = facts or {}

    def call(self, inputs):
        parts = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if self.of_logits:
            parts = [logits_of(x, self.activation, keras.ops) for x in parts]
        total = sum(w * x for w, x in zip(self.factors, parts, strict=True))
        if not self.of_logits:
            return total
        return keras.activations.get(self.activation)(total)

    def compute_output_shape(self, input_shape):
        several = isinstance(input_shape[0], (list, tuple))
        return input_shape[0] if several else input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "factors": self.factors,
            "activation": self.activation,
            "of_logits": self.of_logits,
            "facts": self.facts,
        }
