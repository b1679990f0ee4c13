"""Examples for a language model: what it reads, and what it is to write."""

import hashlib
import os

import numpy as np


class Prompts:
    """Texts in pieces, of which a model learns to write some.

    Made by `prompts`. A slice, or an array of places, gives some of the
    examples.

    Attributes:
        examples: List of lists of pieces `(text, is_learnt)`; the first piece
            of a sound with what is said in it is the wave or the file.
        sequence_length: Integer, the most tokens of a window, or `None`.
        stride: Integer, tokens from one window of a long text to the next, or
            `None`.
        packing: Boolean, whether windows hold several examples.
    """

    def __init__(
        self, examples, sequence_length=None, stride=None, packing=False
    ):
        self.examples = examples
        self.sequence_length = sequence_length
        self.stride = stride
        self.packing = packing

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, rows):
        """The examples at some places, as a slice or an array has them."""
        if isinstance(rows, slice):
            chosen = self.examples[rows]
        else:
            places = np.arange(len(self))[np.asarray(rows)]
            chosen = [self.examples[i] for i in np.atleast_1d(places)]
        return Prompts(chosen, self.sequence_length, self.stride, self.packing)

    def __repr__(self):
        learnt = "answers" if self.have_questions else "texts"
        return f"<Prompts: {len(self):,} {learnt}>"

    def finished(self, buckets):
        """What is learnt of the `Buckets` of their tokens: the tokens."""
        return buckets

    def facts(self, digest):
        """What tells them from other data, as plain data."""
        examples = self.examples
        if self.are_sounds:
            examples = self.names, self.answers
        kinds = self.sequence_length, self.stride, self.packing
        return {"texts": digest(repr((examples, kinds)))}

    @property
    def have_questions(self):
        """Boolean, whether all examples are prompts with an answer."""
        return all(
            len(pieces) > 1 and not pieces[0][1] and pieces[-1][1]
            for pieces in self.examples
        )

    @property
    def questions(self):
        """List of what stands before each last answer: strings, or sounds."""
        return [
            "".join(text for text, _ in pieces[:-1])
            if isinstance(pieces[0][0], str)
            else pieces[0][0]
            for pieces in self.examples
        ]

    @property
    def are_sounds(self):
        """Boolean, whether waves or paths are to be heard, not read."""
        first = [pieces[0][0] for pieces in self.examples]
        return not all(isinstance(sound, str) for sound in first)

    @property
    def names(self):
        """List of strings that tell sounds apart; of texts `None`."""
        return list(map(_name, self.questions)) if self.are_sounds else None

    @property
    def answers(self):
        """List of strings, the last answers, without blanks around them."""
        return [pieces[-1][0].strip() for pieces in self.examples]


def _name(sound):
    if isinstance(sound, (str, os.PathLike)):
        return os.fspath(sound)
    wave = np.ascontiguousarray(sound)
    mark = hashlib.blake2b(wave.tobytes(), digest_size=8).hexdigest()
    return f"wave {mark} of {wave.size:,} samples"
