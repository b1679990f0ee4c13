"""The guides of keras.io on sound, with a small random model in each.

What a guide does is done here by this library: the data read from files, the
model given a head, trained, judged, and saved as a bundle that is asked by
file names. Voices are made: sums of overtones with an envelope of their own.

    python benchmarks/guides_sound.py
"""

import contextlib
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scipy.io import wavfile

import finetune_keras as ft

RATE, SECONDS = 8000, 0.5


def make_voices(folder, count=30):
    rng = np.random.default_rng(0)
    for speaker in range(4):
        formant = 500 + 450 * speaker
        place = pathlib.Path(folder, f"speaker_{speaker}")
        place.mkdir(parents=True)
        for i in range(count):
            t = np.arange(int(16000 * 0.6)) / 16000
            tones = rng.uniform(90, 220) * np.arange(1, 25)
            loud = np.exp(-(((tones - formant) / 250) ** 2))
            wave = np.sin(2 * np.pi * tones * t[:, None]) @ loud
            wave = 0.3 * wave / np.abs(wave).max()
            wave += rng.normal(size=len(t)) * 0.03
            wavfile.write(place / f"{i}.wav", 16000, wave.astype("float32"))


def by_spectrum():
    """Speaker recognition: residual 1D convolutions on the spectrum."""
    inputs = keras.Input((int(RATE * SECONDS),))
    real, imaginary = ops.fft((inputs, inputs * 0.0))
    half = ops.sqrt(real**2 + imaginary**2)[:, : inputs.shape[1] // 2]
    x = keras.layers.Reshape((-1, 1))(half)
    for i, filters in enumerate((8, 16), start=1):
        convolution = {"padding": "same", "strides": 2}
        shortcut = keras.layers.Conv1D(filters, 1, **convolution)(x)
        x = keras.layers.Conv1D(
            filters, 5, activation="relu", name=f"block{i}_conv", **convolution
        )(x)
        x = keras.layers.Add(name=f"block{i}_add")([x, shortcut])
        x = keras.layers.MaxPooling1D(4, name=f"block{i}_pool")(x)
    return keras.Model(inputs, x), {"pooling": "flatten"}


class SmallYAMNet(tf.Module):
    """As YAMNet: one waveform to scores, embeddings and spectrogram."""

    def __init__(self):
        super().__init__()
        kernel = np.random.default_rng(0).normal(size=(129, 64)) / 4
        self.kernel = tf.Variable(kernel.astype("float32"), name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None], "float32")])
    def __call__(self, waveform):
        frames = tf.signal.stft(waveform, 256, 128)
        spectrogram = tf.math.log(tf.abs(frames) + 1e-2)
        embeddings = tf.nn.relu(spectrogram @ self.kernel)
        return tf.reduce_mean(embeddings, 0), embeddings, spectrogram


def by_savedmodel():
    """Accents with YAMNet: dense layers on what a SavedModel gives."""
    tf.saved_model.save(SmallYAMNet(), "yamnet")
    inputs = keras.Input((int(RATE * SECONDS),))
    layer = ft.HubLayer("yamnet", output_key=1, per_example=True, name="yamnet")
    backbone = keras.Model(inputs, layer(inputs))
    return backbone, {"hidden_units": (32,), "dropout": 0.1}


def by_log_mel():
    """A small classifier of images, on spectrograms."""
    x = inputs = keras.Input((48, 64, 1))
    for i, filters in enumerate((8, 16, 32), start=1):
        x = keras.layers.Conv2D(filters, 3, strides=2, name=f"conv{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(inputs, x), None


def run(name, build, plan):
    keras.utils.set_random_seed(0)
    data = ft.audio_folder(
        "voices", RATE, SECONDS, test_split=0.25, batch_size=16, verbose=0
    )
    backbone, head = build()
    if head is None:
        model = ft.audio_classifier(
            backbone, data.classes, RATE, SECONDS, pooling="flatten"
        )
    else:
        model = ft.replace_head(backbone, len(data.classes), **head)
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    path = ft.save_bundle(model, f"{name}.keras", data)
    bundle = ft.load_bundle(path, safe_mode=name != "YAMNet")
    paths = data.columns["test"]["path"]
    found = bundle.predict(list(paths)).labels
    labels = [pathlib.Path(path).parent.name for path in paths]
    right = np.mean(np.array(found) == labels)
    groups = [group.name for group in ft.layer_groups(model)]
    accuracy = report.metrics["accuracy"]
    print(f"{name:12} judged {accuracy:.3f}  bundle {right:.3f}  {groups}")


def main():
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_voices("voices")
        run("spectrum", by_spectrum, ft.plans.full(12, 3e-3))
        run("YAMNet", by_savedmodel, ft.plans.full(30, 1e-2))
        run("log-mel", by_log_mel, ft.plans.full(12, 3e-3))


if __name__ == "__main__":
    main()
