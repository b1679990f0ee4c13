"""A whole model that makes vectors of texts."""

from finetune_keras.data.vectors import Vectors
from finetune_keras.models.heads import build_vectors
from finetune_keras.models.model import keep_task, text_model
from finetune_keras.models.pooling import padding_mask
from finetune_keras.models.text_encoder import TextEncoder
from finetune_keras.text.sentence_files import is_sentence_folder, read_modules
from finetune_keras.text.text_backbones import base_of, sequence_of


def text_embedder(
    backbone,
    sequence_length=None,
    tokenizer=None,
    pooling=None,
    normalize=None,
):
    """Builds a model that makes a vector of each text, near to its like.

    Trained by `fine_tune` on pairs, such as questions and their answers, or
    on labelled texts, it puts those that belong together next to each other;
    see `ContrastiveLoss`, which it is compiled with. `predict` gives the
    vectors, `evaluate` judges what a search with them finds.

    Args:
        backbone: What `text_backbone` returns or takes; a folder of
            SentenceTransformers says how it pools.
        sequence_length: Integer, the most tokens of one input. Defaults to
            `None`, what such a folder says, or that of the backbone.
        tokenizer: See `text_backbone`. Defaults to `None`.
        pooling: What becomes the vector: `"avg"`, the mean of the tokens
            without padding, `"max"`, or `"token"`, the first token. Defaults
            to `None`, what such a folder says, or `"avg"`.
        normalize: Boolean, whether vectors have the length one. Defaults to
            `None`, what such a folder says, or `True`.

    Returns:
        A `FineTuneModel`, all of it trainable, that maps raw texts to vectors.

    Raises:
        ValueError: If backbone, tokeniser or an option do not fit, or the
            folder is of a model with other parts.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "ann", "ran"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    encoder = ft.text_embedder(
        bert, sequence_length=16,
        tokenizer=keras_hub.tokenizers.BertTokenizer(words),
    )
    data = ft.pairs(["who ran", "who", "ran"], ["ann ran", "ann", "ran ran"])
    ft.fine_tune(encoder, ft.plans.full(epochs=1), data, verbose=0)
    print(encoder.predict(["who ran", "ann"], verbose=0).shape)  # (2, 8)
    print(ft.evaluate(encoder, data, verbose=0).metrics["recall_at_1"])
    ```

    Reference:

    - [Reimers and Gurevych, 2019](https://arxiv.org/abs/1908.10084)
    """
    told = {"pooling": "avg", "normalize": True, "sequence_length": None}
    if is_sentence_folder(backbone):
        told.update(read_modules(backbone))
    sequence_length = sequence_length or told["sequence_length"]
    base, options = base_of(backbone, sequence_length, tokenizer)
    outputs = build_vectors(
        sequence_of(base),
        padding_mask(base),
        told["pooling"] if pooling is None else pooling,
        told["normalize"] if normalize is None else normalize,
    )
    model = text_model(base.input, outputs, TextEncoder(**options), base.name)
    keep_task(model, Vectors(outputs=outputs.shape[-1]))
    return model
