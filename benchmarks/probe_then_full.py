"""The default plan against the recipe that people write by hand.

The recipe is that of `examples/vgg16_top_layers.py` on a MobileNet 0.25 with
ImageNet weights: all but the last four layers frozen; flatten, 256, 128 and
softmax; Adam at 1e-4, 10 epochs. Against it `ft.plans.linear_probe_then_full()`
at its defaults on the model that `ft.image_classifier` makes at its own. Both
get the same batches: photos that are rotated, zoomed and flipped at random.
Times run from building the model to its last weights, in turn, in one process.

    python benchmarks/probe_then_full.py --weights FILE --data FOLDER ...

Each FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; FILE is the official
notop file of MobileNet 0.25. Prints one table.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

SIZE = 160


def load(folder, seed):
    """The training photos, augmented, the test photos, and the classes."""
    train, test = (
        keras.utils.image_dataset_from_directory(
            folder / part,
            image_size=(SIZE, SIZE),
            shuffle=part == "train",
            seed=seed,
            verbose=False,
        )
        for part in ("train", "test")
    )
    augmentation = keras.layers.Pipeline(
        [
            keras.layers.RandomRotation(20 / 360),
            keras.layers.RandomZoom(0.15),
            keras.layers.RandomFlip("horizontal"),
        ]
    )
    augmented = train.map(lambda x, y: (augmentation(x, training=True), y))
    return augmented.prefetch(2), test.prefetch(2), len(train.class_names)


def make_backbone(weights):
    return ft.backbone(
        "MobileNet", input_shape=(SIZE, SIZE, 3), weights=weights, alpha=0.25
    )


def by_recipe(weights, train, num_classes):
    """Freeze all but the last four layers, one fit."""
    backbone = make_backbone(weights)
    model = ft.image_classifier(
        backbone, num_classes, pooling="flatten", hidden_units=(256, 128)
    )
    ft.freeze(model, backbone.layers[:-4])
    model.compile(
        keras.optimizers.Adam(1e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(train, epochs=10, verbose=0, shuffle=False)
    return model


def by_plan(weights, train, num_classes):
    """The named plan, at its defaults."""
    model = ft.image_classifier(make_backbone(weights), num_classes)
    ft.fine_tune(model, ft.plans.linear_probe_then_full(), train, verbose=0)
    return model


def measure(way, weights, folder, seed):
    """Test accuracy and seconds."""
    keras.utils.set_random_seed(seed)
    train, test, num_classes = load(folder, seed)
    begun = time.perf_counter()
    model = way(weights, train, num_classes)
    seconds = time.perf_counter() - begun
    return model.evaluate(test, verbose=0)[1], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, nargs="+", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.data:
        found = {by_recipe: [], by_plan: []}
        for seed in range(arguments.seeds):
            for way, results in found.items():
                results.append(measure(way, arguments.weights, folder, seed))
        recipe, plan = (np.mean(results, axis=0) for results in found.values())
        spread = [np.ptp(r, axis=0)[0] for r in found.values()]
        rows.append(
            [
                folder.name,
                f"{recipe[0]:.3f}",
                f"{plan[0]:.3f}",
                f"{100 * (plan[0] - recipe[0]):+.1f}",
                f"{100 * max(spread):.1f}",
                f"{recipe[1]:.1f}",
                f"{plan[1]:.1f}",
                f"{plan[1] / recipe[1]:.2f}",
            ]
        )
    header = [
        "data",
        "recipe",
        "plan",
        "points",
        "widest range",
        "recipe s",
        "plan s",
        "time ratio",
    ]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
