"""What photos without labels are worth beside few that have them.

For each folder and weights the features of all photos are made once, of the
backbone's last layer in the size of its weights. Of the training photos `--few`
of each class are to train on and as many to judge by; all others are taken as
if they had no labels. A solved head guesses these (`ft.pseudo_labels`), and
another one is solved on what is taken, too. Prints the test accuracy and the
log loss of both heads, how many guesses are taken, and the share of these that
are right, means over `--seeds` draws.

    python benchmarks/pseudo_labels.py --data FOLDER ... --mobilenet FILE \
        --mobilenet-v2 FILE --few 5 10 --precision 0.8 0.85 0.9

Each FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; the FILEs are those
of MobileNet 0.25 and of MobileNetV2 0.35 without the top.
"""

import argparse
import os
import pathlib
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

ALPHAS = {"MobileNet": 0.25, "MobileNetV2": 0.35}
SIZE = 224


def read(folder, name, weights):
    """Features and class ids of the training and of the test photos."""
    data = ft.image_folder(folder, SIZE, validation_split=0, verbose=0)
    backbone = ft.backbone(
        name, input_shape=(SIZE, SIZE, 3), weights=weights, alpha=ALPHAS[name]
    )
    model = ft.image_classifier(backbone, data.classes)
    reader = keras.Model(model.input, model.layers[-1].input)
    found = []
    for split in ("train", "test"):
        x, y = data.arrays(split)
        found += [reader.predict(x, verbose=0), y]
    return found


def draw(y, few, seed):
    """Places to train on and to judge by."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(y == c)) for c in np.unique(y)]
    return [
        np.concatenate([order[start : start + few] for order in orders])
        for start in (0, few)
    ]


def solved(data, classes):
    inputs = keras.Input(data.train.element_spec[0].shape[1:])
    # Where nothing has weights there is no backbone, and no head.
    same = keras.layers.Dense(inputs.shape[-1], kernel_initializer="identity")
    model = ft.replace_head(keras.Model(inputs, same(inputs)), int(classes))
    plan = ft.plans.linear_probe()
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    return model


def judged(model, x, y):
    """Accuracy and log loss."""
    p = np.asarray(model.predict_on_batch(x), "float64")
    loss = -np.log(p[np.arange(len(y)), y].clip(1e-12)).mean()
    return [(p.argmax(axis=1) == y).mean(), loss]


def measure(features, few, seed, precisions):
    """A row for the labelled ones alone, and one for each precision."""
    x, y, test_x, test_y = features
    keras.utils.set_random_seed(seed)
    train, judge = draw(y, few, seed)
    known = np.concatenate([train, judge])
    split = ["train"] * len(train) + ["validation"] * len(judge)
    data = ft.from_arrays(x[known], y[known], split=split, test_split=0)
    others = np.setdiff1d(np.arange(len(y)), known)
    model = solved(data, y.max() + 1)
    rows = [[*judged(model, test_x, test_y), 0, np.nan]]
    for precision in precisions:
        more = ft.pseudo_labels(model, data, x[others], precision)
        taken, guesses = more.arrays("train")
        taken = taken[more.columns["train"]["guessed"]]
        guesses = guesses[more.columns["train"]["guessed"]]
        truth = {row.tobytes(): label for row, label in zip(x, y, strict=True)}
        right = [truth[row.tobytes()] for row in taken] == guesses
        new = solved(more, y.max() + 1) if len(taken) else model
        share = np.mean(right) if len(taken) else np.nan
        rows.append([*judged(new, test_x, test_y), len(taken), share])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--mobilenet")
    parser.add_argument("--mobilenet-v2")
    parser.add_argument("--few", type=int, nargs="+", default=[5, 10])
    parser.add_argument(
        "--precision", type=float, nargs="+", default=[0.8, 0.85, 0.9]
    )
    parser.add_argument("--seeds", type=int, default=3)
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    weights = {"MobileNet": told.mobilenet, "MobileNetV2": told.mobilenet_v2}
    found = {}
    for folder in told.data:
        for name, file in weights.items():
            features = read(folder, name, file) if file else None
            for few in told.few if file else ():
                found[folder.name, name, few] = [
                    measure(features, few, seed, told.precision)
                    for seed in range(told.seeds)
                ]
                print(folder.name, name, few, flush=True)
    print(table(found, told))


def table(found, told):
    cells = []
    for few in told.few:
        runs = {key: rows for key, rows in found.items() if key[2] == few}
        runs["mean", "", few] = np.concatenate(list(runs.values()))
        for (folder, name, _), rows in runs.items():
            rows = np.array(rows)
            gains = rows[:, 1:, 0] - rows[:, :1, 0]
            errors = gains.std(axis=0) / np.sqrt(len(gains))
            means = np.nanmean(rows, axis=0)
            row = [
                f"{few}, {folder}, {name}",
                "{:.3f}, {:.2f}".format(*means[0]),
            ]
            for mean, error in zip(means[1:], errors, strict=True):
                told_row = "{:.3f}, {:.2f}, {:.0f} of {:.2f}".format(*mean)
                row.append(f"{told_row}, +- {error:.3f}")
            cells.append(row)
    return format_table(
        ["of each class", "labels", *map(str, told.precision)], cells
    )


if __name__ == "__main__":
    main()
