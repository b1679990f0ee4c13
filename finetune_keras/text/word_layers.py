"""Layers that change texts while training: words, letters, token ids."""

import keras
from keras import ops

from finetune_keras.arguments import check, share
from finetune_keras.data.random_layer import RandomLayer
from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf


class TextLayer(RandomLayer):
    """A layer on raw texts that changes a share of the parts of each."""

    separator = " "

    def __init__(self, rate=0.1, seed=None, **kwargs):
        if not backend.on("tensorflow"):
            raise ValueError(
                "Raw texts are tensors of TensorFlow only. Augment token ids "
                "with `RandomTokenMask`, or set KERAS_BACKEND=tensorflow. "
                f"Received: backend={backend.name()!r}"
            )
        check(rate=(rate, share))
        super().__init__(seed, **{**kwargs, "dtype": "string"})
        self.rate = rate

    def convert(self, inputs):
        return ops.convert_to_tensor(inputs)

    def augment(self, texts):
        flat = tf.reshape(texts, [-1])
        parts = self.split(flat)
        before, after = (
            tf.strings.reduce_join(x, axis=-1, separator=self.separator)
            for x in (parts, self.change(parts))
        )
        # A text without a change keeps its line breaks and double blanks.
        flat = tf.where(before == after, flat, after)
        return tf.ensure_shape(tf.reshape(flat, tf.shape(texts)), texts.shape)

    def split(self, texts):
        return tf.strings.split(texts)

    def change(self, parts):
        """Changes the parts, a ragged tensor (texts, parts of a text)."""
        raise NotImplementedError

    def draw(self, parts):
        """Draws a number from 0 to 1 for each part, a ragged tensor."""
        return parts.with_flat_values(self.uniform(tf.shape(parts.flat_values)))

    def choose(self, draws):
        """Marks parts with probability `rate`, but not all of any text."""
        highest = tf.reduce_max(draws, axis=1)
        highest = tf.gather(highest, draws.value_rowids())
        flat = draws.flat_values
        return draws.with_flat_values((flat < self.rate) & (flat < highest))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomWordDeletion(TextLayer):
    """Leaves out words of a text, at random; one word always stays.

    `rate` is the probability of each word. Active with `training=True` only.
    """

    def change(self, parts):
        gone = self.choose(self.draw(parts))
        return tf.ragged.boolean_mask(parts, tf.logical_not(gone))


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomWordMask(TextLayer):
    """Puts a mask in the place of words of a text; one word always stays.

    `rate` is the probability of each word. Active with `training=True` only.
    """

    def __init__(self, rate=0.1, mask_token="[MASK]", seed=None, **kwargs):
        super().__init__(rate, seed, **kwargs)
        self.mask_token = mask_token

    def change(self, parts):
        masked = self.choose(self.draw(parts)).flat_values
        return parts.with_flat_values(
            tf.where(masked, self.mask_token, parts.flat_values)
        )

    def get_config(self):
        return {**super().get_config(), "mask_token": self.mask_token}


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomWordSwap(TextLayer):
    """Lets words of a text change places, two by two.

    `rate` is the share of words that stand elsewhere afterwards, on average.
    Active with `training=True` only.
    """

    def change(self, parts):
        rows = parts.value_rowids()
        # A random order within each text: rows stay together when sorted.
        keys = tf.cast(self.draw(parts).flat_values, "float64")
        order = tf.argsort(tf.cast(rows, "float64") + keys)
        rank = tf.range(tf.size(rows, tf.int64))
        rank -= tf.gather(parts.row_starts(), rows)
        lengths = parts.row_lengths()
        pairs = tf.cast(lengths, "float32") * (self.rate / 2)
        # The fraction of a pair is one pair, as often as it says.
        pairs = tf.floor(pairs + self.uniform(tf.shape(pairs)))
        pairs = tf.minimum(tf.cast(pairs, "int64"), lengths // 2)
        partner = tf.bitwise.bitwise_xor(rank, tf.ones_like(rank))
        moved = rank < 2 * tf.gather(pairs, rows)
        shift = tf.where(moved, partner - rank, 0)
        source = tf.gather(order, tf.range(tf.size(rows, tf.int64)) + shift)
        words = tf.gather(parts.flat_values, source)
        return parts.with_flat_values(
            tf.tensor_scatter_nd_update(
                parts.flat_values, order[:, tf.newaxis], words
            )
        )


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomCharacterNoise(TextLayer):
    """Makes typos: leaves a letter out, doubles it, or puts in another.

    It does to each letter with probability `rate`. The other letter comes from
    the same batch, so that it is of the same script. White space stays. Active
    with `training=True` only.
    """

    separator = ""

    def __init__(self, rate=0.03, seed=None, **kwargs):
        super().__init__(rate, seed, **kwargs)

    def split(self, texts):
        return tf.strings.unicode_split(texts, "UTF-8")

    def change(self, parts):
        letters = parts.flat_values
        blank = tf.strings.regex_full_match(letters, r"[\s\p{Z}]")
        draws = self.draw(parts)
        draws = draws.with_flat_values(tf.where(blank, -1.0, draws.flat_values))
        chosen = self.choose(draws).flat_values & ~blank
        kind = self.uniform(tf.shape(letters)) * 3.0
        others = tf.boolean_mask(letters, ~blank)
        typo = tf.where(kind < 1.0, "", letters + letters)
        typo = tf.where(kind < 2.0, typo, self._shuffled(others, letters))
        return parts.with_flat_values(tf.where(chosen, typo, letters))

    def _shuffled(self, others, letters):
        """Draws one of the other letters for each letter."""
        others = tf.concat([others, [""]], 0)
        count = tf.cast(tf.maximum(tf.size(others) - 1, 1), "float32")
        draws = self.uniform(tf.shape(letters)) * count
        return tf.gather(others, tf.cast(draws, "int32"))


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomTokenMask(RandomLayer):
    """Puts the id of a mask in the place of token ids, on any backend.

    It does with probability `rate`, but for `keep_ids`: those of padding,
    start and end. Active with `training=True` only.
    """

    def __init__(self, rate, mask_id, keep_ids=(), seed=None, **kwargs):
        check(rate=(rate, share))
        super().__init__(seed, **{"dtype": "int32", **kwargs})
        self.rate = rate
        self.mask_id = mask_id
        self.keep_ids = list(keep_ids)

    def convert(self, inputs):
        return ops.convert_to_tensor(inputs)

    def __call__(self, inputs, *args, **kwargs):
        # Here, since Keras casts an array to the type of the layer.
        dtype = getattr(inputs, "dtype", "int32")
        if "int" not in keras.backend.standardize_dtype(dtype):
            raise ValueError(
                "`RandomTokenMask` takes token ids, integers. Received: "
                f"an input of type {dtype}"
            )
        return super().__call__(inputs, *args, **kwargs)

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def augment(self, x):
        masked = self.uniform(ops.shape(x)) < self.rate
        for kept in self.keep_ids:
            masked = ops.logical_and(masked, x != kept)
        return ops.where(masked, ops.cast(self.mask_id, x.dtype), x)

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "mask_id": self.mask_id,
            "keep_ids": self.keep_ids,
        }
