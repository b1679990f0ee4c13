"""What each augmentation preset does to the accuracy with few photos.

A MobileNet 0.25 with ImageNet weights, fine-tuned on 30 photos a class by
`ft.plans.linear_probe_then_full()`, without augmentation and with each preset
as a part of the model. Test accuracy on all test photos, mean over the seeds,
each of which draws other photos; the seconds are those of `fine_tune`.

    python benchmarks/augmentation_presets.py --data FOLDER --weights FILE

FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; FILE is the official
notop file of MobileNet 0.25. Prints one table.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

SIZE = 160


def few(x, y, per_class, seed):
    """Draws some photos of each class."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [
            rng.choice(np.flatnonzero(y == label), per_class, replace=False)
            for label in np.unique(y)
        ]
    )
    rows = rng.permutation(rows)
    return x[rows], y[rows]


def measure(augmentation, weights, train, test, epochs, seed):
    """Test accuracy and seconds."""
    keras.utils.set_random_seed(seed)
    backbone = ft.backbone(
        "MobileNet", input_shape=(SIZE, SIZE, 3), weights=weights, alpha=0.25
    )
    if augmentation is not None:
        augmentation = ft.image_augmentation(augmentation, seed=seed)
    model = ft.image_classifier(
        backbone, int(test[1].max()) + 1, augmentation=augmentation
    )
    plan = ft.plans.linear_probe_then_full(epochs=epochs)
    begun = time.perf_counter()
    ft.fine_tune(model, plan, train, verbose=0)
    seconds = time.perf_counter() - begun
    return model.evaluate(*test, verbose=0)[1], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--per-class", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = ft.image_folder(
        arguments.data, image_size=SIZE, validation_split=0, verbose=0
    )
    (x, y), test = data.arrays("train"), data.arrays("test")
    rows, base = [], None
    for preset in (None, "light", "medium", "strong"):
        found = [
            measure(
                preset,
                arguments.weights,
                few(x, y, arguments.per_class, seed),
                test,
                arguments.epochs,
                seed,
            )
            for seed in range(arguments.seeds)
        ]
        accuracy, seconds = np.mean(found, axis=0)
        base = accuracy if base is None else base
        rows.append(
            [
                preset or "none",
                f"{accuracy:.3f}",
                f"{100 * (accuracy - base):+.1f}",
                " ".join(f"{a:.3f}" for a, _ in found),
                f"{seconds:.1f}",
            ]
        )
    header = ["preset", "accuracy", "points", "by seed", "seconds"]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
