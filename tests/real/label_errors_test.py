"""Wrong labels among real photos are found by their features."""

import numpy as np

import finetune_keras as ft
from finetune_keras.data.task_kinds import Classification
from finetune_keras.training.linear_probe import solve_probe

WEIGHTS = "weights/mobilenet_v2_0.35_224_no_top.h5"


def test_flipped_labels_are_among_the_first_suspects(shared_data):
    data = ft.image_folder(
        shared_data / "flowers-160" / "train",
        image_size=128,
        validation_split=0,
        test_split=0,
        verbose=0,
    )
    backbone = ft.backbone(
        "MobileNetV2",
        input_shape=(128, 128, 3),
        weights=shared_data / WEIGHTS,
        alpha=0.35,
    )
    x, y = data.arrays("train")
    features = backbone.predict(x, verbose=0).mean(axis=(1, 2))
    rng = np.random.default_rng(0)
    flipped = rng.permutation(len(y))[: len(y) // 20]
    y[flipped] = (y[flipped] + rng.integers(1, 5, len(flipped))) % 5
    probe = solve_probe(features, np.eye(5)[y], method="ridge")
    probabilities = Classification().softened(probe.left_out)
    found = ft.find_label_errors(y, probabilities, data.classes)
    first = found.order[: len(y) // 10]
    assert np.isin(flipped, first).mean() >= 0.7
    suspects = [row["index"] for row in found.rows]
    assert np.isin(flipped, suspects).mean() > 0.6
    assert len(suspects) < len(y) / 5
