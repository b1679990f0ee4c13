"""Training throughput on an accelerator: images and tokens per second.

A MobileNet and a BERT with random weights, on random data: all layers; the
head and the last group; and the same on the cached outputs of what is frozen.
Each in float32 and in mixed bfloat16, with and without XLA. The first epoch,
which traces, compiles and fills the cache, is left out; the rate is that of
the fastest epoch after it.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --small        # a trial run on a CPU
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table

EPOCHS = 3
WAYS = {
    "all layers": ("all", "off"),
    "last group": (1, "off"),
    "last group, cached": (1, "memory"),
}
LARGE = {
    "image": 224,
    "images": 4096,
    "alpha": 1.0,
    "layers": 12,
    "hidden": 768,
    "tokens": 128,
    "texts": 2048,
    "batch_size": 128,
}
SMALL = {
    "image": 64,
    "images": 128,
    "alpha": 0.25,
    "layers": 2,
    "hidden": 64,
    "tokens": 32,
    "texts": 64,
    "batch_size": 32,
}


def photos(size):
    """A model of images and its data, and how many units an example has."""
    shape = (size["image"], size["image"], 3)
    backbone = ft.backbone(
        "MobileNet", shape, weights=None, alpha=size["alpha"]
    )
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (size["images"], *shape), dtype="uint8")
    return ft.replace_head(backbone, 10), x, 1


def texts(size):
    """As `photos`, of token ids."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30522,
        num_layers=size["layers"],
        num_heads=size["hidden"] // 64 or 1,
        hidden_dim=size["hidden"],
        intermediate_dim=4 * size["hidden"],
        max_sequence_length=size["tokens"],
    )
    rng = np.random.default_rng(0)
    shape = (size["texts"], size["tokens"])
    x = {
        "token_ids": rng.integers(1, 30000, shape).astype("int32"),
        "padding_mask": np.ones(shape, "int32"),
        "segment_ids": np.zeros(shape, "int32"),
    }
    return ft.replace_head(backbone, 10, pooling="token"), x, size["tokens"]


def measure(make, size, way, xla):
    """Units per second of the fastest epoch after the first."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model, x, units = make(size)
    model.compile(
        keras.optimizers.AdamW(1e-5),
        "sparse_categorical_crossentropy",
        jit_compile=xla,
    )
    layers, cache = WAYS[way]
    plan = ft.Plan([ft.Phase(layers, EPOCHS, learning_rate=1e-5)])
    count = len(next(iter(x.values())) if isinstance(x, dict) else x)
    data = x, np.arange(count) % 10
    history = ft.fine_tune(
        model,
        plan,
        data,
        batch_size=size["batch_size"],
        cache=cache,
        verbose=0,
    )
    seconds = min(row["seconds"] for row in history.epochs[1:])
    return units * count / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    size = SMALL if arguments.small else LARGE
    rows = []
    for name, make in (("images/s", photos), ("tokens/s", texts)):
        first = None
        for way in WAYS:
            for precision in ("float32", "mixed_bfloat16"):
                for xla in (False, True):
                    keras.mixed_precision.set_global_policy(precision)
                    rate = measure(make, size, way, xla)
                    first = first or rate
                    setting = "XLA" if xla else "plain"
                    row = [name, way, precision, setting]
                    row += [f"{rate:,.0f}", f"{rate / first:.2f}"]
                    rows.append(row)
                    print(*row, flush=True)
    keras.mixed_precision.set_global_policy("float32")
    header = ["unit", "trained", "precision", "step", "rate", "times"]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
