"""Preferences between two answers: direct preference optimisation (DPO)."""

import keras
import numpy as np
from keras import ops

from finetune_keras.adapters.adapter import adapters_of, disable_adapters
from finetune_keras.arguments import check, check_model, integer, positive
from finetune_keras.text.prompt_tokens import token_rows
from finetune_keras.text.prompts import prompts as gathered


def preference_model(model, beta=0.1):
    """Makes the model that learns which of two answers is preferred.

    It computes with the layers of a language model, and is trained as any
    model is, by `fine_tune` or `fit`: the language model learns with it. Its
    inputs are pairs of answers to a prompt, chosen and rejected, as
    `preferences` makes them; its outputs, of shape `(batch, 2)`, are the
    logarithms of how likely the language model is to write each. It is
    compiled with the loss of DPO, which raises the first against the second,
    beyond what the model without adapters says of both: no second model is
    needed. The metric `margin` is by how much.

    Only adapters should train. Where other weights train too, what the base
    said is no more what it says.

    Args:
        model: A `CausalLM` of KerasHub with adapters.
        beta: Float, how strongly it is held to the base; lower lets it go
            further. Defaults to `0.1`.

    Returns:
        A functional `keras.Model`, compiled.

    Raises:
        ValueError: If the model is of another kind or has no adapters.

    Example:

    ```python
    import keras, keras_hub, finetune_keras as ft

    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(
        {c: i for i, c in enumerate(["<|endoftext|>", *"abcdeĠ", "ab"])},
        ["a b"],
    )
    lm = keras_hub.models.GPT2CausalLM(
        keras_hub.models.GPT2Backbone(8, 1, 2, 8, 16, max_sequence_length=16),
        keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, 16),
    )
    ft.add_adapters(lm, ft.LoRA(rank=2))
    trainer = ft.preference_model(lm)
    train = ft.preferences(lm, ["ab", "ba"], ["cc", "cd"], ["dd", "de"])
    plan = ft.Plan([ft.Phase("adapter_default", epochs=1, learning_rate=1e-3)])
    history = ft.fine_tune(trainer, plan, train, verbose=0)
    ```

    Reference:
        - [Rafailov et al., 2023](https://arxiv.org/abs/2305.18290)
    """
    check(beta=(beta, positive))
    _check_writes(model)
    adapters_of(model)
    names = ("token_ids", "padding_mask", "answer_mask")
    x = {
        name: keras.Input((2, None), dtype="int32", name=name) for name in names
    }
    rows = {name: _Rows(name=f"{name}_rows")(x[name]) for name in names[:2]}
    outputs = _AnswerScores(name="answer_scores")(
        model(rows), x["token_ids"], x["answer_mask"]
    )
    trainer = keras.Model(x, outputs, name=f"{model.name}_preferences")
    trainer.compile("adam", PreferenceLoss(beta), metrics=[margin])
    return trainer


def preferences(
    model,
    prompts,
    chosen,
    rejected,
    separator=" ",
    sequence_length=None,
    batch_size=32,
):
    """Makes the data of a `preference_model`: ordinary arrays `(x, y)`.

    They are tokenised as `generate` reads them, the end token behind each
    answer. `y` is what the model with its adapters switched off says of both
    answers, computed here, once.

    Args:
        model: The language model, a `CausalLM` of KerasHub with adapters and a
            preprocessor.
        prompts: List of strings.
        chosen: List of strings, as many: the better answers.
        rejected: List of strings, as many: the worse answers.
        separator: String between a prompt and its answer. Defaults to `" "`.
        sequence_length: Integer, the most tokens of both. Defaults to `None`,
            that of the preprocessor.
        batch_size: Integer, pairs computed at once. Defaults to `32`.

    Returns:
        Tuple `(x, y)`: a dict of integer arrays of shape `(pairs, 2, length)`,
        and a float array of shape `(pairs, 2)`.

    Raises:
        ValueError: If the lists do not fit, or a text is too long.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(
        {c: i for i, c in enumerate(["<|endoftext|>", *"abcdeĠ", "ab"])},
        ["a b"],
    )
    lm = keras_hub.models.GPT2CausalLM(
        keras_hub.models.GPT2Backbone(8, 1, 2, 8, 16, max_sequence_length=16),
        keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, 16),
    )
    ft.add_adapters(lm, ft.LoRA(rank=2))
    x, y = ft.preferences(lm, ["ab", "ba"], ["cc", "cd"], ["dd", "de"])
    print(x["token_ids"].shape, y.shape)
    ```
    """
    check(batch_size=(batch_size, integer(1)))
    _check_writes(model)
    if not len(prompts) == len(chosen) == len(rejected):
        raise ValueError(
            "Each prompt needs one chosen and one rejected answer, in the same "
            f"order. Received: {len(prompts)} prompts, {len(chosen)} chosen "
            f"and {len(rejected)} rejected"
        )
    sides = [
        gathered(prompts, answers, separator=separator)
        for answers in (chosen, rejected)
    ]
    length = sequence_length or model.preprocessor.sequence_length
    x = _arrays(model.preprocessor, length, sides)
    scorer = preference_model(model)
    with disable_adapters(model):
        return x, scorer.predict(x, batch_size=batch_size, verbose=0)


@keras.saving.register_keras_serializable(package="finetune_keras")
class PreferenceLoss(keras.losses.Loss):
    """The loss of DPO, on scores of the base and of the model."""

    def __init__(self, beta=0.1, name="dpo", **kwargs):
        super().__init__(name=name, **kwargs)
        self.beta = beta

    def call(self, y_true, y_pred):
        return ops.softplus(-self.beta * margin(y_true, y_pred))

    def get_config(self):
        return {**super().get_config(), "beta": self.beta}


@keras.saving.register_keras_serializable(package="finetune_keras")
def margin(y_true, y_pred):
    """By how much more the chosen answers gain on the base than the others."""
    gains = y_pred - ops.cast(y_true, y_pred.dtype)
    return gains[:, 0] - gains[:, 1]


@keras.saving.register_keras_serializable(package="finetune_keras")
class _Rows(keras.layers.Layer):
    """Pairs of rows, one below the other."""

    def call(self, x):
        return ops.reshape(x, (-1, ops.shape(x)[-1]))

    def compute_output_shape(self, input_shape):
        return (None, input_shape[-1])


@keras.saving.register_keras_serializable(package="finetune_keras")
class _AnswerScores(keras.layers.Layer):
    """Logarithms of the likelihood of answers, from scores of tokens."""

    def call(self, logits, token_ids, answer_mask):
        length = ops.shape(token_ids)[-1]
        ids = ops.reshape(token_ids, (-1, length))[:, 1:]
        logits = ops.cast(logits, "float32")[:, :-1]
        losses = keras.losses.sparse_categorical_crossentropy(
            ids, logits, from_logits=True
        )
        learnt = ops.reshape(answer_mask, (-1, length))[:, 1:]
        scores = -ops.sum(losses * ops.cast(learnt, losses.dtype), axis=-1)
        return ops.reshape(scores, (-1, 2))

    def compute_output_shape(
        self, logits_shape, token_ids_shape, answer_mask_shape
    ):
        return (token_ids_shape[0], 2)


def _check_writes(model):
    check_model(model)
    tokenizer = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
    names = {tensor.name for tensor in getattr(model, "inputs", None) or ()}
    if tokenizer is None or names != {"token_ids", "padding_mask"}:
        raise ValueError(
            "Preferences are for a `CausalLM` of KerasHub with a preprocessor, "
            "which reads `token_ids` and `padding_mask`. Received: "
            f"model={model.name!r} of type {type(model).__name__}"
        )


def _arrays(preprocessor, length, sides):
    """Dict of arrays `(pairs, 2, length)`, padded to the longest."""
    found = [token_rows(preprocessor, side) for side in sides]
    rows = [row for pair in zip(*found, strict=True) for row in pair]
    longest = max(len(ids) for ids, _ in rows)
    if longest > length:
        raise ValueError(
            f"The longest prompt with its answer has {longest} tokens, and "
            f"there is room for {length}: shorten it, or raise "
            f"`sequence_length`. Received: {len(rows) // 2} pairs"
        )
    token_ids, padding, learnt = np.zeros((3, len(rows), longest), "int32")
    for i, (ids, flags) in enumerate(rows):
        token_ids[i, : len(ids)], padding[i, : len(ids)] = ids, 1
        learnt[i, : len(ids)] = flags
    arrays = {
        "token_ids": token_ids,
        "padding_mask": padding,
        "answer_mask": learnt,
    }
    return {k: v.reshape(-1, 2, longest) for k, v in arrays.items()}
