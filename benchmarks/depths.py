"""What a solved head gains by several depths, and what it makes of few photos.

The training photos of each folder are divided: 60 % solve the head, by which
cross-validation also chooses how many layer groups it reads, and the rest
judge it. The same at the size of the photos and at that of the weights. Then
1 to 20 photos of each class solve a head on the last features: beside it stand
the logistic regression of scikit-learn (C=1, standardised features), the
nearest class mean and a cache of the photos as that of Tip-Adapter, both by
cosines; the log loss of these two is the least at any temperature.

    python benchmarks/depths.py --data FOLDER ... --mobilenet FILE \
        --mobilenet-v2 FILE

Each FOLDER holds train/CLASS/*.jpg; the FILEs are those of MobileNet 0.25 and
of MobileNetV2 0.35 without the top. Prints mean accuracies and log losses.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

import finetune_keras as ft
from finetune_keras.data.table import format_table
from finetune_keras.training.linear_probe import solve_probe

SIZES, SEEDS, GROUPS = (160, 224), 3, (1, 2, 4, 7, 99)
FEW, SHARPNESS = (1, 2, 5, 10, 20), 5.5


def read(folder, size, name, weights, alpha):
    """Features of each depth, and the labels."""
    photos = keras.utils.image_dataset_from_directory(
        folder / "train",
        image_size=(size, size),
        shuffle=False,
        verbose=False,
    )
    backbone = ft.backbone(
        name, input_shape=(size, size, 3), weights=weights, alpha=alpha
    )
    model = ft.image_classifier(backbone, 2, features="blocks")
    depths = model.get_layer("head_features").input
    reader = keras.Model(model.input, depths)
    found = [(reader.predict_on_batch(x), y.numpy()) for x, y in photos]
    parts = zip(*[features for features, _ in found], strict=True)
    labels = np.concatenate([y for _, y in found])
    return [np.concatenate(part) for part in parts], labels


def judge(depths, labels, seed):
    """Accuracies of heads on the last, on all, and on the chosen depths."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rest, used = np.split(order, [int(0.4 * len(order))])
    targets, losses, right = np.eye(labels.max() + 1)[labels], {}, {}
    for n in GROUPS:
        x = np.concatenate(depths[-n:], axis=1)
        probe = solve_probe(x[used], targets[used])
        logits = x[rest] @ probe.kernel + probe.bias
        losses[n] = probe.loss
        right[n] = np.mean(logits.argmax(axis=1) == labels[rest])
    chosen = min(losses, key=losses.get)
    return right[1], right[GROUPS[-1]], right[chosen]


def judge_few(x, labels, count, seed):
    """Rows (accuracy, log loss) of ways to learn from `count` of each class."""
    rng, rows = np.random.default_rng(seed), np.arange(len(labels))
    used = [rng.permutation(rows[labels == y])[:count] for y in set(labels)]
    used = np.concatenate(used)
    rest, y = np.setdiff1d(rows, used), labels[used]
    targets = np.eye(labels.max() + 1)[y]
    probe = solve_probe(x[used], targets)
    scaler = StandardScaler().fit(x[used])
    head = LogisticRegression(max_iter=9999).fit(scaler.transform(x[used]), y)
    logits = head.decision_function(scaler.transform(x[rest]))
    if logits.ndim == 1:
        logits = np.stack([-logits, logits], axis=1) / 2
    near = normalize(x)
    means = normalize(targets.T @ near[used])
    alike = np.exp(SHARPNESS * (near[rest] @ near[used].T - 1))
    found = [
        (x[rest] @ probe.kernel + probe.bias, False),
        (logits, False),
        (near[rest] @ means.T, True),
        (alike @ targets, True),
    ]
    return [_scores(*one, labels[rest]) for one in found]


def _scores(logits, free, y):
    def loss(log_factor):
        chances = log_softmax(logits * np.exp(log_factor), axis=1)
        return -chances[np.arange(len(y)), y].mean()

    least = minimize_scalar(loss, bounds=(-9, 9), method="bounded").fun
    return np.mean(logits.argmax(axis=1) == y), least if free else loss(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--mobilenet", required=True)
    parser.add_argument("--mobilenet-v2", required=True)
    told = parser.parse_args()
    backbones = [
        ("MobileNet", told.mobilenet, 0.25),
        ("MobileNetV2", told.mobilenet_v2, 0.35),
    ]
    rows, few = [], []
    for size in SIZES:
        found = []
        for folder in told.data:
            for backbone in backbones:
                depths, y = read(folder, size, *backbone)
                found += [judge(depths, y, seed) for seed in range(SEEDS)]
                few += [
                    [judge_few(depths[-1], y, n, seed) for n in FEW]
                    for seed in range(SEEDS)
                    if size == SIZES[0]
                ]
        rows.append([size, *(f"{x:.3f}" for x in np.mean(found, axis=0))])
    print(format_table(["pixels", "the last", "all groups", "chosen"], rows))
    ways = ["solved head", "scikit-learn", "class means", "cache"]
    rows = [
        [n, *(f"{right:.3f}, {loss:.2f}" for right, loss in row)]
        for n, row in zip(FEW, np.mean(few, axis=0), strict=True)
    ]
    print(format_table(["of a class", *ways], rows))


if __name__ == "__main__":
    main()
