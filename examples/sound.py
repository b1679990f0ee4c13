"""From a folder of sounds to a bundle that takes file names.

The folder holds `CLASS/*.wav`, or FLAC and OGG. Without `--data` it is made
here: tones, chirps and noises in three sampling rates. A small network learns
their log-mel spectrograms, with noise and masks; the bundle is loaded again
and judged on files that were not trained on.

    python examples/sound.py
    python examples/sound.py --data sounds --backbone MobileNetV2 --epochs 20
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from scipy.io import wavfile

import finetune_keras as ft

RATES = (8000, 16000, 22050)


def make_sounds(folder, count, seed):
    """Writes `count` sounds of each class, of all rates and many lengths."""
    rng = np.random.default_rng(seed)
    for name, low, high in (("hum", 150, 250), ("whistle", 1200, 1500)):
        for i in range(count):
            rate, t = times(rng, i)
            wave = np.sin(2 * np.pi * rng.uniform(low, high) * t)
            write(folder, name, i, rate, wave * rng.uniform(0.05, 0.5), rng)
    for i in range(count):
        rate, t = times(rng, i)
        wave = rng.normal(size=len(t)) * rng.uniform(0.03, 0.2)
        write(folder, "rain", i, rate, wave, rng)
    return folder


def times(rng, number):
    """A sampling rate, and the times of the samples."""
    rate = RATES[number % len(RATES)]
    return rate, np.arange(int(rate * rng.uniform(0.4, 0.7))) / rate


def write(folder, name, number, rate, wave, rng):
    place = pathlib.Path(folder, name)
    place.mkdir(parents=True, exist_ok=True)
    wave = wave + rng.normal(size=len(wave)) * 0.01
    samples = (wave.clip(-1, 1) * 32767).astype("int16")
    wavfile.write(place / f"{number}.wav", rate, samples)


def small_backbone():
    """A small network on log-mel spectrograms, to be trained from scratch."""
    x = inputs = keras.Input((None, 32))
    for i, filters in enumerate((16, 32), start=1):
        x = keras.layers.Conv1D(filters, 5, strides=2, name=f"conv{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(inputs, x, name="small_net")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of classes")
    parser.add_argument("--backbone", help="one of keras.applications")
    parser.add_argument("--count", type=int, default=48, help="sounds to make")
    parser.add_argument("--sampling-rate", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--augmentation", default="light")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="sounds.keras")
    return parser.parse_args()


def main():
    arguments = parse()
    keras.utils.set_random_seed(arguments.seed)
    folder = arguments.data or make_sounds("sounds", arguments.count, 0)
    size = arguments.sampling_rate, arguments.seconds
    data = ft.audio_folder(
        folder, *size, test_split=0.25, batch_size=16, verbose=0
    )
    print(data)
    model = ft.audio_classifier(
        arguments.backbone or small_backbone(),
        data.classes,
        *size,
        augmentation=arguments.augmentation,
    )
    # The head is solved, then all is trained.
    plan = ft.plans.linear_probe_then_full(
        epochs=arguments.epochs, learning_rate=arguments.learning_rate
    )
    start = time.time()
    ft.fine_tune(model, plan, data.train, data.validation, verbose=2)
    print(f"Training took {time.time() - start:.1f} s.")
    print(ft.evaluate(model, data.test, classes=data.classes, verbose=0))
    bundle = ft.load_bundle(ft.save_bundle(model, arguments.output, data))
    predictions = bundle.predict(list(data.columns["test"]["path"]))
    print(predictions[0])
    labels = [name.split("/")[-2] for name in data.columns["test"]["path"]]
    right = np.array(predictions.labels) == np.array(labels)
    print(f"Accuracy of the bundle, given file names: {right.mean():.3f}")


if __name__ == "__main__":
    main()
