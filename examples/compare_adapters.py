"""Adapters beside a linear probe and full fine-tuning, on one task.

Each way starts from the same pretrained BERT and trains on the same sentences:
what it trains, how long a step takes, how much the optimizer and the file
take, and how well it does on the test. The data are a folder with `train.tsv`
and `test.tsv`, lines of `label<TAB>sentence` with a header.

    python examples/compare_adapters.py --data sst2
"""

import argparse
import json
import os
import pathlib
import tempfile

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

# The method, a learning rate in the range that its paper uses, and epochs. LoRA
# takes longer than all layers, at less time for each: its rate, strength and
# dropout, and those of full, were chosen on other sentences than the test's.
STRONG = {"rank": 8, "alpha": 32, "dropout": 0.1}
WAYS = {
    "linear probe": (None, 1e-3, 3),
    "BitFit": (ft.BitFit(), 1e-3, 3),
    "norms": (ft.NormTuning(), 1e-3, 3),
    "(IA)3": (ft.IA3(), 5e-3, 3),
    "LoRA": (ft.LoRA(**STRONG), 1e-3, 6),
    "rsLoRA": (ft.LoRA(rank=8, variant="rslora"), 1e-3, 6),
    "DoRA": (ft.LoRA(**STRONG, variant="dora"), 1e-3, 6),
    "bottleneck": (ft.Bottleneck(), 1e-3, 3),
    "prefix": (ft.PrefixTuning(), 5e-3, 3),
    "prompt": (ft.PromptTuning(), 3e-2, 3),
    "P-tuning": (ft.PTuning(), 1e-3, 3),
    "full": (None, 5e-5, 3),
}
COLUMNS = {
    "trained": "{:,}",
    "share": "{:.2%}",
    "seconds a step": "{:.3f}",
    "optimizer MB": "{:.2f}",
    "file MB": "{:.2f}",
    "test": "{:.4f}",
}


def read(folder, name, limit):
    """Sentences and labels of a file."""
    with open(pathlib.Path(folder) / f"{name}.tsv", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    rows = rows[:limit]
    return [row[1] for row in rows], np.array([int(row[0]) for row in rows])


def build(way, arguments):
    """A fresh model with what the way trains, compiled."""
    backbone = ft.text_backbone(
        arguments.backbone, sequence_length=arguments.sequence_length
    )
    model = ft.text_classifier(backbone, 2)
    method, rate, epochs = WAYS[way]
    epochs = arguments.epochs or epochs
    if method is not None:
        ft.add_adapters(model, method)
        plan = ft.plans.adapters(epochs, rate)
    elif way == "full":
        plan = ft.plans.full(epochs, rate)
    else:
        plan = ft.plans.linear_probe(epochs, rate)
        ft.freeze(model)
        ft.unfreeze(model, "head")
    return model, plan


def file_size(model, way):
    """Bytes of what has to be kept beside the pretrained model."""
    with tempfile.TemporaryDirectory() as folder:
        if WAYS[way][0] is not None:
            path = os.path.join(folder, "adapters.safetensors")
            ft.save_adapters(model, path)
        elif way == "full":
            path = os.path.join(folder, "model.weights.h5")
            model.save_weights(path)
        else:
            return sum(
                4 * int(np.prod(v.shape)) for v in model.trainable_variables
            )
        return os.path.getsize(path)


def measure(way, seed, arguments):
    """Trains one way; returns its row."""
    keras.utils.set_random_seed(seed)
    train = read(arguments.data, "train", arguments.limit)
    test = read(arguments.data, "test", arguments.limit)
    model, plan = build(way, arguments)
    # What a step takes is measured without stored activations.
    history = ft.fine_tune(
        model, plan, train, batch_size=32, cache="off", verbose=0
    )
    steps = -(-len(train[0]) // 32)
    found = model.predict(test[0], verbose=0).argmax(axis=1)
    summary = ft.trainable_summary(model)
    return {
        "way": way,
        "seed": seed,
        "trained": summary.num_trainable,
        "share": summary.num_trainable / summary.num_params,
        # The first epoch traces.
        "seconds a step": history.epochs[-1]["seconds"] / steps,
        "optimizer MB": summary.optimizer_bytes / 2**20,
        "file MB": file_size(model, way) / 2**20,
        "test": float((found == test[1]).mean()),
    }


def table(rows):
    """Means over the seeds, a line for each way."""
    lines = []
    for way in WAYS:
        found = [row for row in rows if row["way"] == way]
        if found:
            means = {n: np.mean([row[n] for row in found]) for n in COLUMNS}
            means["trained"] = found[0]["trained"]
            cells = [form.format(means[n]) for n, form in COLUMNS.items()]
            lines.append([way, len(found), *cells])
    return format_table(["way", "seeds", *COLUMNS], lines)


def figure(rows):
    """Test accuracy over trained parameters, a point for each run."""
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for way in WAYS:
        found = [row for row in rows if row["way"] == way]
        if found:
            x = [row["trained"] for row in found]
            axes.scatter(x, [row["test"] for row in found], label=way)
    axes.set(xscale="log", xlabel="trained parameters", ylabel="test accuracy")
    axes.legend(bbox_to_anchor=(1, 1), loc="upper left")
    return drawing


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of .tsv files")
    parser.add_argument(
        "--backbone",
        default="bert_small_en_uncased",
        help="KerasHub preset, or folder of KerasHub or Hugging Face",
    )
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--epochs", type=int, help="the same for all ways")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--limit", type=int, help="sentences of each file")
    parser.add_argument("--results", default="compare_adapters.jsonl")
    parser.add_argument("--figure", default="compare_adapters.png")
    arguments = parser.parse_args()
    for way in arguments.ways:
        for seed in arguments.seeds:
            row = measure(way, seed, arguments)
            print(f"{way}, seed {seed}: {row['test']:.4f}", flush=True)
            with open(arguments.results, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    with open(arguments.results, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    # Of several runs of a way with one seed, the last counts.
    rows = list({(row["way"], row["seed"]): row for row in rows}.values())
    print(table(rows))
    figure(rows).savefig(arguments.figure, dpi=150)


if __name__ == "__main__":
    main()
