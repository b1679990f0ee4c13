"""Distillation of models that write: what a teacher says of each token."""

import functools

import keras
import numpy as np

from finetune_keras.cache.activation_store import (
    CacheRefused,
    cache_options,
    make_room,
    place_for,
)
from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.data.outputs import writes_text
from finetune_keras.data.prompts import Prompts
from finetune_keras.models.layer_groups import as_groups
from finetune_keras.text.generation import for_answers
from finetune_keras.text.pair_tokens import reads_pairs
from finetune_keras.text.prompt_tokens import as_prompts, check_writes
from finetune_keras.training.distillation_loss import (
    TokenDistillationLoss,
    token_agreement,
)


def taught(student, teacher, data, temperature, weight):
    """`distill` of a model that writes: prompts that know their teacher."""
    data = as_prompts(data)
    if not isinstance(data, Prompts):
        raise ValueError(
            "A model that writes learns from texts: pass what `ft.prompts` "
            f"returns. Received: data of type {type(data).__name__}"
        )
    _check_pair(student, teacher)
    # Its own `compile` would change the sampler that it writes with.
    keras.Model.compile(
        student,
        "adam",
        TokenDistillationLoss(temperature, weight),
        weighted_metrics=[token_agreement],
    )
    return TaughtPrompts(data, teacher)


class TaughtPrompts(Prompts):
    """Prompts, and the model that says how likely it holds each token."""

    def __init__(self, prompts, teacher):
        super().__init__(
            prompts.examples,
            prompts.sequence_length,
            prompts.stride,
            prompts.packing,
        )
        self.teacher = teacher

    def __getitem__(self, rows):
        return TaughtPrompts(super().__getitem__(rows), self.teacher)

    def facts(self, digest):
        return {
            **super().facts(digest),
            "teacher": digest(self.teacher.weights),
        }

    def finished(self, buckets):
        """Puts what the teacher says before each token that is learnt."""
        make = functools.partial(for_answers, packing=self.packing)
        flat, parts = FlatModel(as_groups(self.teacher), make), []
        with flat.opened() as model:
            rooms = _rooms(buckets.parts, model.output.shape[-1])
            for (x, y, weights), room in zip(buckets.parts, rooms, strict=True):
                _fill(room, model, x, y, buckets.batch_size)
                parts.append((x, room, weights))
        return buckets.with_parts(parts)


def _rooms(parts, vocabulary):
    """Arrays, in memory or on disk, of scores and a token for each answer."""
    shapes = [(*y.shape, vocabulary + 1) for _, y, _ in parts]
    size = sum(4 * int(np.prod(shape, dtype=object)) for shape in shapes)
    try:
        place = place_for(size, cache_options("auto"), None)
        return [make_room(place, None, shape, "float32") for shape in shapes]
    except CacheRefused as error:
        raise ValueError(
            "What the teacher says of each token, a number for each of the "
            "vocabulary, is kept while the student learns, and there is no "
            "room for it, neither in memory nor on disk. Learn from a part of "
            "the examples at a time, `data[:1000]`. Received: a vocabulary of "
            f"{vocabulary:,}, which makes {size / 2**30:.1f} GiB"
        ) from error


def _fill(room, model, x, y, batch_size):
    room[..., -1] = y
    for start in range(0, len(y), batch_size):
        # All batches are of one shape; what fills the last one up goes.
        places = np.arange(start, start + batch_size) % len(y)
        batch = {name: array[places] for name, array in x.items()}
        scores = np.asarray(model.predict_on_batch(batch))
        stop = min(start + batch_size, len(y))
        room[start:stop, :, :-1] = scores[: stop - start]


def _check_pair(student, teacher):
    """Refuses models that do not read and write the same tokens."""
    for name, model in (("student", student), ("teacher", teacher)):
        if not writes_text(model):
            raise ValueError(
                "Student and teacher must both be models of KerasHub that "
                f"write. Received: {name}={model.name!r} of type "
                f"{type(model).__name__}"
            )
        check_writes(model)
    models = student, teacher
    words = [list(m.preprocessor.tokenizer.get_vocabulary()) for m in models]
    widths = [m.outputs[0].shape[-1] for m in models]
    same_kind = reads_pairs(student) == reads_pairs(teacher)
    if words[0] != words[1] or widths[0] != widths[1] or not same_kind:
        raise ValueError(
            "Student and teacher must read and write the same tokens. "
            f"Received: a student of {len(words[0])} words and {widths[0]} "
            f"scores, a teacher of {len(words[1])} words and {widths[1]}"
        )
