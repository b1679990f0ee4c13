"""A search whose trials share the frozen prefix, against the same without.

Twenty trials of a random search over head, rates and groups on a MobileNet 0.25
with ImageNet weights, three times: activations shared by all trials; computed
by each trial for itself, as one `fine_tune` does; and computed in every epoch,
as a plain `model.fit` does. Same seeds, same values.

    python benchmarks/shared_prefix_search.py --weights FILE --data FOLDER

FOLDER holds train/CLASS/*.jpg; FILE is the official notop file of MobileNet
0.25. Prints one table.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import finetune_keras as ft
from finetune_keras.data.table import format_table

SIZE = 160
WAYS = {
    "shared by the trials": {},
    "in each trial": {"share": False},
    "in each epoch": {"share": False, "cache": "off"},
}


def builder(weights, classes):
    def build(hp):
        backbone = ft.backbone(
            "MobileNet",
            input_shape=(SIZE, SIZE, 3),
            weights=weights,
            alpha=0.25,
        )
        return ft.image_classifier(backbone, classes, **ft.model_options(hp))

    return build


def make_space(epochs):
    return ft.search_space(
        groups=[0, 1, 2],
        phases=[2, 1],
        order=False,
        epochs=[epochs, epochs // 2],
        dropout=[0.2, 0.0, 0.5],
    )


def run(arguments, data, trials, options):
    """Returns seconds and results of one search."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = ft.tune(
            builder(str(arguments.weights), data.classes),
            data.train,
            data.validation,
            make_space(arguments.epochs),
            arguments.algorithm,
            trials,
            pathlib.Path(folder, "search"),
            objective="val_accuracy",
            verbose=0,
            **options,
        )
        return time.perf_counter() - start, found.trials


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--algorithm", default="random")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    data = ft.image_folder(
        arguments.data,
        image_size=SIZE,
        validation_split=0.2,
        crop_to_aspect_ratio=True,
    )
    run(arguments, data, 1, {})  # reads the photos, and warms up
    rows, first = [], None
    for way, options in WAYS.items():
        seconds, trials = run(arguments, data, arguments.trials, options)
        if first is None:
            first = seconds, [trial["score"] for trial in trials]
        scores = [trial["score"] for trial in trials]
        apart = [abs(a - b) for a, b in zip(first[1], scores, strict=True)]
        rows.append(
            [
                way,
                f"{seconds:.1f}",
                f"{seconds / first[0]:.1f}",
                f"{max(scores):.4f}",
                sum(a > 0 for a in apart),
                f"{max(apart):.4f}",
            ]
        )
        print(f"{way}: {seconds:.1f} s", flush=True)
    header = ["activations", "seconds", "times as long", "best score"]
    header += ["other scores", "by at most"]
    print(f"{arguments.algorithm}, {arguments.trials} trials")
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
