"""Folders of sounds with a subfolder a class."""

import math

import numpy as np

from finetune_keras.arguments import check, one_of
from finetune_keras.data.audio import (
    check_sounds,
    fit_length,
    load_audio,
    samples_of,
)
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.files import check_bad_files
from finetune_keras.data.folders import ClassFolder
from finetune_keras.data.pipeline import FileStore, free_memory
from finetune_keras.data.splits import check_fractions


def audio_folder(
    folder,
    sampling_rate=16000,
    seconds=1.0,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    batch_size=32,
    task=None,
    classes=None,
    balanced=False,
    bad_files="skip",
    cache="auto",
    crop="middle",
    verbose=1,
):
    """Reads sounds from a folder with a subfolder for each class.

    WAV files, and FLAC and OGG with the package soundfile, of any rate,
    length and number of channels. Each is decoded before training, and what
    cannot be used is left out and named, as `image_folder` does with images.
    `x` are waveforms, float32 `(sampling_rate * seconds,)` from -1 to 1: the
    mean of the channels, resampled by `scipy.signal.resample_poly`. Of what is
    longer the middle is taken, or while training another stretch in each pass;
    what is shorter stands between zeros.

    Args:
        folder: String or path; holds the classes, or splits of them, as for
            `image_folder`.
        sampling_rate: Integer, samples a second of what the model gets.
            Defaults to `16000`.
        seconds: Float, length of what the model gets. Defaults to `1.0`.
        validation_split, test_split, seed, batch_size, task: As in
            `image_folder`.
        group_by: As in `image_folder`: what tells of one speaker, or of one
            long recording, that its files belong together. Defaults to `None`.
        classes, balanced, bad_files, verbose: As in `image_folder`.
        cache: `True` or `False`, whether waveforms are kept in memory;
            `"auto"` where they fit in a third of the free memory. Defaults to
            `"auto"`.
        crop: `"middle"` or `"random"`, what `train` gives of sounds that are
            longer than `seconds`: their middle, or a stretch that is drawn
            anew in each pass, by `seed`. Validation, test and a bundle have
            the middle either way. Defaults to `"middle"`.

    Returns:
        `DataSplits`.

    Raises:
        ValueError: As `image_folder`.
        ImportError: If there are FLAC or OGG files and soundfile is not
            installed.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft
    from pathlib import Path
    from scipy.io import wavfile

    for pitch, name in ((300, "low"), (900, "high")):
        Path("tones", name).mkdir(parents=True)
        for i in range(10):
            wave = np.sin(np.arange(4000) * (pitch + i) * 2 * np.pi / 8000)
            wavfile.write(f"tones/{name}/{i}.wav", 8000, wave.astype("f4"))
    print(ft.audio_folder("tones", sampling_rate=8000, seconds=0.5, verbose=0))
    ```
    """
    options = {
        "batch_size": batch_size,
        "task": task,
        "classes": classes,
        "balanced": balanced,
        "sampling_rate": sampling_rate,
        "seconds": seconds,
        "crop": crop,
    }
    check(crop=(crop, one_of("middle", "random")))
    fractions = check_fractions(validation_split, test_split)
    samples = samples_of(sampling_rate, seconds)
    found = ClassFolder(folder)
    checks = check_sounds(found.path, found.files, verbose)
    bad = [(c.name, c.problem) for c in checks if c.problem]
    bad = [*found.problems, *bad]
    check_bad_files(bad, bad_files)
    good = [i for i, c in enumerate(checks) if not c.problem]
    examples = found.examples(good, bad, group_by)
    checks = [checks[i] for i in good]
    paths = list(examples.columns["path"])
    store = AudioStore if crop == "middle" else WholeAudioStore
    examples.x = store(paths, sampling_rate, samples, cache)
    examples.kind = "sounds"
    examples.digests = [c.digest for c in checks]
    examples.sizes = [c.size for c in checks]
    examples.notes += _notes(checks, seconds, crop)
    return DataSplits(examples, fractions, seed, options)


class AudioStore(FileStore):
    """Sounds in files, as waveforms of one rate and length."""

    check = staticmethod(check_sounds)

    def __init__(self, paths, sampling_rate, samples, cache="auto"):
        super().__init__(paths, (samples,), "float32", cache)
        self.sampling_rate = sampling_rate

    def of(self, paths):
        """A store of other files, which are read alike."""
        return type(self)(paths, self.sampling_rate, *self.shape, self.cache)

    def load(self, index):
        return load_audio(self.paths[index], self.sampling_rate, *self.shape)


class WholeAudioStore(AudioStore):
    """Sounds in files, of which any stretch can be had.

    They are kept as long as there is room.
    """

    def __init__(self, paths, sampling_rate, samples, cache="auto"):
        super().__init__(paths, sampling_rate, samples, cache)
        self.kept, self.whole = None, {}
        rooms = {True: math.inf, False: 0, "auto": free_memory() / 3}
        self.room = rooms[cache]

    def batch(self, indexes):
        return self.stretches(indexes, [None] * len(indexes))

    def stretches(self, indexes, places):
        """A stretch of each, where `fit_length` finds it by its place."""
        sounds = self.pool.map(self._read, indexes)
        return np.stack(
            [
                fit_length(sound, *self.shape, place)
                for sound, place in zip(sounds, places, strict=True)
            ]
        )

    def _read(self, index):
        if index in self.whole:
            return self.whole[index]
        sound = load_audio(self.paths[index], self.sampling_rate)
        if sound.nbytes <= self.room:
            self.whole[index] = sound
            self.room -= sound.nbytes
        return sound


def _notes(checks, seconds, crop):
    """Sentences on lengths, and on single files."""
    # A sample more or less comes of resampling.
    longer = [c for c in checks if c.samples > seconds * c.sampling_rate + 1]
    if longer:
        most = max(c.samples / c.sampling_rate for c in longer)
        used = "their middle is used."
        if crop == "random":
            used = "training draws a stretch of each, all else their middle."
        yield (
            f"{len(longer)} sounds are longer than {seconds:g} s, up to "
            f"{most:.3g} s: {used}"
        )
    yield from (f"{c.name!r}: {c.note}" for c in checks if c.note)
