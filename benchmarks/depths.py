"""What a solved head gains by reading several depths of a backbone.

The training photos of each folder are divided: 60 % solve the head, by which
cross-validation also chooses how many layer groups it reads, and the rest
judge it. The same at the size of the photos and at that of the weights.

    python benchmarks/depths.py --data FOLDER ... --mobilenet FILE \
        --mobilenet-v2 FILE

Each FOLDER holds train/CLASS/*.jpg; the FILEs are those of MobileNet 0.25 and
of MobileNetV2 0.35 without the top. Prints mean accuracies.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table
from finetune_keras.training.linear_probe import solve_probe

SIZES, SEEDS, GROUPS = (160, 224), 3, (1, 2, 4, 7, 99)


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
    rows = []
    for size in SIZES:
        found = [
            judge(*read(folder, size, *backbone), seed)
            for folder in told.data
            for backbone in backbones
            for seed in range(SEEDS)
        ]
        rows.append([size, *(f"{x:.3f}" for x in np.mean(found, axis=0))])
    print(format_table(["pixels", "the last", "all groups", "chosen"], rows))


if __name__ == "__main__":
    main()
