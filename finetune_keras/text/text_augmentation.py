"""Augmentation of texts: words that go, change places or are masked; typos."""

from finetune_keras.arguments import check
from finetune_keras.data.augmentation import STRENGTH, Augmentation
from finetune_keras.text.word_layers import (
    RandomCharacterNoise,
    RandomWordDeletion,
    RandomWordSwap,
)


def text_augmentation(strength="medium", seed=None):
    """Makes a layer that augments raw texts while training.

    For string tensors of any shape, in `dataset.map` or inside a model, before
    the tokenizer; on the TensorFlow backend only. `"light"` makes words change
    places (5 % of the words of a text, on average); `"medium"` also leaves
    words out (10 % each); `"strong"` also makes typos (3 % of the letters). A
    text keeps at least one word. Between the words of a changed text stands
    one blank.

    Args:
        strength: String, `"light"`, `"medium"` or `"strong"`. Defaults to
            `"medium"`.
        seed: Integer, or `None` for a random one. Defaults to `None`.

    Returns:
        An `Augmentation`.

    Raises:
        ValueError: If `strength` is unknown, or the backend of Keras is not
            TensorFlow.

    Example:

    ```python
    import tensorflow as tf
    import finetune_keras as ft

    texts = tf.constant(["the flight was late and the crew was kind"])
    print(ft.text_augmentation("strong", seed=1)(texts, training=True))
    ```

    Reference:

    - [Wei and Zou, 2019](https://arxiv.org/abs/1901.11196)
    """
    check(strength=(strength, STRENGTH))
    layers = {
        "light": lambda: [RandomWordSwap(0.05)],
        "medium": lambda: [RandomWordSwap(0.1), RandomWordDeletion(0.1)],
        "strong": lambda: [
            RandomWordSwap(0.1),
            RandomWordDeletion(0.2),
            RandomCharacterNoise(0.03),
        ],
    }[strength]()
    return Augmentation(layers, seed=seed)
