"""What ensembles, soups and views of a photo gain over one fine-tuned model.

Models of the same plan from one start, ImageNet weights and head, with other
photos held out and in another order. Photos that took no part in that choose
weights and views. Each row compares with the mean member, rows of views with
the first one, on the test photos: the gain in accuracy, and in log loss with
the 95 % interval of the difference, drawn over the examples in pairs.

    python benchmarks/ensembles.py --weights FILE --data FOLDER ...

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


def load(folder, part):
    """All photos of a part, their classes, and the names of these."""
    dataset = keras.utils.image_dataset_from_directory(
        folder / part, image_size=(SIZE, SIZE), shuffle=False, verbose=False
    )
    x, y = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y), dataset.class_names


def fine_tuned(weights, classes, train, validation, seed):
    keras.utils.set_random_seed(0)
    backbone = ft.backbone(
        "MobileNet", input_shape=(SIZE, SIZE, 3), weights=weights, alpha=0.25
    )
    model = ft.image_classifier(backbone, classes)
    keras.utils.set_random_seed(seed)
    plan = ft.plans.discriminative(learning_rate=1e-3, epochs=6)
    ft.fine_tune(model, plan, train, validation, verbose=0)
    return model


def split(count, seed, share=0.15):
    """Places of the photos to train on, and of those held out."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = int(count * share)
    return order[held_out:], order[:held_out]


def candidates(models, train, chosen):
    """Yields `(name, model)` of each way to make one of several."""
    yield "mean of all", ft.ensemble(models)
    yield "greedy", ft.ensemble(models, chosen, "greedy")
    yield "stacking", ft.ensemble(models, chosen, "stacking")
    yield "soup", ft.average_weights(models, data=train)
    yield (
        "greedy soup",
        ft.average_weights(models, chosen, "greedy", data=train),
    )
    yield "flip", ft.test_time_augmentation(models[0], ["flip"])
    yield "flip, zoom", ft.test_time_augmentation(models[0])
    yield (
        "views chosen",
        ft.test_time_augmentation(
            models[0], ("flip", "zoom", "scales"), chosen
        ),
    )


def losses(model, test):
    """Loss and hit of each test photo."""
    scores = model.predict(test[0], verbose=0)
    rows = np.arange(len(test[1]))
    likely = np.clip(scores[rows, test[1]], 1e-7, 1)
    return -np.log(likely), scores.argmax(1) == test[1]


def gain(found, base, rng):
    """`(mean, low, high)` of the differences, over resampled examples."""
    differences = base - found
    drawn = rng.integers(0, len(differences), (1000, len(differences)))
    low, high = np.percentile(differences[drawn].mean(1), [2.5, 97.5])
    return differences.mean(), low, high


def measure(folder, weights, seeds):
    x, y, classes = load(folder, "train")
    test = load(folder, "test")[:2]
    # Photos that choose weights and views took no part in any training.
    rest, held_out = split(len(y), 1234)
    chosen, models = (x[held_out], y[held_out]), []
    for seed in range(seeds):
        fit, judge = (rest[part] for part in split(len(rest), seed))
        train, validation = (x[fit], y[fit]), (x[judge], y[judge])
        models.append(fine_tuned(weights, classes, train, validation, seed))
    alone = [losses(model, test) for model in models]
    rng = np.random.default_rng(0)
    rows = [
        [folder.name, "members", f"{hits:.3f}", "", f"{loss:.3f}", "", ""]
        for loss, hits in [np.mean(alone, axis=(0, 2))]
    ]
    for name, model in candidates(models, (x[rest], y[rest]), chosen):
        begun = time.perf_counter()
        found = losses(model, test)
        seconds = time.perf_counter() - begun
        # Views are those of the first model alone.
        base = alone[0] if "view" in name or "flip" in name else None
        base = np.mean(alone, axis=0) if base is None else base
        mean, low, high = gain(found[0], base[0], rng)
        rows.append(
            [
                folder.name,
                name,
                f"{found[1].mean():.3f}",
                f"{100 * (found[1].mean() - base[1].mean()):+.1f}",
                f"{found[0].mean():.3f}",
                f"{mean:+.3f} ({low:+.3f} to {high:+.3f})",
                f"{seconds:.1f}",
            ]
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, nargs="+", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.data:
        rows += measure(folder, arguments.weights, arguments.seeds)
    header = [
        "data",
        "way",
        "accuracy",
        "points",
        "log loss",
        "less log loss",
        "test s",
    ]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
