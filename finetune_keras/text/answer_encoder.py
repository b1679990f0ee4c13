"""Questions and contexts: windows over long texts, and answers in them."""

import re
import warnings

import keras
import numpy as np

from finetune_keras.data.task import Task
from finetune_keras.models.text_encoder import TextEncoder, check_texts

_LONGEST_ANSWER = 30
# Chinese characters stand alone, as the tokenisers have them.
_PIECE = re.compile(r"[^\W\u4e00-\u9fff]+|[\u4e00-\u9fff]|[^\w\s]")


class Spans(Task):
    """Where an answer starts and ends in a text."""

    name, activation = "answers", "softmax"
    is_judged, may_lack = False, True

    def compile_arguments(self, one_hot=False):
        loss = "sparse_categorical_crossentropy"
        return {"loss": loss, "metrics": ["accuracy"]}


@keras.saving.register_keras_serializable(package="finetune_keras")
class AnswerEncoder(TextEncoder):
    """Turns questions and contexts into windows, and outputs into answers."""

    sample = (["a question"], ["a sample text"])

    def __init__(
        self, tokenizer, sequence_length=128, stride=None, threshold=0.5
    ):
        super().__init__(tokenizer, sequence_length)
        if stride is not None and not 0 <= stride < sequence_length // 2:
            raise ValueError(
                "`stride` is how many tokens two windows share, less than "
                "half of `sequence_length`. "
                f"Received: stride={stride!r}, sequence_length="
                f"{sequence_length}"
            )
        self.stride = sequence_length // 3 if stride is None else stride
        # From which share of "no answer" on there is none.
        self.threshold = threshold
        self.task = Spans()

    def count(self, x):
        return len(_pairs(x)[0])

    def prepare(self, x, y=None, sample_weight=None):
        windows = self._windows(*_pairs(x))
        arrays, lengths = self.arrays([(w.ids, w.first) for w in windows])
        allowed = np.zeros_like(arrays["token_ids"])
        for row, window in zip(allowed, windows, strict=True):
            # The first token stands for "no answer here".
            row[0] = 1
            row[window.first : window.first + len(window.starts)] = 1
        arrays["allowed"] = allowed
        if y is None:
            return arrays, lengths, ()
        answers = _answers(y, _pairs(x)[1])
        positions = [w.find(*answers[w.question]) for w in windows]
        _tell_lost(answers, windows, positions)
        labels = (np.array(positions, "int32"),)
        if sample_weight is not None:
            rows = [window.question for window in windows]
            labels += (np.asarray(sample_weight, "float32")[rows],)
        return arrays, lengths, labels

    def encode(self, x):
        return self.prepare(x)[:2]

    def finish(self, outputs, x):
        """Lists the best answer to each question, over all its windows."""
        questions, contexts = _pairs(x)
        best = [(0.0, 0, 0)] * len(questions)
        none = [1.0] * len(questions)
        windows = self._windows(questions, contexts)
        for window, output in zip(windows, np.asarray(outputs), strict=True):
            i, (starts, ends) = window.question, output
            none[i] = min(none[i], float(starts[0] * ends[0]))
            score, first, last = window.best(starts, ends)
            if score > best[i][0]:
                best[i] = score, window.starts[first], window.ends[last]
        return [
            _answer(context, *found, missing, self.threshold)
            for context, found, missing in zip(
                contexts, best, none, strict=True
            )
        ]

    def get_config(self):
        config = super().get_config()
        del config["classes"]
        return {**config, "stride": self.stride, "threshold": self.threshold}

    def _windows(self, questions, contexts):
        pieces = [list(_PIECE.finditer(text)) for text in contexts]
        words = [(_begins(m), m[0]) for found in pieces for m in found]
        known = self.ids_of_pieces(words)
        windows = []
        for i, ids in enumerate(self.token_ids(questions)):
            tokens = []
            for m in pieces[i]:
                found = known[_begins(m), m[0]]
                spans = [(m.start(), m.end())] * len(found)
                tokens += zip(found, spans, strict=True)
            windows += self._slide(i, ids, tokens)
        return windows

    def _slide(self, question, ids, tokens):
        start, end = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        ids = ids[: self.sequence_length // 2 - 2]
        first = [start, *ids, *[end] * self.separators]
        room = self.sequence_length - len(first) - 1
        step = max(1, room - min(self.stride, room // 2))
        windows, begin = [], 0
        while True:
            part = tokens[begin : begin + room]
            windows.append(_Window(question, first, part, end))
            if begin + room >= len(tokens):
                return windows
            begin += step


def _begins(piece):
    """Tells whether a piece of a text begins a word."""
    return piece.start() == 0 or piece.string[piece.start() - 1].isspace()


class _Window:
    """A question with a part of its context.

    The ids `first` stand before the context; its tokens come with their
    characters, `(id, (start, end))`.
    """

    def __init__(self, question, first, tokens, end):
        self.question = question
        self.first = len(first)
        self.ids = [*first, *(token for token, _ in tokens), end]
        self.starts = [span[0] for _, span in tokens]
        self.ends = [span[1] for _, span in tokens]

    def find(self, start, end):
        """Positions of the tokens between two characters, or (0, 0)."""
        inside = [
            i
            for i, (a, b) in enumerate(zip(self.starts, self.ends, strict=True))
            if a < end and b > start
        ]
        whole = inside and (
            self.starts[inside[0]] <= start and self.ends[inside[-1]] >= end
        )
        if not whole:
            return 0, 0
        return self.first + inside[0], self.first + inside[-1]

    def best(self, starts, ends):
        """The likeliest span: its score, first and last token."""
        places = slice(self.first, self.first + len(self.starts))
        scores = np.outer(starts[places], ends[places])
        scores = np.triu(scores) - np.triu(scores, _LONGEST_ANSWER)
        if not scores.size:
            return 0.0, 0, 0
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        return float(scores[first, last]), int(first), int(last)


def _answer(context, score, start, end, none, threshold):
    no_answer = none / (none + score) if score else 1.0
    if no_answer > threshold:
        found = {"text": "", "start": -1, "end": -1, "score": none}
    else:
        text = context[start:end]
        found = {"text": text, "start": start, "end": end, "score": score}
    return {**found, "no_answer": no_answer}


def _answers(y, contexts):
    """Checks where answers stand, and takes the blanks off their edges."""
    found = np.asarray(y)
    if found.shape != (len(contexts), 2) or found.dtype.kind not in "iuf":
        raise ValueError(
            "The labels must be the characters at which each answer starts "
            "and ends, or (-1, -1) where there is none: an array of numbers "
            f"of shape ({len(contexts)}, 2). Received: shape {found.shape} "
            f"and dtype {found.dtype}"
        )
    trimmed = [_trimmed(*pair) for pair in zip(found, contexts, strict=True)]
    bad = [i for i, answer in enumerate(trimmed) if answer is None]
    if bad:
        raise ValueError(
            f"{len(bad)} answers are no part of their context: they must start "
            "before they end, in whole characters from 0 to the length of the "
            "context, and hold more than blanks; (-1, -1) says that there is "
            f"none. Received: {found[bad[0]].tolist()} for context {bad[0]} of "
            f"{len(contexts[bad[0]])} characters, and answers {bad[:10]}"
        )
    changed = int((np.array(trimmed) != found).any(axis=1).sum())
    if changed:
        warnings.warn(
            f"{changed} of {len(found)} answers have blanks at their edges, "
            "which are left out.",
            stacklevel=2,
        )
    return trimmed


def _trimmed(answer, context):
    """Start and end without blanks around, `None` where they are wrong."""
    if not np.isfinite(answer).all() or (answer != np.floor(answer)).any():
        return None
    start, end = map(int, answer)
    if (start, end) == (-1, -1):
        return start, end
    text = context[start:end]
    if not 0 <= start < end <= len(context) or not text.strip():
        return None
    return (
        start + len(text) - len(text.lstrip()),
        end - len(text) + len(text.rstrip()),
    )


def _tell_lost(answers, windows, positions):
    """Warns of answers that no window holds as a whole."""
    held = {
        window.question
        for window, position in zip(windows, positions, strict=True)
        if position != (0, 0)
    }
    lost = [i for i, a in enumerate(answers) if a != (-1, -1) and i not in held]
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(answers)} answers stand in no window as a "
            "whole, and are trained as if there were none: raise "
            "`sequence_length`, or leave them out. The first are "
            f"{[(i, answers[i]) for i in lost[:3]]}",
            stacklevel=2,
        )


def _pairs(x):
    if not isinstance(x, (tuple, list)) or len(x) != 2:
        raise ValueError(
            "Questions come with their contexts: pass a tuple `(questions, "
            f"contexts)` of two lists. Received: x of type {type(x).__name__}"
        )
    questions, contexts = map(check_texts, x)
    if len(questions) != len(contexts):
        raise ValueError(
            "Each question needs a context. Received: "
            f"{len(questions)} questions and {len(contexts)} contexts"
        )
    return questions, contexts
