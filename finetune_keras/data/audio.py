"""One way to read a sound, for training and for prediction."""

import concurrent.futures
import hashlib
import io
import math
import os
import struct
import typing

import numpy as np

from finetune_keras.arguments import check, integer, positive
from finetune_keras.data.files import check_files
from finetune_keras.data.image_check import read_file
from finetune_keras.data.manifest import Manifest
from finetune_keras.engine.packages import require, scipy, soundfile, tensorflow

FORMATS = ("WAV", "FLAC", "OGG")
_COMPRESSED = (b"fLaC", b"OggS")
# Of a page of Ogg: that it is the last, how many parts it has.
_LAST, _FLAGS, _COUNT = 4, 5, 26
_STREAMED = 0xFFFFFFFF


class SoundCheck(typing.NamedTuple):
    """What is known of a sound; `problem` is `None` where it can be used."""

    name: str
    digest: str
    samples: int
    sampling_rate: int
    problem: str | None
    note: str | None

    @property
    def size(self):
        return self.samples, self.sampling_rate


def load_audio(source, sampling_rate, samples=None):
    """Reads a sound as float32 (samples,) from -1 to 1, of a given rate.

    Training and prediction both go through this function. Channels are
    averaged, another rate is resampled by `scipy.signal.resample_poly`. Of
    what is longer the middle is taken; what is shorter gets zeros at both
    ends; all of it is given where `samples` is `None`. The source is a path or
    the bytes of a file, in WAV, FLAC or OGG.
    """
    try:
        is_path = isinstance(source, (str, os.PathLike))
        sound, rate = _decode(read_file(source) if is_path else bytes(source))
    except ImportError:
        raise
    except Exception as error:
        shown = source if is_path else f"{len(source)} bytes"
        raise ValueError(
            f"The sound cannot be used: {_reason(error)}. Pass a file of "
            f"{', '.join(FORMATS)}. Received: source={shown!r}"
        ) from error
    sound = resample(sound.mean(axis=1), rate, sampling_rate)
    return sound if samples is None else fit_length(sound, samples)


def resample(sound, rate, sampling_rate):
    """A sound (samples,) at another rate."""
    if rate == sampling_rate:
        return sound
    common = math.gcd(rate, sampling_rate)
    new = scipy.signal.resample_poly(
        sound, sampling_rate // common, rate // common
    )
    return new.astype("float32")


def fit_length(sound, samples, place=None):
    """The middle of a sound, or the sound between zeros.

    `place`, in [0, 1), takes another stretch, from the first to the last.
    """
    more = samples - len(sound)
    if more < 0:
        start = -more // 2 if place is None else int(place * (1 - more))
        return sound[start:][:samples]
    return np.pad(sound, (more // 2, more - more // 2))


def samples_of(sampling_rate, seconds):
    """Samples of a sound of some length; raises for what is no length."""
    check(
        sampling_rate=(sampling_rate, integer(1), "samples a second"),
        seconds=(seconds, positive, "the length of what the model gets"),
    )
    return max(round(sampling_rate * seconds), 1)


# === Checks ===


def check_sounds(folder, files, verbose=1):
    """Decodes every sound that has changed since the last check.

    As `check_images`; gives `SoundCheck`s.
    """
    compressed = any(
        name.lower().endswith((".flac", ".ogg")) for name, *_ in files
    )
    # Or every sound would pass for damaged, now and at the next check.
    require(tensorflow, scipy, *([soundfile] if compressed else []))
    manifest = Manifest(folder, "sounds")
    checks = check_files(folder, files, _check_all, manifest, verbose)
    return [SoundCheck(*found) for found in checks]


def _check_all(paths, progress):
    found = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(check_sound, paths):
            found.append(result)
            progress(len(found))
    return found


def check_sound(path):
    """Decodes one sound: `(digest, samples, rate, problem, note)`."""
    try:
        data = read_file(path)
    except OSError as error:
        return "", 0, 0, f"cannot be read: {error.strerror}", None
    digest = hashlib.sha256(data).hexdigest()[:32]
    try:
        sound, rate = _decode(data)
    except ImportError:
        raise
    except Exception as error:
        return digest, 0, 0, _reason(error), None
    return digest, len(sound), rate, None, _note(sound)


def _note(sound):
    """Says what is out of the ordinary, or `None`."""
    most = float(np.abs(sound).max())
    if most == 0:
        return "silence"
    if most > 1:
        return f"values up to {most:.3g}, not from -1 to 1"
    channels = sound.shape[1]
    return f"{channels} channels, their mean is used" * (channels > 1) or None


def _reason(error):
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if type(error) is _Problem:
        return str(error)
    # That of soundfile names an object in memory besides.
    return f"damaged: {getattr(error, 'error_string', error)}"


class _Problem(ValueError):
    """Why a file is no sound that can be used."""


# === Formats ===


def _decode(data):
    """`(sound, rate)` of the bytes of a file, float32 (samples, channels)."""
    if not data:
        raise _Problem("empty, 0 bytes")
    if data.startswith(b"RIFF"):
        rate, sound = _read_wave(data)
    elif data.startswith(_COMPRESSED):
        rate, sound = _read_compressed(data)
    else:
        raise _Problem(f"not a sound of {', '.join(FORMATS)}")
    if not sound.size or rate <= 0:
        raise _Problem("no samples in it")
    if not np.isfinite(sound).all():
        raise _Problem("values that are NaN or infinite")
    return sound.reshape(len(sound), -1), rate


def _read_wave(data):
    data = io.BytesIO(_samples_alone(data))
    rate, sound = scipy.io.wavfile.read(data)
    if sound.dtype == np.uint8:
        return rate, (sound.astype("float32") - 128) / 128
    if sound.dtype.kind == "i":
        most = float(2 ** (8 * sound.dtype.itemsize - 1))
        return rate, (sound / most).astype("float32")
    return rate, sound.astype("float32")


def _samples_alone(data):
    """A WAV file without what is not needed, of which scipy warns."""
    kept, place = b"", 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        end = place + 8 + size
        if name == b"data" and size == _STREAMED:
            end = len(data)
        if end > len(data):
            raise _Problem(f"truncated: {end - len(data)} bytes are missing")
        if name in (b"fmt ", b"data"):
            part = data[place + 8 : end]
            kept += struct.pack("<4sI", name, len(part)) + part
        if name == b"data":
            return b"RIFF" + struct.pack("<I", len(kept) + 4) + b"WAVE" + kept
        # Chunks begin at even places.
        place = end + size % 2
    raise _Problem("truncated: it has no samples")


def _read_compressed(data):
    if data.startswith(b"OggS") and _lacks_end(data):
        raise _Problem("truncated")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        expected, rate = file.frames, file.samplerate
        sound = file.read(dtype="float32", always_2d=True)
    if len(sound) < expected:
        raise _Problem(f"truncated: {len(sound)} of {expected} samples")
    return rate, sound


def _lacks_end(data):
    """Finds a missing end of Ogg, which the decoder does not miss."""
    page = data.rfind(b"OggS")
    head = page + _COUNT + 1
    if head > len(data) or not data[page + _FLAGS] & _LAST:
        return True
    parts = data[head : head + data[head - 1]]
    return head + data[head - 1] + sum(parts) > len(data)
