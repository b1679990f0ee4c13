"""The classic recipe: `fine_tune` against the same training by hand.

A frozen MobileNet 0.25 with ImageNet weights, a new head, 20 epochs with
validation each; once the head alone, once the head and the last layer group.
By hand means plain Keras: freeze, compile, `fit` with a callback that brings
the best weights back. Both start from the same weights and see the same
batches. Times run from compiling to the restored best weights.

    python benchmarks/classic_recipe.py --data FOLDER --weights FILE

FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; FILE is the official
notop file of MobileNet 0.25. Prints one table.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.model_selection import train_test_split

import finetune_keras as ft
from finetune_keras.data.table import format_table


def load(folder, size):
    """All photos of a folder, as arrays."""
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), shuffle=False, verbose=False
    )
    batches = list(dataset)
    return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def build(weights, size, num_classes):
    """The model, plain or ours: they are the same."""
    keras.utils.set_random_seed(0)
    backbone = ft.backbone(
        "MobileNet", input_shape=(size, size, 3), weights=weights, alpha=0.25
    )
    return ft.image_classifier(backbone, num_classes, dropout=0.2)


class EpochTimes(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begun)


def by_hand(model, layers, train, validation, epochs):
    """Plain Keras; returns the seconds of each epoch."""
    for layer in model.layers:
        layer.trainable = layer in layers
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    best = keras.callbacks.EarlyStopping(
        patience=epochs + 1, restore_best_weights=True
    )
    times = EpochTimes()
    model.fit(
        *train,
        validation_data=validation,
        epochs=epochs,
        callbacks=[times, best],
        verbose=0,
    )
    return times.seconds


def by_plan(model, phase, train, validation):
    """This library; returns the seconds of each epoch."""
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = ft.fine_tune(
        model, ft.Plan([phase]), train, validation, verbose=0
    )
    return history.history["seconds"]


def run(name, phase, arguments, train, validation, test):
    """One row: both ways from the same start."""
    results = []
    for way in ("hand", "plan"):
        model = build(arguments.weights, arguments.size, train[1].max() + 1)
        start = model.get_weights()
        keras.utils.set_random_seed(1)
        begun = time.perf_counter()
        if way == "hand":
            layers = phase.select(ft.layer_groups(model))
            seconds = by_hand(model, layers, train, validation, phase.epochs)
        else:
            seconds = by_plan(model, phase, train, validation)
        total = time.perf_counter() - begun
        accuracy = model.evaluate(*test, verbose=0)[1]
        later = float(np.median(seconds[1:]))
        results.append((total, later, accuracy, model.get_weights()))
    (a, a_epoch, a_acc, a_weights), (b, b_epoch, b_acc, b_weights) = results
    pairs = zip(a_weights, b_weights, strict=True)
    difference = max(np.abs(x - y).max() for x, y in pairs)
    moved = zip(a_weights, start, strict=True)
    moved = max(np.abs(x - y).max() for x, y in moved)
    return [
        name,
        f"{a:.1f}",
        f"{b:.1f}",
        f"{a / b:.1f}",
        f"{a_epoch / b_epoch:.1f}",
        f"{difference:.1e}",
        f"{moved:.1e}",
        f"{a_acc:.3f}",
        f"{b_acc:.3f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    x, y = load(f"{arguments.data}/train", arguments.size)
    test = load(f"{arguments.data}/test", arguments.size)
    x, x_val, y, y_val = train_test_split(
        x, y, test_size=0.2, stratify=y, random_state=0
    )
    rows = [
        run(name, ft.Phase(layers, epochs=arguments.epochs, learning_rate=1e-3),
            arguments, (x, y), (x_val, y_val), test)
        for name, layers in (("head", "head"), ("last group", 1))
    ]
    header = [
        "trains",
        "by hand s",
        "plan s",
        "ratio",
        "epoch ratio",
        "difference",
        "moved",
        "acc by hand",
        "acc plan",
    ]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
