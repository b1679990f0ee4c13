"""Fine-tuning against training from scratch, on handwritten digits.

A small CNN learns the digits 0 to 4. It then learns 5 to 9 from 10 images a
class, fine-tuned, next to the same network from random weights. Both see the
same images for the same number of epochs; all other images of 5 to 9 are the
test. The recipe below was fixed beforehand, on other seeds than these.

Each digit, 8 x 8 pixels, stands at a random place of a frame. That is what
pretraining is for here: where digits stand is learnt from many images and
holds for new digits too. In the middle (`--frame 8`) 50 images are enough to
learn from scratch, and what is known of other digits is no help.

`digits.npz` has the 1,797 test images of "Optical Recognition of Handwritten
Digits" (Alpaydin and Kaynak, 1998; UCI Machine Learning Repository, CC BY 4.0),
as scikit-learn has them.

    python examples/quickstart.py
"""

import argparse
import pathlib
import time

import keras
import numpy as np

import finetune_keras as ft

DIGITS = pathlib.Path(__file__).with_name("digits.npz")
PER_CLASS = 10
PROBE_EPOCHS = 7
EPOCHS = 20
PRETRAIN_PASSES = 30
HEAD = {"pooling": "flatten", "dropout": 0.5}


def place(images, frame, rng):
    """Puts each image at a random place of an empty frame."""
    placed = np.zeros((len(images), frame, frame, 1), "float32")
    for image, target in zip(images, placed, strict=True):
        top, left = rng.integers(0, frame - 8, size=2, endpoint=True)
        target[top : top + 8, left : left + 8, 0] = image / 16
    return placed


def split(labels, rng):
    """Draws `PER_CLASS` images of each new digit; the others are the test."""
    new = [rng.permutation(np.flatnonzero(labels == k)) for k in range(5, 10)]
    train = np.concatenate([indices[:PER_CLASS] for indices in new])
    test = np.concatenate([indices[PER_CLASS:] for indices in new])
    return train, test


def small_cnn(frame):
    inputs = x = keras.Input((frame, frame, 1))
    for number, filters in enumerate((16, 32, 64), start=1):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=f"conv{number}"
        )(x)
        x = keras.layers.MaxPooling2D(name=f"pool{number}")(x)
    backbone = keras.Model(inputs, x, name="small_cnn")
    return ft.replace_head(backbone, num_classes=5, **HEAD)


def fit(model, x, y, learning_rate, epochs, batch_size=10):
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0)


def pretrain(images, labels, frame, rng):
    old = labels < 5
    passes = [place(images[old], frame, rng) for _ in range(PRETRAIN_PASSES)]
    model = small_cnn(frame)
    y = np.tile(labels[old], PRETRAIN_PASSES)
    fit(model, np.concatenate(passes), y, 2e-3, epochs=1, batch_size=32)
    return model


def fine_tune(pretrained, x, y, verbose=False):
    model = ft.replace_head(pretrained, num_classes=5, **HEAD)
    ft.freeze(model, "backbone")
    if verbose:
        print(ft.trainable_summary(model, "adam"), "\n")
    fit(model, x, y, 1e-2, PROBE_EPOCHS)
    ft.unfreeze(model)
    fit(model, x, y, 2e-3, EPOCHS - PROBE_EPOCHS)
    return model


def train_from_scratch(frame, x, y):
    model = small_cnn(frame)
    fit(model, x, y, 5e-3, EPOCHS)
    return model


def run(seed, frame):
    """Returns the test accuracy of both, fine-tuned first."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    with np.load(DIGITS) as digits:
        images, labels = digits["images"], digits["labels"].astype("int64")
    pretrained = pretrain(images, labels, frame, rng)
    train, test = split(labels, rng)
    x, y = place(images[train], frame, rng), labels[train] - 5
    x_test, y_test = place(images[test], frame, rng), labels[test] - 5
    models = (
        fine_tune(pretrained, x, y, verbose=seed == 0),
        train_from_scratch(frame, x, y),
    )
    return [m.evaluate(x_test, y_test, verbose=0)[1] for m in models]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--frame", type=int, default=16)
    arguments = parser.parse_args()
    start = time.time()
    print("Test accuracy on the digits 5 to 9, 10 training images a class")
    rows = []
    for seed in range(arguments.seeds):
        rows.append(run(seed, arguments.frame))
        if seed == 0:
            print("seed  fine-tuned  from scratch  difference")
        print_row(seed, rows[-1])
    print_row("mean", np.mean(rows, axis=0))
    print(f"{time.time() - start:.0f} s")


def print_row(name, row):
    tuned, scratch = row
    print(
        f"{name!s:4}  {tuned:10.3f}  {scratch:12.3f}  {tuned - scratch:+10.3f}"
    )


if __name__ == "__main__":
    main()
