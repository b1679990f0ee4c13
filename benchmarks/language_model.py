"""A small language model learns the class of a question, by LoRA.

    python benchmarks/language_model.py --model FOLDER --trec6 FOLDER

`--model` is the folder of a KerasHub preset or of Hugging Face, of a model
that writes; the figures in the guide are of SmolLM2-135M-Instruct, of 500
questions of trec6 (a folder with train.tsv and test.tsv, columns `label` and
`question`) as prompts, "Question: ... Type:", whose answer is the class word.
It prints perplexity and exact match on test questions before training and
after, the seconds of a step, and those of the whole. `--blocks 10` puts the
adapters into the last ten blocks alone, so that those below are computed once;
`--packing` puts several examples into a window of `--length` tokens;
`--quantize int8` (the weights alone) or `int4` (by blocks of 32 weights, the
vectors of tokens in int8) makes the base small first.
`--steps` trains on 80 questions of 32 tokens alone, and tells the seconds of
the processors for each batch: of `fit` with the scores of all tokens, of the
answers alone, and with the adapters in the last ten blocks.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np

import finetune_keras as ft

TYPES = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}


def read(path, count, options):
    """Prompts of so many questions, in an order of their own."""
    with open(path, encoding="utf-8") as file:
        header, *rows = [line.rstrip("\n").split("\t") for line in file]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return ft.prompts(
        [rows[i]["question"] for i in order],
        [TYPES[rows[i]["label"]] for i in order],
        template=lambda question: f"Question: {question} Type:",
        **options,
    )


def report(name, model, data, batch_size):
    start = time.perf_counter()
    found = ft.evaluate(model, data, batch_size=batch_size, verbose=0).metrics
    seconds = time.perf_counter() - start
    print(
        f"{name}: exact match {found['exact_match']:.3f}, perplexity "
        f"{found['perplexity']:.3f} ({seconds:.0f} s)",
        flush=True,
    )


class Seconds(keras.callbacks.Callback):
    """Seconds of all processors in the quickest epoch."""

    def __init__(self):
        super().__init__()
        self.least = float("inf")

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.least = min(self.least, time.process_time() - self.begun)


def quantize(model, mode):
    """Makes the weights of the backbone small, and tells their share."""
    before = nbytes(model)
    # Keras has no gradient through activations that the scores of tokens
    # round.
    int8 = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    if mode == "int4":
        # A scale for each 128 weights would be too coarse; the vectors of
        # tokens, which are the scores as well, bear no 4 bits.
        int4 = keras.quantizers.Int4QuantizationConfig(block_size=32)
        model.backbone.quantize(
            config=int4, filters=lambda layer: not _holds_tokens(layer)
        )
    model.backbone.quantize(
        config=int8,
        filters=lambda layer: mode == "int8" or _holds_tokens(layer),
    )
    print(f"{mode}: {nbytes(model) / before:.3f} of the bytes", flush=True)


def _holds_tokens(layer):
    return isinstance(layer, keras.layers.Embedding)


def nbytes(model):
    return sum(
        np.prod(v.shape) * np.dtype(v.dtype).itemsize for v in model.weights
    )


def adapted(args, blocks):
    """The model with adapters in so many of its last blocks, or in all."""
    keras.utils.set_random_seed(0)
    model = keras_hub.models.CausalLM.from_preset(args.model, dtype="float32")
    if args.quantize:
        quantize(model, args.quantize)
    chosen = None
    if blocks:
        names = [group.name for group in ft.layer_groups(model)[-blocks:]]
        chosen = "|".join(f".*{name}/.*/(query|value)" for name in names)
    ft.add_adapters(model, ft.LoRA(rank=args.rank), chosen)
    return model


def compare_steps(args):
    train = read(args.trec6 / "train.tsv", 80, {"sequence_length": 32})
    for name, blocks in (("fit", 0), ("answers alone", 0), ("blocks", 10)):
        model, seconds = adapted(args, blocks), Seconds()
        start = time.perf_counter()
        if name == "fit":
            ft.freeze(model, "all")
            ft.unfreeze(model, "adapter_default")
            model.preprocessor.sequence_length = 32
            texts = zip(train.questions, train.answers, strict=True)
            x, y, weights = keras.tree.map_structure(
                np.asarray, model.preprocessor([f"{q} {a}" for q, a in texts])
            )
            model.preprocessor = None
            options = {"batch_size": 8, "epochs": 3, "verbose": 0}
            options["callbacks"] = [seconds]
            model.fit(x, y, sample_weight=weights, **options)
        else:
            plan = ft.plans.adapters(3, args.learning_rate)
            options = {"batch_size": 8, "callbacks": [seconds], "verbose": 0}
            ft.fine_tune(model, plan, train, **options)
        print(
            f"{name}: {seconds.least / 10:.3f} s of processors a batch, "
            f"{time.perf_counter() - start:.0f} s for three epochs",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--trec6", type=pathlib.Path, required=True)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--quantize", choices=["int8", "int4"])
    parser.add_argument("--steps", action="store_true")
    args = parser.parse_args()
    if args.steps:
        compare_steps(args)
        return
    options = {"sequence_length": args.length, "packing": args.packing}
    train = read(args.trec6 / "train.tsv", args.train, options)
    model = adapted(args, args.blocks)
    if args.test:
        path = args.trec6 / "test.tsv"
        test = read(path, args.test, {"sequence_length": 64})
        report("before", model, test, 50)
    plan = ft.plans.adapters(args.epochs, args.learning_rate)
    start = time.perf_counter()
    history = ft.fine_tune(
        model, plan, train, batch_size=args.batch_size, verbose=0
    )
    seconds = history.history["seconds"]
    steps = -(-len(train) // args.batch_size)
    print(history)
    print(f"cache: {history.phases[0]['cache']}")
    print(
        f"{time.perf_counter() - start:.0f} s of training, "
        f"{min(seconds) / len(train):.4f} s an example and "
        f"{min(seconds) / steps:.3f} s for each {args.batch_size}",
        flush=True,
    )
    if args.test:
        report("after", model, test, 50)


if __name__ == "__main__":
    main()
