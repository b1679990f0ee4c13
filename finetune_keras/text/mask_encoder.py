"""Plain texts with words to guess, for continued pretraining."""

import keras
import numpy as np

from finetune_keras.models.text_encoder import TextEncoder
from finetune_keras.text.tag_encoder import TokenTask


class MaskedWords(TokenTask):
    """The words that were masked; a text is its own label."""

    name, activation = "masked_words", "softmax"
    is_bundled = has_labels = False


@keras.saving.register_keras_serializable(package="finetune_keras")
class MaskEncoder(TextEncoder):
    """Turns texts into arrays in which some tokens are masked, at random."""

    is_random = True

    def __init__(self, tokenizer, sequence_length=128, mask_rate=0.15):
        super().__init__(tokenizer, sequence_length)
        if not 0 < mask_rate < 1:
            raise ValueError(
                "`mask_rate` is the share of tokens to guess, between 0 and "
                f"1. Received: mask_rate={mask_rate!r}"
            )
        if not hasattr(tokenizer, "mask_token_id"):
            raise ValueError(
                "The tokeniser has no mask. "
                f"Received: tokenizer={type(tokenizer).__name__}"
            )
        self.mask_rate = mask_rate
        self.task = MaskedWords()

    def prepare(self, x, y=None, sample_weight=None):
        arrays, lengths = self.encode(x)
        tokens = arrays["token_ids"]
        # Start and end are not guessed.
        counts = np.round((lengths - 2) * self.mask_rate).astype(int)
        counts = np.clip(counts, np.minimum(lengths - 2, 1), None)
        shape = len(tokens), max(1, counts.max(initial=1))
        positions = np.zeros(shape, "int32")
        for i, (length, count) in enumerate(zip(lengths, counts, strict=True)):
            chosen = 1 + np.random.permutation(length - 2)[:count]
            positions[i, :count] = np.sort(chosen)
        weights = np.arange(shape[1]) < counts[:, None]
        original = np.take_along_axis(tokens, positions, axis=1)
        arrays["token_ids"] = self._mask(tokens, positions, weights)
        arrays["mask_positions"] = positions
        return arrays, lengths, (original, weights.astype("float32"))

    def _mask(self, tokens, positions, weights):
        rows, columns = np.nonzero(weights)
        places = rows, positions[rows, columns]
        draws = np.random.uniform(size=len(rows))
        others = np.random.randint(
            self.tokenizer.vocabulary_size(), size=len(rows)
        )
        new = np.where(draws < 0.8, self.tokenizer.mask_token_id, others)
        masked = tokens.copy()
        masked[places] = np.where(draws < 0.9, new, tokens[places])
        return masked

    def get_config(self):
        config = super().get_config()
        del config["classes"]
        return {**config, "mask_rate": self.mask_rate}
