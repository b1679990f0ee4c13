"""Whole models for the tokens of texts: tags, answers, masked words."""

import keras

from finetune_keras.engine import graph
from finetune_keras.models.model import text_model
from finetune_keras.text.answer_encoder import AnswerEncoder
from finetune_keras.text.mask_encoder import MaskEncoder
from finetune_keras.text.tag_encoder import TagEncoder
from finetune_keras.text.text_backbones import base_of, sequence_of


def token_classifier(
    backbone, tags, sequence_length=None, tokenizer=None, dropout=0.1
):
    """Builds a model that tags each word of a sentence, such as its entities.

    A sentence is a list of words, or a string of words between blanks. A word
    that the tokeniser splits has its tag on its first part; the other parts
    are neither trained on nor answered.

    Args:
        backbone: What `text_backbone` returns or takes.
        tags: List of strings, such as `["O", "B-person", "I-person"]`.
        sequence_length: See `text_classifier`. Defaults to `None`.
        tokenizer: See `text_backbone`. Defaults to `None`.
        dropout: Float in [0, 1), before the head. Defaults to `0.1`.

    Returns:
        A `FineTuneModel`. It takes sentences and, as labels, lists of tags;
        `predict` returns a list of tags for each sentence. Words beyond
        `sequence_length` tokens get the tag `"O"`, or else the first one.

    Raises:
        ValueError: If backbone, tokeniser or tags do not fit.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ann", "sleeps"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    tagger = ft.token_classifier(
        bert, ["O", "B-person"], sequence_length=16,
        tokenizer=keras_hub.tokenizers.BertTokenizer(words),
    )
    train = [["ann", "sleeps"]] * 8, [["B-person", "O"]] * 8
    ft.fine_tune(tagger, ft.plans.full(epochs=1), train, verbose=0)
    print(tagger.predict([["ann", "sleeps"], ["ann"]], verbose=0))
    ```
    """
    base, options = base_of(backbone, sequence_length, tokenizer)
    encoder = TagEncoder(**options, classes=tags)
    x = keras.layers.Dropout(dropout, name="head_dropout")(sequence_of(base))
    outputs = keras.layers.Dense(
        len(encoder.classes),
        activation="softmax",
        dtype="float32",
        name="head_predictions",
    )(x)
    return text_model(base.input, outputs, encoder, base.name)


def question_answerer(
    backbone, sequence_length=None, tokenizer=None, stride=None
):
    """Builds a model that finds the answer to a question in a text.

    A long context is read in windows that overlap, and the best answer of all
    counts; there is none where each window holds that to be likelier, or from
    another threshold on, which `calibrate` chooses on validation questions.

    Args:
        backbone: What `text_backbone` returns or takes.
        sequence_length: Integer, the most tokens of a question and its window
            together. Defaults to `None`, that of the backbone.
        tokenizer: See `text_backbone`. Defaults to `None`.
        stride: Integer, how many tokens two windows share. Defaults to `None`,
            a third of `sequence_length`.

    Returns:
        A `FineTuneModel`. It takes `(questions, contexts)` and, as labels, the
        characters at which each answer starts and ends, an array of shape
        (questions, 2), or (-1, -1) where there is none. `predict` returns a
        dict for each question: `text`, `start`, `end`, `score`, the
        probability of the answer or, where the text is empty, of none, and
        `no_answer`, from 0 to 1, the share of none beside the best answer.

    Raises:
        ValueError: If backbone, tokeniser or lengths do not fit.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "ann", "ran"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    reader = ft.question_answerer(
        bert, sequence_length=16,
        tokenizer=keras_hub.tokenizers.BertTokenizer(words),
    )
    train = (["who ran"] * 4, ["ann ran"] * 4), [(0, 3)] * 4
    ft.fine_tune(reader, ft.plans.full(epochs=1), train, verbose=0)
    print(reader.predict((["who ran"], ["ann ran"]), verbose=0)[0]["text"])
    ```

    Reference:

    - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805)
    """
    base, options = base_of(backbone, sequence_length, tokenizer)
    encoder = AnswerEncoder(**options, stride=stride)
    logits = keras.layers.Dense(2, dtype="float32", name="head_predictions")(
        sequence_of(base)
    )
    logits = keras.layers.Permute((2, 1), name="head_positions")(logits)
    inputs = dict(base.input)
    allowed = keras.Input((None,), dtype="int32", name="allowed")
    mask = keras.layers.Reshape((1, -1), name="head_allowed")(allowed)
    # Not as a mask of the softmax, which Keras would put on the loss too.
    logits = keras.ops.where(mask > 0, logits, -1e9)
    outputs = keras.layers.Softmax(dtype="float32", name="head_softmax")(logits)
    inputs = {**inputs, "allowed": allowed}
    return text_model(inputs, outputs, encoder, base.name)


def masked_language_model(
    backbone, sequence_length=None, tokenizer=None, mask_rate=0.15
):
    """Builds a model that learns from plain texts by filling masked words.

    Trained on texts like those of the task, before the task itself, it adapts
    the backbone to their language: the tasks that are built on the same
    backbone share its weights. Another share of the tokens is masked in each
    epoch.

    Args:
        backbone: What `text_backbone` returns or takes. The tokeniser must
            know a mask.
        sequence_length: See `text_classifier`. Defaults to `None`.
        tokenizer: See `text_backbone`. Defaults to `None`.
        mask_rate: Float in (0, 1), the share of tokens to guess: of these, 80 %
            are masked, 10 % replaced, 10 % left. Defaults to `0.15`.

    Returns:
        A `FineTuneModel`. It takes texts without labels: `(texts,)`.

    Raises:
        ValueError: If backbone, tokeniser or an option do not fit.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    backbone = ft.text_backbone(
        bert, keras_hub.tokenizers.BertTokenizer(words), sequence_length=16
    )
    model = ft.masked_language_model(backbone)
    texts = ["good film film", "film good good"] * 8
    ft.fine_tune(model, ft.plans.full(epochs=1), (texts,), verbose=0)
    classifier = ft.text_classifier(backbone, 2)  # starts where that ended
    ```

    Reference:

    - [Gururangan et al., 2020](https://arxiv.org/abs/2004.10964)
    """
    base, options = base_of(backbone, sequence_length, tokenizer)
    encoder = MaskEncoder(**options, mask_rate=mask_rate)
    positions = keras.Input((None,), dtype="int32", name="mask_positions")
    embedding = _embedding(base)
    x = keras.ops.take_along_axis(
        sequence_of(base), positions[..., None], axis=1
    )
    x = keras.layers.Dense(
        embedding.output_dim, activation="gelu", name="head_dense"
    )(x)
    x = keras.layers.LayerNormalization(epsilon=1e-12, name="head_norm")(x)
    x = embedding(x, reverse=True)
    outputs = keras.layers.Softmax(dtype="float32", name="head_softmax")(x)
    inputs = {**base.input, "mask_positions": positions}
    return text_model(inputs, outputs, encoder, base.name)


def _embedding(base):
    """The embedding of the tokens, which gives their scores as well."""
    for layer in graph.all_layers(base):
        if hasattr(layer, "reverse_embeddings") or (
            type(layer).__name__ == "ReversibleEmbedding"
            and "position" not in layer.name
        ):
            return layer
    raise ValueError(
        "The backbone has no embedding that can be reversed into scores of "
        f"tokens. Received: backbone={base.name!r}"
    )
