"""Whether guesses are worth more to a model that sees them augmented.

To say of a changed photo what was guessed of the plain one is what consistency
asks for, as FixMatch does. Of the training photos `--few` of each class are to
train on and as many to judge by; a solved head guesses the others
(`ft.pseudo_labels`). `linear_probe_then_full` then trains on the labels alone,
and on labels and guesses, on plain photos and on augmented ones. Prints the
test accuracy and the log loss of the solved head and of these four, means over
the folders and `--seeds` draws.

    python benchmarks/consistency.py --data FOLDER ... --mobilenet FILE

Each FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; FILE is the official
notop file of MobileNet 0.25.
"""

import argparse
import os
import pathlib
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from pseudo_labels import draw, judged

import finetune_keras as ft
from finetune_keras.data.table import format_table

SIZE = 160
WAYS = {
    "labels": (False, None),
    "labels, augmented": (False, "medium"),
    "and guesses": (True, None),
    "and guesses, augmented": (True, "medium"),
}


def trained(data, augmentation, plan, seed, weights):
    keras.utils.set_random_seed(seed)
    backbone = ft.backbone(
        "MobileNet", input_shape=(SIZE, SIZE, 3), weights=weights, alpha=0.25
    )
    model = ft.image_classifier(
        backbone, data.classes, augmentation=augmentation
    )
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    return model


def measure(folder, weights, few, seed):
    """Accuracy and log loss of the solved head, and of each way."""
    photos = ft.image_folder(folder, SIZE, validation_split=0, verbose=0)
    (x, y), test = photos.arrays("train"), photos.arrays("test")
    parts = draw(y, few, seed)
    known = np.concatenate(parts)
    split = np.repeat(["train", "validation"], [len(part) for part in parts])
    data = ft.from_arrays(x[known], y[known], split=list(split), test_split=0)
    head = trained(data, None, ft.plans.linear_probe(), seed, weights)
    others = np.setdiff1d(np.arange(len(y)), known)
    more = ft.pseudo_labels(head, data, x[others])
    plan = ft.plans.linear_probe_then_full(epochs=10)
    models = [
        trained(more if guesses else data, augmentation, plan, seed, weights)
        for guesses, augmentation in WAYS.values()
    ]
    return [judged(model, *test) for model in (head, *models)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--mobilenet", required=True)
    parser.add_argument("--few", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    found = [
        measure(folder, told.mobilenet, told.few, seed)
        for seed in range(told.seeds)
        for folder in told.data
    ]
    rows = [
        [name, f"{mean[0]:.3f}", f"{mean[1]:.2f}"]
        for name, mean in zip(
            ("solved head", *WAYS), np.mean(found, axis=0), strict=True
        )
    ]
    print(format_table(["trained on", "accuracy", "log loss"], rows))


if __name__ == "__main__":
    main()
