"""Whether a warm-up helps where all layers train behind a solved head.

For each folder and seed the head of a MobileNet 0.25 is solved once. From there
each phase trains: that of `ft.plans.full()` at the rate of
`linear_probe_then_full` with several shares of warm-up, its cycle instead of
the cosine, and the short phase of `ft.advise`. Only training photos are used:
what is told is the loss on those that were split off for validation.

    python benchmarks/warmup.py --weights FILE --data FOLDER ... --seeds 2

Each FOLDER holds train/CLASS/*.jpg; FILE is the official notop file of
MobileNet 0.25. Prints one table of means over the seeds.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

SIZE = 160
ALL = {"layers": "all", "epochs": 5, "learning_rate": 1e-4}
SHORT = {"layers": 2, "epochs": 4, "learning_rate": 3e-4}
WAYS = {
    "cosine": ft.Phase(**ALL, schedule="cosine"),
    "cosine, 10 % warm-up": ft.Phase(
        **ALL, schedule="cosine", warmup_fraction=0.1
    ),
    "cosine, 20 %": ft.Phase(**ALL, schedule="cosine", warmup_fraction=0.2),
    "cosine, 40 %": ft.Phase(**ALL, schedule="cosine", warmup_fraction=0.4),
    "one_cycle": ft.Phase(**ALL, schedule="one_cycle"),
    "short, cosine": ft.Phase(**SHORT, schedule="cosine"),
    "short, 20 %": ft.Phase(**SHORT, schedule="cosine", warmup_fraction=0.2),
}


def load(folder, seed):
    return ft.image_folder(folder, image_size=SIZE, seed=seed, verbose=0)


def measure(weights, folder, seed, ways):
    """Validation losses: of the solved head, the first epoch and the best."""
    data = load(folder, seed)
    backbone = ft.backbone(
        "MobileNet", input_shape=(SIZE, SIZE, 3), weights=weights, alpha=0.25
    )
    model = ft.image_classifier(backbone, data.classes)
    start = ft.fine_tune(
        model, ft.plans.linear_probe(), data.train, data.validation, verbose=0
    )
    solved, weights = start.phases[0]["solved"]["val_loss"], model.get_weights()
    found = {}
    for name in ways:
        # In the order of their first epochs.
        data = load(folder, seed)
        keras.utils.set_random_seed(seed)
        model.set_weights(weights)
        model.compile("adam", "sparse_categorical_crossentropy")
        history = ft.fine_tune(
            model, ft.Plan([WAYS[name]]), data.train, data.validation, verbose=0
        )
        losses = history.history["val_loss"]
        found[name] = solved, losses[0], min(losses)
        print(folder.name, seed, name, np.round(found[name], 4), flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, nargs="+", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.data:
        runs = [
            measure(arguments.weights, folder, seed, arguments.ways)
            for seed in range(arguments.seeds)
        ]
        for name in arguments.ways:
            figures = np.array([found[name] for found in runs])
            rises = int(np.sum(figures[:, 1] > figures[:, 0]))
            cells = [f"{x:.3f}" for x in figures.mean(axis=0)]
            rows.append([folder.name, name, *cells, f"{rises} of {len(runs)}"])
    header = ["data", "phase", "solved head", "first epoch", "best epoch"]
    print(format_table([*header, "rises"], rows))


if __name__ == "__main__":
    main()
