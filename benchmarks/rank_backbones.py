"""How well the scores of `ft.rank_backbones` tell who wins after training.

Six backbones: MobileNet 0.25 and MobileNetV2 0.35, each on photos of three
sizes. They are ranked on the training photos; then each is fine-tuned on the
same photos by `ft.plans.linear_probe_then_full`, and judged on the test photos.
Prints the ranking, the results, and for each score its rank correlation
(Spearman) with them.

    python benchmarks/rank_backbones.py --data FOLDER \
        --mobilenet FILE --mobilenet-v2 FILE

FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg; the files are the official
notop files of MobileNet 0.25 and MobileNetV2 0.35.
"""

import argparse
import os
import pathlib
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from scipy.stats import spearmanr

import finetune_keras as ft
from finetune_keras.data.table import format_table

SHAPE = (160, 160, 3)
SCORES = ("log_loss", "accuracy", "logme", "h_score")


def backbone_of(name, weights, alpha, pixels):
    """A backbone that sees its photos in a size of its own."""
    size = (pixels, pixels)
    backbone = ft.backbone(name, (*size, 3), weights=weights, alpha=alpha)
    layers = [keras.Input(SHAPE), keras.layers.Resizing(*size), backbone]
    return keras.Sequential(layers, name=f"{name}_{pixels}".lower())


def fine_tuned(backbone, train, test, epochs, seed):
    """Test accuracy and log loss after a short fine-tuning, and seconds."""
    keras.utils.set_random_seed(seed)
    begun = time.perf_counter()
    model = ft.image_classifier(backbone, len(train.classes))
    plan = ft.plans.linear_probe_then_full(epochs=epochs)
    ft.fine_tune(model, plan, train.train, verbose=0)
    seconds = time.perf_counter() - begun
    found = ft.evaluate(model, test.train, bootstrap=0, verbose=0).metrics
    return found["accuracy"], found["log_loss"], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--mobilenet", required=True)
    parser.add_argument("--mobilenet-v2", required=True)
    parser.add_argument("--pixels", type=int, nargs="+", default=[96, 128, 160])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Images are smaller")
    train, test = (
        ft.image_folder(
            arguments.data / part,
            image_size=SHAPE[:2],
            validation_split=0,
            test_split=0,
            verbose=0,
        )
        for part in ("train", "test")
    )
    backbones = [
        backbone_of(name, weights, alpha, pixels)
        for name, weights, alpha in (
            ("MobileNet", arguments.mobilenet, 0.25),
            ("MobileNetV2", arguments.mobilenet_v2, 0.35),
        )
        for pixels in arguments.pixels
    ]
    ranking = ft.rank_backbones(backbones, train, verbose=0)
    print(ranking, flush=True)
    results = {
        name: fine_tuned(one, train, test, arguments.epochs, arguments.seed)
        for name, one in ranking.backbones.items()
    }
    report(ranking, results)


def report(ranking, results):
    """Prints what came of each backbone, and the rank correlations."""
    rows = [
        [name, *results[name]] for name in (r["name"] for r in ranking.rows)
    ]
    cells = [[n, f"{a:.3f}", f"{b:.3f}", f"{s:.0f}"] for n, a, b, s in rows]
    header = ["fine-tuned", "test accuracy", "test log loss", "seconds"]
    print(f"\n{format_table(header, cells)}\n")
    found = []
    for score in SCORES:
        sign = -1 if score == "log_loss" else 1
        values = [sign * row[score] for row in ranking.rows]
        accuracy = spearmanr(values, [row[1] for row in rows]).statistic
        loss = spearmanr(values, [-row[2] for row in rows]).statistic
        found.append([score, f"{accuracy:+.2f}", f"{loss:+.2f}"])
    header = ["Spearman of", "with test accuracy", "with test log loss"]
    print(format_table(header, found))


if __name__ == "__main__":
    main()
