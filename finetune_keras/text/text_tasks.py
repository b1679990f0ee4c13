"""Whole models for texts and pairs of texts: classes and values."""

from finetune_keras.data.labels import count_classes
from finetune_keras.models.depths import split_depths
from finetune_keras.models.heads import build_head
from finetune_keras.models.model import text_model
from finetune_keras.models.pooling import padding_mask
from finetune_keras.models.text_encoder import TextEncoder
from finetune_keras.text.choice_encoder import ChoiceEncoder
from finetune_keras.text.text_backbones import base_of, sequence_of


def text_classifier(
    backbone,
    classes,
    sequence_length=None,
    tokenizer=None,
    task="classification",
    dropout=0.0,
    pooling="token",
    hidden_units=None,
    activation=None,
    batch_norm=False,
    kernel_regularizer=None,
    features=None,
):
    """Builds a model that sorts raw texts, or pairs of them, into classes.

    Args:
        backbone: What `text_backbone` returns or takes.
        classes: List of the names of the classes or labels, which may then
            stand in the data too; or an integer, how many there are.
        sequence_length: Integer, the most tokens of one input. Defaults to
            `None`, that of the backbone.
        tokenizer: See `text_backbone`. Defaults to `None`.
        task: `"classification"`, or `"multi_label"` where a text can have
            several labels, given as columns of 0 and 1. Defaults to
            `"classification"`.
        dropout: Float in [0, 1), before each dense layer of the head. What is
            solved, as most plans solve a head first, is spoilt by it as soon
            as it trains on. Defaults to `0.0`.
        pooling: See `replace_head`. By default the head reads the first token,
            behind the pooler of the backbone, or behind a new one where the
            backbone has none. Defaults to `"token"`.
        hidden_units: See `replace_head`. Defaults to `None`: a new pooler
            where one is needed, or none.
        activation: See `replace_head`. Defaults to `None`: `"tanh"` behind a
            first token that is not pooled, else `"relu"`.
        batch_norm: See `replace_head`. Defaults to `False`.
        kernel_regularizer: See `replace_head`. Defaults to `None`.
        features: See `replace_head`: `"blocks"`, a list of names of groups or
            an integer, the first token and the mean of the outputs of several
            layers, with no new pooler. Defaults to `None`.

    Returns:
        A `FineTuneModel`, all of it trainable, that maps raw texts to
        probabilities.

    Raises:
        ValueError: If backbone, tokeniser or an option do not fit.

    Example:

    ```python
    import keras_hub, numpy as np
    import finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    backbone = ft.text_backbone(
        bert, keras_hub.tokenizers.BertTokenizer(words), sequence_length=16
    )
    model = ft.text_classifier(backbone, ["neg", "pos"])
    train = ["good", "bad bad"] * 8, ["pos", "neg"] * 8
    ft.fine_tune(model, ft.plans.full(epochs=1), train, train, verbose=0)
    print(model.predict(["bad", "good good"], verbose=0).shape)
    ```
    """
    base, options = base_of(backbone, sequence_length, tokenizer)
    num_classes, names = count_classes(classes)
    below = base.output
    pooled = isinstance(below, dict) and "pooled_output" in below
    new_pooler = pooling == "token" and not pooled and features is None
    if hidden_units is None:
        hidden_units = (sequence_of(base).shape[-1],) if new_pooler else ()
    if features is not None:
        base, below = split_depths(base, features)
    outputs = build_head(
        below,
        num_classes,
        padding_mask(base),
        pooling,
        hidden_units,
        activation or ("tanh" if new_pooler else "relu"),
        dropout,
        batch_norm,
        kernel_regularizer,
        task,
    )
    encoder = TextEncoder(**options, classes=names)
    return text_model(base.input, outputs, encoder, base.name)


def multiple_choice(
    backbone, sequence_length=None, tokenizer=None, dropout=0.1
):
    """Builds a model that chooses among several texts, such as answers.

    Each choice is read together with its question, and gets a score; the
    softmax of the scores of a question are its probabilities. A context stands
    before the question, in the same string.

    Args:
        backbone: What `text_backbone` returns or takes.
        sequence_length: Integer, the most tokens of a question with one
            choice. Defaults to `None`, that of the backbone.
        tokenizer: See `text_backbone`. Defaults to `None`.
        dropout: Float in [0, 1), before each dense layer of the head. Defaults
            to `0.1`.

    Returns:
        A `FineTuneModel`. It takes `(questions, choices)`, a list of strings
        and a list of lists of as many strings for each, and as labels the
        places of the right choices, or their texts. A batch of `batch_size`
        questions has all of their choices. `predict` returns a dict for each
        question: `choice`, its place, `text`, `score`, its probability, and
        `probabilities` of all.

    Raises:
        ValueError: If backbone, tokeniser or an option do not fit.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "ann", "ran"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    model = ft.multiple_choice(
        bert, sequence_length=16,
        tokenizer=keras_hub.tokenizers.BertTokenizer(words),
    )
    x = ["who ran", "ann ran"] * 4, [["ann", "ran ran"], ["who", "ann"]] * 4
    ft.fine_tune(model, ft.plans.full(epochs=1), (x, [0, 1] * 4), verbose=0)
    print(model.predict(x, verbose=0)[0]["text"])
    print(ft.evaluate(model, (x, [0, 1] * 4), verbose=0).metrics["accuracy"])
    ```

    Reference:

    - [Zellers et al., 2018](https://arxiv.org/abs/1808.05326)
    """
    model = text_regressor(backbone, 1, sequence_length, tokenizer, dropout)
    encoder = model.encoder
    model.encoder = ChoiceEncoder(encoder.tokenizer, encoder.sequence_length)
    return model


def text_regressor(
    backbone,
    num_outputs=1,
    sequence_length=None,
    tokenizer=None,
    dropout=0.0,
    pooling="token",
    hidden_units=None,
    activation=None,
    batch_norm=False,
    kernel_regularizer=None,
    features=None,
):
    """Builds a model that gives a number for each raw text, or for each pair.

    Args:
        backbone: What `text_backbone` returns or takes.
        num_outputs: Integer, how many numbers. Defaults to `1`.
        sequence_length, tokenizer, dropout, pooling, hidden_units: As in
            `text_classifier`.
        activation, batch_norm, kernel_regularizer, features: As in
            `text_classifier`.

    Returns:
        A `FineTuneModel`.

    Raises:
        ValueError: If backbone, tokeniser or an option do not fit.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    scorer = ft.text_regressor(
        bert, tokenizer=keras_hub.tokenizers.BertTokenizer(words),
        sequence_length=16,
    )
    print(scorer.predict((["good"], ["good bad"]), verbose=0).shape)  # (1, 1)
    ```
    """
    return text_classifier(
        backbone,
        num_outputs,
        sequence_length,
        tokenizer,
        "regression",
        dropout,
        pooling,
        hidden_units,
        activation,
        batch_norm,
        kernel_regularizer,
        features,
    )
