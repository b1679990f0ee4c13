"""Trained vectors in front of the tokens: prompt tuning and P-tuning."""

import keras
from keras import ops

from finetune_keras.adapters.layer import AdapterLayer, Factor
from finetune_keras.adapters.method import Method
from finetune_keras.arguments import check, integer
from finetune_keras.engine import graph
from finetune_keras.models.adapters_by_path import bases


@keras.saving.register_keras_serializable(package="finetune_keras")
class PromptTuning(Method):
    """Prompt tuning, for `add_adapters`: trained vectors before the tokens.

    For functional encoders whose attention is `MultiHeadAttention`, such as
    KerasHub's `BertBackbone`. Between the last layer before the first
    attention and the first layer after the last one, the sequence is longer
    by `length`; masks grow with it. Beyond, the tokens are alone again, so
    that the pooled token and the mask of a mean stay what they were. The
    vectors come behind the embeddings and their normalisation, have no
    positions, and start uniform within 0.5.

    There is no identity at the start: untrained vectors change the outputs.
    Several at once stand one behind the other. It cannot be merged.

    Args:
        length: Integer, number of vectors. Defaults to `20`.

    Raises:
        ValueError: If an argument is out of range, or, in `add_adapters`, if
            the model has no place for them.

    Example:

    ```python
    import keras, finetune_keras as ft

    ids = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(30, 8, name="embedding")(ids)
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = keras.layers.LayerNormalization(name="norm")(x + y)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(ids, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.PromptTuning(length=5))
    print([v.path for v in model.trainable_variables])
    ```

    Reference:
        - [Lester et al., 2021](https://arxiv.org/abs/2104.08691)
    """

    goes_into_attention = True

    def __init__(self, length=20):
        check(length=(length, integer(1)))
        self.length = int(length)

    def supports(self, layer):
        return isinstance(layer, keras.layers.MultiHeadAttention)

    def find_layers(self, model):
        """Finds where the sequence grows, each attention, and its end."""
        if graph.graph_of(model) is None:
            raise ValueError(
                f"{type(self).__name__} needs the graph of a functional "
                "model. `PrefixTuning` does without. "
                f"Received: model={model.name!r}"
            )
        steps, _, outputs = graph.walk(model)
        inside = [step for step in steps if _attentions(step.operation)]
        if not inside:
            raise ValueError(
                f"{type(self).__name__} is for transformers, and the model "
                "has no `keras.layers.MultiHeadAttention`. `LoRA` goes into "
                f"all kinds of models. Received: model={model.name!r}"
            )
        first, last = self._ends(model, steps, outputs, inside)
        inner = [x for step in inside for x in _attentions(step.operation)]
        paths = bases(model)
        return {layer: paths[layer] for layer in [first, *inner, last]}

    def _ends(self, model, steps, outputs, inside):
        # Masks, which are no floats, may pass by.
        cuts = graph.cut_points(
            steps, outputs, lambda tensor: "float" not in tensor.dtype
        )
        # At a cut a mask may be made, beside what goes on.
        made_by = {
            id(x): step.operation for step in steps for x in step.tensors
        }
        cuts = {
            i: made_by[id(tensor)]
            for i, tensor in cuts.items()
            if len(tensor.shape) == 3
        }
        first, last = steps.index(inside[0]), steps.index(inside[-1])
        before = [maker for i, maker in cuts.items() if i < first][-1:]
        after = [maker for i, maker in cuts.items() if i >= last]
        # A residual sum may be no layer; what follows it will do.
        after = [x for x in after if not _is_passed(x)][:1]
        used = [step.operation for step in steps]
        ends = [
            x
            for x in before + after
            if isinstance(x, keras.layers.Layer)
            and not self.supports(x)
            and used.count(x) == 1
        ]
        if len(ends) < 2:
            raise ValueError(
                f"{type(self).__name__} needs a layer before the first "
                "attention and one after the last whose outputs of shape "
                "(batch, length, features) are all that goes on from there, "
                "such as a `Dropout` behind the embeddings and the "
                "`LayerNormalization` of the last block; each used once. "
                "`PrefixTuning` does without. "
                f"Received: model={model.name!r}, where there is "
                f"{[x.name for x in ends]}"
            )
        return ends

    def layers_for(self, layers, name):
        first, last = (x for x in layers if not self.supports(x))
        kinds = {first: self.prompt_class, last: _TakeOut}
        return [kinds.get(x, _Shown)(x, self, name) for x in layers]

    @property
    def prompt_class(self):
        return _Prompt


@keras.saving.register_keras_serializable(package="finetune_keras")
class PTuning(PromptTuning):
    """P-tuning, for `add_adapters`: a prompt that a small network makes.

    As `PromptTuning`, but the vectors are what a two-way LSTM and two dense
    layers make of trained ones, which ties them to each other.

    Args:
        length: Integer, number of vectors. Defaults to `20`.
        encoder_units: Integer, width of the LSTM in each direction, and of
            the dense layer. Defaults to `128`.

    Raises:
        ValueError: If an argument is out of range, or, in `add_adapters`, if
            the model has no place for them.

    Example:

    ```python
    import keras, finetune_keras as ft

    ids = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(30, 8, name="embedding")(ids)
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = keras.layers.LayerNormalization(name="norm")(x + y)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(ids, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.PTuning(length=5, encoder_units=4))
    ```

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385)
    """

    def __init__(self, length=20, encoder_units=128):
        super().__init__(length)
        check(encoder_units=(encoder_units, integer(1)))
        self.encoder_units = int(encoder_units)

    @property
    def prompt_class(self):
        return _EncodedPrompt


class _Prompt(AdapterLayer):
    """Puts the prompt in front of what its base gives."""

    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        self.features = base.output.shape[-1]
        self.prompt = Factor(name="prompt", dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        uniform = keras.initializers.RandomUniform(-0.5, 0.5)
        self.prompt.build((self.method.length, self.features), uniform)

    def vectors(self):
        return self.prompt.kernel

    def call(self, outputs):
        prompt = ops.cast(self.switched(self.vectors()), outputs.dtype)
        prompt = prompt[None] + ops.zeros_like(outputs[:, :1])
        return ops.concatenate([prompt, outputs], axis=1)

    def change_sequence(self, outputs, mask):
        if mask is not None:
            seen = ops.ones_like(mask[:, :1])
            seen = ops.repeat(seen, self.method.length, axis=1)
            mask = ops.concatenate([seen, mask], axis=1)
        return self(outputs), mask


class _EncodedPrompt(_Prompt):
    """Makes the prompt by an LSTM and two dense layers."""

    def __init__(self, base, method, name):
        super().__init__(base, method, name)
        units, dtype = method.encoder_units, self.dtype_policy
        lstm = keras.layers.LSTM(
            units, return_sequences=True, name="lstm", dtype=dtype
        )
        self.lstm = keras.layers.Bidirectional(lstm, name="both", dtype=dtype)
        self.dense = keras.layers.Dense(
            units, "relu", name="dense", dtype=dtype
        )
        self.out = keras.layers.Dense(self.features, name="out", dtype=dtype)

    def build(self, input_shape):
        super().build(input_shape)
        units = self.method.encoder_units
        self.lstm.build((1, self.method.length, self.features))
        self.dense.build((None, 2 * units))
        self.out.build((None, units))

    def vectors(self):
        prompt = ops.cast(self.prompt.kernel, self.compute_dtype)
        return self.out(self.dense(self.lstm(prompt[None])))[0]


class _Shown(AdapterLayer):
    """Lets an attention layer see the prompt while it is on."""

    @property
    def prompt_length(self):
        return self.method.length


class _TakeOut(AdapterLayer):
    """Takes the prompt away from what its base gives."""

    def change_sequence(self, outputs, mask):
        length = self.method.length
        if mask is not None:
            mask = mask[:, length:]
        return outputs[:, length:], mask


def _attentions(operation):
    inner = [operation]
    if isinstance(operation, keras.layers.Layer):
        inner += bases(operation)
    return [x for x in inner if isinstance(x, keras.layers.MultiHeadAttention)]


def _is_passed(operation):
    if isinstance(operation, keras.layers.Layer):
        return isinstance(operation, keras.layers.MultiHeadAttention)
    return type(operation).__name__ == "Add"
