"""A solved head against 20 epochs of it, and against scikit-learn's.

The same photos, the same frozen features of a MobileNet 0.25, kept in memory:
`ft.plans.linear_probe()`; its 20 epochs of Adam at 1e-3 without the solution;
and scikit-learn's logistic regression on the standardised features, with the
strength that the former has chosen. Seconds are the least of three runs behind
a first one, without those of the features.

    python benchmarks/linear_probe.py --weights FILE --data FOLDER ...

Each FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; FILE is the official
notop file of MobileNet 0.25. Prints a table for each.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import finetune_keras as ft
from finetune_keras.data.table import format_table
from finetune_keras.training.linear_probe import solve_probe

SIZE = 160


def features(folder, backbone):
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    reader = keras.Model(backbone.input, pooled)
    parts = []
    for split in ("train", "test"):
        photos = keras.utils.image_dataset_from_directory(
            folder / split,
            image_size=(SIZE, SIZE),
            shuffle=False,
            verbose=False,
        )
        found = [(reader.predict_on_batch(x), y.numpy()) for x, y in photos]
        parts += map(np.concatenate, zip(*found, strict=True))
    return parts


def by_plan(plan, x, y):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(x.shape[1:])
    # Stands for the backbone; the cache runs it once.
    same = keras.layers.Dense(x.shape[1], kernel_initializer="identity")
    body = keras.Model(inputs, same(inputs))
    model = ft.replace_head(body, int(y.max()) + 1)
    begun = time.perf_counter()
    ft.fine_tune(model, plan, (x, y), verbose=0)
    seconds = time.perf_counter() - begun
    kernel, bias = model.layers[-1].get_weights()
    return seconds, lambda x: x @ kernel + bias


def by_solver(x, y):
    begun = time.perf_counter()
    head = solve_probe(x, np.eye(y.max() + 1)[y], method="logistic")
    seconds = time.perf_counter() - begun
    return seconds, lambda x: x @ head.kernel + head.bias


def by_scikit_learn(x, y):
    chosen = solve_probe(x, np.eye(y.max() + 1)[y], method="logistic")
    scaler = StandardScaler().fit(x)
    begun = time.perf_counter()
    count = len(y) if y.max() > 1 else len(y) / 2
    head = LogisticRegression(
        C=1 / (count * chosen.strength), tol=1e-8, max_iter=10_000
    ).fit(scaler.transform(x), y)
    seconds = time.perf_counter() - begun

    def logits(x):
        found = head.decision_function(scaler.transform(x))
        return found if found.ndim > 1 else np.stack([-found, found], 1) / 2

    return seconds, logits


def quickest(way, *told):
    way(*told)  # what is made only once
    return min((way(*told) for _ in range(3)), key=lambda pair: pair[0])


def log_loss(logits, y):
    logits = logits - logits.max(axis=1, keepdims=True)
    sums = np.log(np.exp(logits).sum(axis=1))
    return np.mean(sums - logits[np.arange(len(y)), y])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
    told = parser.parse_args()
    phase = ft.plans.linear_probe()[0]
    for folder in told.data:
        backbone = ft.backbone(
            "MobileNet",
            input_shape=(SIZE, SIZE, 3),
            weights=told.weights,
            alpha=0.25,
        )
        x, y, test_x, test_y = features(folder, backbone)
        ways = {
            "linear_probe()": (by_plan, ft.plans.linear_probe()),
            "its 20 epochs": (by_plan, ft.Plan([phase])),
            "logistic alone": (by_solver,),
            "scikit-learn": (by_scikit_learn,),
        }
        rows = [
            [
                name,
                f"{seconds:.2f}",
                f"{log_loss(logits(x), y):.4f}",
                f"{log_loss(logits(test_x), test_y):.4f}",
                f"{np.mean(logits(test_x).argmax(1) == test_y):.3f}",
            ]
            for name, (way, *plan) in ways.items()
            for seconds, logits in [quickest(way, *plan, x, y)]
        ]
        columns = ["way", "seconds", "loss", "test loss", "test accuracy"]
        print(folder.name, format_table(columns, rows), sep="\n")


if __name__ == "__main__":
    main()
