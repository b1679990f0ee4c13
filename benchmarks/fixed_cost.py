"""What three phases cost beside three compilations, where training is short.

A transformer of 30 layers with LoRA and one batch: nearly all of the time is
tracing, which a phase that trains other weights needs as well as a `compile`
does. The table has the CPU time of the whole process for a plan of three
phases, and for the same three by hand: flags, `compile` and `fit`. Each is
done twice in turn, from the same weights, and the shorter counts.

    python benchmarks/fixed_cost.py
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_hub
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

RATES = {"head": 1e-2, "adapters": 1e-3, "all of both": 1e-4}
BOTH = ["adapter_default", "head"]


def build(layers):
    keras.utils.set_random_seed(1)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=40,
        num_layers=layers,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        dropout=0.0,
        max_sequence_length=16,
    )
    model = ft.replace_head(backbone, 2, pooling="token")
    ft.add_adapters(model, ft.LoRA(rank=2))
    return model


def data():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 40, (8, 16))
    x = {
        "token_ids": ids,
        "padding_mask": np.ones_like(ids),
        "segment_ids": np.zeros_like(ids),
    }
    return x, np.arange(8) % 2


def compiled(model, rate):
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy"
    )
    return model


def by_plan(model):
    head, adapters, both = RATES.values()
    plan = ft.Plan(
        [
            ft.Phase("head", learning_rate=head),
            ft.Phase(BOTH, learning_rate=adapters),
            ft.Phase(BOTH, learning_rate=both),
        ]
    )
    fit = {"batch_size": 8, "cache": "off", "verbose": 0}
    ft.fine_tune(compiled(model, head), plan, data(), **fit)


def by_hand(model):
    x, y = data()
    adapters = [v for v in model.trainable_variables if "lora" in v.path]
    for index, rate in enumerate(RATES.values()):
        for variable in adapters:
            variable.trainable = index > 0
        compiled(model, rate).fit(x, y, batch_size=8, verbose=0)


def cpu_seconds(run, layers):
    model = build(layers)
    start = time.process_time()
    run(model)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--runs", type=int, default=2)
    arguments = parser.parse_args()
    found = {by_hand: [], by_plan: []}
    for _ in range(arguments.runs):
        for run, times in found.items():
            times.append(cpu_seconds(run, arguments.layers))
    hand, plan = (min(times) for times in found.values())
    rows = [
        ("three times compile and fit", f"{hand:.1f}", "1.00"),
        ("a plan of three phases", f"{plan:.1f}", f"{plan / hand:.2f}"),
    ]
    print(format_table(["", "CPU seconds", "ratio"], rows))


if __name__ == "__main__":
    main()
