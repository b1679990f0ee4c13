"""Questions for an encoder, and answers for its decoder, as tokens."""

import warnings

import keras
import numpy as np

from finetune_keras.text.sound_tokens import hears, sound_arrays


def reads_pairs(model):
    """Whether a model reads a question by an encoder, as BART and T5 do."""
    return hasattr(model.preprocessor, "encoder_sequence_length")


def pair_arrays(model, data):
    """`(x, lengths, y, weights, owners)`, see `arrays_of`.

    Padding and teacher forcing are those of the model's preprocessor.
    """
    _check(data)
    if hears(model):
        found = sound_arrays(model, data)
        room = model.preprocessor.decoder_sequence_length
        _warn_of_cuts([found[3].sum(axis=1)], [room], ["transcripts"])
        return found
    preprocessor = model.preprocessor
    found = preprocessor(
        {"encoder_text": data.questions, "decoder_text": data.answers},
        encoder_sequence_length=encoder_length(model, data),
    )
    x, y, weights = keras.tree.map_structure(np.asarray, found)
    x = {name: array.astype("int32") for name, array in x.items()}
    asked, written = (
        x[f"{part}_padding_mask"].sum(axis=1) for part in ("encoder", "decoder")
    )
    _warn_of_cuts(
        [asked, written],
        [x[f"{part}_token_ids"].shape[1] for part in ("encoder", "decoder")],
        ["questions", "answers"],
    )
    lengths, weights = np.maximum(asked, written), weights.astype("float32")
    x = {name: array[:, : lengths.max()] for name, array in x.items()}
    # The learnt tokens stand at the begin of each answer.
    most = int(weights.sum(axis=1).max())
    places = np.tile(np.arange(most, dtype="int32"), (len(y), 1))
    x["answer_positions"] = places * (weights[:, :most] > 0)
    y = y[:, :most].astype("int32")
    return x, lengths, y, weights[:, :most], np.arange(len(y))


def encoder_length(model, data):
    """The most tokens of a question."""
    length = model.preprocessor.encoder_sequence_length
    return min(data.sequence_length or length, length)


def _check(data):
    if not data.have_questions or data.packing:
        raise ValueError(
            "A model of an encoder and a decoder reads questions and writes "
            "answers: pass `ft.prompts(questions, answers)`, without "
            f"`packing`. Received: data={data!r}, packing={data.packing}"
        )


def _warn_of_cuts(counts, rooms, names):
    """Warns of examples that fill all there is room for."""
    full = [
        int((count == room).sum())
        for count, room in zip(counts, rooms, strict=True)
    ]
    if any(full):
        shown = zip(full, names, strict=True)
        shown = " and ".join(f"{count} {name}" for count, name in shown)
        warnings.warn(
            f"{shown} fill the lengths of "
            "the preprocessor: what is longer is cut off. Raise its "
            "`encoder_sequence_length` and `decoder_sequence_length` where "
            "that is not wanted.",
            stacklevel=2,
        )
