"""Sounds for an encoder, and what is said in them for its decoder."""

import concurrent.futures
import os

import keras
import numpy as np

from finetune_keras.data.audio import load_audio
from finetune_keras.data.buckets import Buckets
from finetune_keras.models.text_encoder import is_raw

_FILE = (str, bytes, bytearray, os.PathLike)
_VALUES, _MASK = "encoder_input_values", "encoder_padding_mask"


def hears(model):
    """Whether a model reads sounds by an encoder, as Moonshine does."""
    preprocessor = getattr(model, "preprocessor", None)
    by_encoder = hasattr(preprocessor, "encoder_sequence_length")
    return (
        by_encoder
        and getattr(preprocessor, "audio_converter", None) is not None
    )


def sound_arrays(model, data):
    """`(x, lengths, y, weights, owners)`, see `arrays_of`.

    Waves stand in `x` as they are, each of its own length, until they are put
    into buckets; teacher forcing is that of the model's preprocessor.
    """
    x, y, weights = transcript_arrays(model, data.answers)
    waves = read_sounds(model, data.questions)
    lengths = np.array(list(map(len, waves)))
    x = {_VALUES: _converted(model, waves), **x}
    return x, lengths, y, weights, np.arange(len(y))


def transcript_arrays(model, answers):
    """What a decoder reads and writes of transcripts: `(x, y, weights)`."""
    preprocessor = model.preprocessor
    # It takes both at once: silence is heard and left out.
    silence = np.zeros((len(answers), _shortest(model)), "float32")
    found = preprocessor({"audio": silence, "text": answers})
    found = keras.tree.map_structure(keras.ops.convert_to_numpy, found)
    longest = int(found[2].sum(axis=1).max())
    x, y, weights = keras.tree.map_structure(
        lambda array: array[:, :longest].astype("int32"), found
    )
    places = np.tile(np.arange(longest, dtype="int32"), (len(y), 1))
    x = {name: x[name] for name in x if name.startswith("decoder_")}
    x["answer_positions"] = places * (weights > 0)
    return x, y, weights.astype("float32")


def decoder_start(model, batch, max_length=None):
    """What a decoder reads before it has written anything."""
    silence = np.zeros((len(batch[_VALUES]), _shortest(model)), "float32")
    found = model.preprocessor.generate_preprocess(
        {"audio": silence}, sequence_length=max_length
    )
    return {
        name: keras.ops.convert_to_numpy(found[name])
        for name in found
        if name.startswith("decoder_")
    }


def lengths_of(model, longest):
    """Lengths of buckets of sounds, each up to a quarter longer than another.

    Moonshine normalises over the whole of a padded wave, so that padding
    changes a little what is heard: it must not hang on other sounds.
    """
    found, size = [], _shortest(model)
    while not found or found[-1] < longest:
        found += [size * part // 4 for part in (4, 5, 6, 7)]
        size *= 2
    return found


def padded(model, x):
    """Inputs with waves padded to the next of the lengths, and their mask."""
    if _VALUES not in x:
        return x
    waves = x[_VALUES][:, 0]
    longest = max(map(len, waves))
    limits = lengths_of(model, longest)
    size = next(limit for limit in limits if limit >= longest)
    values = np.full(
        (len(waves), size, 1),
        model.preprocessor.audio_converter.padding_value,
        "float32",
    )
    mask = np.zeros(values.shape[:2], "bool")
    for row, wave in enumerate(waves):
        values[row, : len(wave)], mask[row, : len(wave)] = wave, True
    return {**x, _VALUES: values, _MASK: mask}


def sound_batches(model, waves, batch_size):
    """Yields places and inputs of batches of waves of about one length."""
    lengths = np.array(list(map(len, waves)))
    limits = lengths_of(model, lengths.max())
    x = {_VALUES: _converted(model, waves)}
    found = Buckets.sort(x, lengths, batch_size=1, limits=limits)
    for rows, (part,) in zip(found.rows, found.parts, strict=True):
        part, size = padded(model, part), min(batch_size, len(rows))
        for start in range(0, len(rows), size):
            # One shape for all: what is left over is filled up.
            places = np.arange(start, start + size) % len(rows)
            batch = {name: array[places] for name, array in part.items()}
            yield rows[places[: len(rows) - start]], batch


def _shortest(model):
    """A tenth of a second, the least that KerasHub's Moonshine hears."""
    return model.preprocessor.audio_converter.sampling_rate // 10


def _converted(model, waves):
    """Object array (waves, 1) of what the encoder takes, (samples, 1) each."""
    converter = model.preprocessor.audio_converter
    rows = np.empty((len(waves), 1), object)
    for i, wave in enumerate(waves):
        found = converter(wave[None], padding="longest")
        rows[i, 0] = keras.ops.convert_to_numpy(found)[0].astype("float32")
    return rows


# === Files and waves ===


def as_sounds(inputs):
    """One sound, or several, as a list."""
    shape = getattr(inputs, "shape", ())
    is_wave = len(shape) == 1 and not is_raw(inputs)
    return [inputs] if isinstance(inputs, _FILE) or is_wave else list(inputs)


def read_sounds(model, sounds):
    """Waves at the rate of the model, of waves and of names of files."""
    if not len(sounds):
        raise ValueError("There is no sound. Received: sounds=[]")
    rate = model.preprocessor.audio_converter.sampling_rate
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda sound: _read(sound, rate), sounds))
    bad = [one for one in enumerate(found) if isinstance(one[1], str)]
    if bad:
        shown = "; ".join(f"sound {i}: {problem}" for i, problem in bad[:5])
        raise ValueError(
            f"{len(bad)} of {len(found)} sounds cannot be used. Mend them, or "
            f"leave them out. Received: {shown}"
        )
    return found


def _read(sound, rate):
    """A wave of a file or an array; a string says what is wrong with it."""
    if isinstance(sound, _FILE):
        try:
            wave = load_audio(sound, rate)
        except ValueError as error:
            return str(error)
    else:
        wave = np.asarray(sound)
        if wave.ndim == 2 and wave.shape[1] == 1:
            wave = wave[:, 0]
        if wave.ndim != 1 or wave.dtype.kind != "f":
            return (
                f"an array of shape {wave.shape} and dtype {wave.dtype}, not "
                f"(samples,) from -1 to 1 at {rate} a second"
            )
        if not np.isfinite(wave).all():
            return "values that are NaN or infinite"
    if len(wave) < rate // 10:
        return f"{len(wave) / rate:.3f} s long, and 0.1 s is the least"
    return wave.astype("float32")
