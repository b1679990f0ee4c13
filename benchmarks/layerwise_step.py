"""Time of a training step: layer-wise Adam over plain Adam.

Run once for each backend:

    KERAS_BACKEND=tensorflow python benchmarks/layerwise_step.py

Both optimizers train copies of one model in turns, a step each, so that a slow
spell of the machine hits both. The table shows the median time of a step and
the ratio of the medians; over ten blocks of the run, the lowest and highest
such ratio tell how far to trust it. `--seconds` sets how long each model runs.
"""

import argparse
import time

import keras
import numpy as np

from finetune_keras.training.optimizers import layerwise_optimizer


def mobilenet():
    """MobileNet of a quarter width: 83 trainable variables, convolutions."""
    model = keras.applications.MobileNet(
        alpha=0.25, weights=None, input_shape=(96, 96, 3), classes=10
    )
    return model, (16, 96, 96, 3)


def transformer():
    """Six blocks of width 64: 104 trainable variables."""
    inputs = keras.Input((32,), dtype="int32")
    x = keras.layers.Embedding(1000, 64)(inputs)
    for _ in range(6):
        y = keras.layers.MultiHeadAttention(4, 16)(x, x)
        x = keras.layers.LayerNormalization()(x + y)
        y = keras.layers.Dense(256, activation="gelu")(x)
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(64)(y))
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = keras.layers.Dense(10, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs), (16, 32)


def dense():
    """100 variables in 50 groups; little work but the optimizer's."""
    inputs = x = keras.Input((128,))
    for i in range(49):
        x = keras.layers.Dense(128, activation="relu", name=f"dense_{i}")(x)
    outputs = keras.layers.Dense(10, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs), (32, 128)


def compiled(make, layerwise):
    model, shape = make()
    optimizer = keras.optimizers.Adam(1e-4)
    if layerwise:
        optimizer = layerwise_optimizer(optimizer, model, decay=0.8)
    model.compile(optimizer, loss="sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x = rng.normal(100, 20, size=shape).astype(model.inputs[0].dtype)
    y = rng.integers(0, 10, size=shape[0])
    return model, x, y


def step_time(model, x, y):
    start = time.perf_counter()
    model.train_on_batch(x, y)
    return time.perf_counter() - start


def measure(make, seconds):
    """Returns an array of `(steps, 2)` times: plain, layer-wise."""
    contestants = [compiled(make, False), compiled(make, True)]
    for contestant in contestants * 3:
        step_time(*contestant)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 50:
        # Who goes second finds the caches filled by the first: take turns.
        order = (0, 1) if len(times) % 2 else (1, 0)
        took = {k: step_time(*contestants[k]) for k in order}
        times.append([took[0], took[1]])
    return np.array(times)


def ratio(times):
    plain, layerwise = np.median(times, axis=0)
    return layerwise / plain


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    backend = keras.backend.backend()
    print("backend     model        steps      Adam  layer-wise  ratio  blocks")
    for make in (mobilenet, transformer, dense):
        times = measure(make, seconds)
        plain, layerwise = np.median(times, axis=0) * 1e3
        blocks = [ratio(block) for block in np.array_split(times, 10)]
        print(
            f"{backend:<12}{make.__name__:<12}{len(times):>6}{plain:>7.2f} ms"
            f"{layerwise:>9.2f} ms{ratio(times):>7.3f}"
            f"  {min(blocks):.2f}-{max(blocks):.2f}"
        )


if __name__ == "__main__":
    main()
