import io
import sys

import keras
import numpy as np
import pytest
from scipy import signal
from scipy.io import wavfile

import finetune_keras as ft
from finetune_keras.data.audio import check_sound, fit_length, load_audio

WAVE = np.sin(np.arange(3000) * 2 * np.pi * 440 / 8000) * 0.5
# Truncated to nothing by no format: multiples of 1/128.
STEPS = (np.arange(-60, 60) / 128).astype("float32")


def wav(samples, rate=8000):
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def test_all_forms_of_samples_are_read_alike():
    forms = [
        STEPS,
        (STEPS * 2**7 + 2**7).astype("uint8"),
        (STEPS * 2**15).astype("int16"),
        (STEPS.astype("float64") * 2**31).astype("int32"),
        np.stack([STEPS + 0.25, STEPS - 0.25], 1),
    ]
    for samples in forms:
        np.testing.assert_array_equal(
            load_audio(wav(samples), 8000, 120), STEPS
        )


@pytest.mark.parametrize(
    ("rate", "up", "down"), [(8000, 2, 1), (22050, 320, 441)]
)
def test_rates_are_resampled_as_by_scipy(rate, up, down):
    time = np.arange(rate) / rate
    wave = (0.5 * np.sin(2 * np.pi * 440 * time)).astype("float32")
    found = load_audio(wav(wave, rate), 16000, 16000)
    np.testing.assert_allclose(
        found, signal.resample_poly(wave, up, down), atol=1e-6
    )
    # It is the same tone, one bin of the spectrum a hertz.
    assert np.abs(np.fft.rfft(found)).argmax() == 440


def test_the_middle_is_taken_and_ends_are_filled():
    x = np.arange(1, 6)
    assert fit_length(x, 5).tolist() == [1, 2, 3, 4, 5]
    assert fit_length(x, 3).tolist() == [2, 3, 4]
    assert fit_length(x, 2).tolist() == [2, 3]
    assert fit_length(x, 8).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


def test_a_wav_cut_anywhere_is_found(tmp_path):
    data = wav((WAVE * 2**15).astype("int16"))
    # What scipy would warn of, and what follows the samples, is no problem.
    whole = data[:36] + b"LIST\x04\0\0\0abcd" + data[36:] + b"id3 \x02\0\0\0xy"
    path = tmp_path / "a.wav"
    path.write_bytes(whole)
    assert check_sound(path)[1:] == (3000, 8000, None, None)
    missed = []
    for cut in [*range(11, 80), 3000, len(whole) - 3]:
        path.write_bytes(whole[:-cut])
        if check_sound(path)[3] is None:
            missed.append(cut)
    assert missed == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty, 0 bytes"),
        (b"just a text", "not a sound of WAV, FLAC, OGG"),
        (wav(STEPS[:0]), "no samples"),
        (wav(STEPS * np.nan), "values that are NaN"),
        (wav(STEPS)[:60], "truncated: "),
        (b"OggS", "truncated"),
    ],
)
def test_what_is_no_sound_is_told(data, reason, tmp_path):
    (tmp_path / "a.wav").write_bytes(data)
    assert check_sound(tmp_path / "a.wav")[3].startswith(reason)
    with pytest.raises(ValueError, match=f"cannot be used: {reason}"):
        load_audio(tmp_path / "a.wav", 8000, 10)


@pytest.fixture
def folder(tmp_path):
    """Sounds of two classes, in two rates, and three bad files."""
    for name in ("low", "high"):
        (tmp_path / name).mkdir()
        for i in range(8):
            rate = 8000 if i % 2 else 16000
            pitch = (200 if name == "low" else 1500) + 20 * i
            wave = 0.3 * np.sin(np.arange(rate // 4) * 2 * np.pi * pitch / rate)
            wavfile.write(tmp_path / name / f"{i}.wav", rate, wave)
    (tmp_path / "low" / "cut.wav").write_bytes(wav(WAVE)[:900])
    (tmp_path / "low" / "text.wav").write_text("no sound")
    (tmp_path / "high" / "silent.wav").write_bytes(wav(WAVE * 0))
    return tmp_path


def test_folder(folder):
    data = ft.audio_folder(
        folder, 8000, seconds=0.2, test_split=0.25, verbose=0
    )
    assert data.classes == ["high", "low"] and data.task == "classification"
    bad = [name for name, _ in data.bad_files]
    assert bad == ["low/cut.wav", "low/text.wav"]
    text = str(data)
    assert "17 sounds" in text and "8,000 Hz (9), 16,000 Hz (8)" in text
    assert "'high/silent.wav': silence" in text
    assert "17 sounds are longer than 0.2 s" in text
    x, y = data.arrays("train")
    assert x.shape == (data.sizes["train"], 1600) and x.dtype == "float32"
    for wave, path in zip(x, data.columns["train"]["path"], strict=True):
        np.testing.assert_array_equal(wave, load_audio(path, 8000, 1600))
    assert set(y) == {0, 1}
    assert (data.sampling_rate, data.seconds) == (8000, 0.2)
    with pytest.raises(ValueError, match="2 files cannot be used"):
        ft.audio_folder(folder, bad_files="refuse", verbose=0)
    with pytest.raises(ValueError, match="`seconds` must be a positive float"):
        ft.audio_folder(folder, seconds=0, verbose=0)


@pytest.fixture
def ramps(tmp_path):
    """Sounds whose values tell their places: i / 4096 at sample i."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            wave = np.arange(2000 + 300 * i + (name == "b")) / 4096
            path = tmp_path / name / f"{i}.wav"
            wavfile.write(path, 8000, wave.astype("float32"))
    return tmp_path


@pytest.mark.parametrize("cache", ["auto", False])
def test_training_draws_a_stretch_of_long_sounds_in_each_pass(ramps, cache):
    def read():
        options = {"test_split": 0.0, "validation_split": 0.4, "verbose": 0}
        return ft.audio_folder(
            ramps, 8000, 0.3, crop="random", cache=cache, **options
        )

    data, again = read(), read()
    assert "training draws a stretch of each" in str(data)
    starts, short = [], 0
    for _ in range(3):
        pairs = zip(data.train, again.train, strict=True)
        for (x, y), (same, labels) in pairs:
            # In another process, too, they hang on the pass alone.
            np.testing.assert_array_equal(x, same)
            np.testing.assert_array_equal(y, labels)
            x = x.numpy() * 4096
            cropped = x[:, -1] == x[:, 0] + 2399
            np.testing.assert_array_equal(
                x[cropped], x[cropped, :1] + np.arange(2400)
            )
            short += (~cropped).sum()
            starts.append(sorted(x[cropped, 0]))
    drawn = np.concatenate(starts)
    assert short and len(set(drawn)) > 6 and 0 <= drawn.min()
    assert starts[0] != starts[1] != starts[2]
    store = data.made_of[0].x
    assert bool(store.whole) == (cache == "auto")
    for split in ("validation", "train"):
        paths = data.columns[split]["path"]
        middles = [load_audio(path, 8000, 2400) for path in paths]
        np.testing.assert_array_equal(data.arrays(split)[0], middles)
    # A run that goes on with other examples must know it.
    middle = ft.audio_folder(
        ramps, 8000, 0.3, test_split=0.0, validation_split=0.4, verbose=0
    )
    assert middle.train.fingerprint != data.train.fingerprint
    assert middle.validation.fingerprint == data.validation.fingerprint
    x, _ = next(iter(data.validation))
    np.testing.assert_array_equal(x, data.arrays("validation")[0])


def test_the_cache_of_frozen_layers_knows_that_stretches_differ(ramps):
    data = ft.audio_folder(ramps, 8000, 0.1, crop="random", verbose=0)
    inputs = keras.Input((800,))
    x = keras.layers.Dense(3, name="below")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    plan = ft.plans.linear_probe(epochs=1)
    history = ft.fine_tune(model, plan, data.train, verbose=0)
    assert "other examples at each pass" in history.phases[0]["cache"]
    with pytest.raises(ValueError, match="`crop` must be one of"):
        ft.audio_folder(ramps, crop="centre", verbose=0)


def test_what_was_checked_to_be_an_image_is_checked_again(folder):
    with pytest.raises(ValueError, match="None of the 19 files can be used"):
        ft.image_folder(folder, 8, verbose=0)
    assert len(ft.audio_folder(folder, verbose=0).bad_files) == 2


def test_a_missing_package_is_told(folder, monkeypatch):
    (folder / "low" / "a.flac").write_bytes(b"fLaC")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="FLAC .* `pip install soundfile`"):
        ft.audio_folder(folder, verbose=0)


@pytest.mark.parametrize(("name", "error"), [("FLAC", 1e-4), ("OGG", 0.05)])
def test_compressed_files(name, error, tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="needs soundfile")
    path = tmp_path / f"a.{name.lower()}"
    soundfile.write(path, np.stack([WAVE, WAVE], 1), 8000, format=name)
    assert check_sound(path)[1:3] == (3000, 8000)
    assert np.abs(load_audio(path, 8000, 3000) - WAVE).max() < error
    data = path.read_bytes()
    for cut in (1, 20, len(data) // 2, len(data) - 20):
        path.write_bytes(data[:-cut])
        assert check_sound(path)[3] is not None
