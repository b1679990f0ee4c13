"""What `fine_tune` costs over a bare `fit` where nothing can be cached.

A MobileNet 0.25 with random weights, all of it trained, on random pixels, with
validation: the same work by `model.fit` and by a plan of one phase with the
cache off. What `fine_tune` adds is the audit, the copies of the best weights,
a look at each loss, and the history. Both are timed in turn, from compiling to
the end, in one process; the table has the shortest of each, since what else
runs on the machine only ever adds, and the ratio of the CPU time of the whole
process beside that of the clock.

    python benchmarks/overhead.py
"""

import argparse
import gc
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.data.table import format_table
from finetune_keras.testing import randomize


def data(size, count):
    """Random photos in five classes, for training and validation."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, size, size, 3)).astype("float32")
    y = np.arange(count) % 5
    return (x, y), (x[: count // 4], y[: count // 4])


def build(size):
    """The compiled model, with the same weights each time."""
    keras.utils.set_random_seed(1)
    backbone = ft.backbone(
        "MobileNet", input_shape=(size, size, 3), weights=None, alpha=0.25
    )
    model = ft.image_classifier(backbone, 5)
    # Fresh statistics would let the gradients vanish on their way down.
    randomize(model)
    for layer in model.layers:
        frozen = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not frozen
    model.compile(
        keras.optimizers.Adam(1e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def measure(way, arguments, train, validation):
    """Seconds by the clock and of the CPU, and the last loss."""
    # What the run before left would be swept up in the time of this one.
    keras.backend.clear_session()
    gc.collect()
    model = build(arguments.size)
    clock, cpu = time.perf_counter(), time.process_time()
    if way == "fit":
        history = model.fit(
            *train,
            validation_data=validation,
            epochs=arguments.epochs,
            verbose=0,
        )
    else:
        phase = ft.Phase("all", arguments.epochs, learning_rate=1e-4)
        history = ft.fine_tune(
            model, ft.Plan([phase]), train, validation, cache="off", verbose=0
        )
    seconds = time.perf_counter() - clock, time.process_time() - cpu
    return *seconds, history.history["loss"][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=960)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    train, validation = data(arguments.size, arguments.count)
    results = {"fit": [], "fine_tune": []}
    measure("fit", arguments, train, validation)  # the first one warms up
    for _ in range(arguments.repeats):
        for way, found in results.items():
            found.append(measure(way, arguments, train, validation))
    shortest = {way: np.min(x, axis=0) for way, x in results.items()}
    base = shortest["fit"]
    rows = [
        [
            way,
            f"{clock:.1f}",
            f"{cpu:.1f}",
            f"{clock / base[0]:.3f}",
            f"{cpu / base[1]:.3f}",
            f"{loss:.6f}",
        ]
        for way, (clock, cpu, loss) in shortest.items()
    ]
    header = ["way", "seconds", "CPU s", "ratio", "CPU ratio", "last loss"]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
