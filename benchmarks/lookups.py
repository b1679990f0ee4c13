"""How often a run of three phases looks at the model that it trains.

    python benchmarks/lookups.py

Counts calls of whole looks: layer groups worked out, the graph walked, leaf
layers listed. None of them depends on the machine.
"""

import collections
import sys

import keras
import numpy as np

import finetune_keras as ft

# What a look is called in the code.
LOOKS = {
    "layer groups": {"parts_of"},
    "graph": {"walk"},
    "leaf layers": {"leaf_layers"},
}


def model_of_blocks():
    """A small network of eight residual blocks, with a head."""
    x = inputs = keras.Input((8, 8, 3))
    for i in range(8):
        y = keras.layers.Conv2D(8, 3, padding="same", name=f"block{i}_conv")(x)
        y = keras.layers.BatchNormalization(name=f"block{i}_norm")(y)
        x = keras.layers.ReLU(name=f"block{i}_relu")(y)
    return ft.replace_head(keras.Model(inputs, x), 2)


def counted(function):
    """Calls a function; returns how often each look was made."""
    names = {name: look for look, names in LOOKS.items() for name in names}
    counts = collections.Counter()

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_name in names:
            if "finetune_keras/" in code.co_filename.replace("\\", "/"):
                counts[names[code.co_name]] += 1

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return counts


def main():
    model = model_of_blocks()
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16, 8, 8, 3)), np.arange(16) % 2
    plan = ft.Plan([ft.Phase("head"), ft.Phase(2), ft.Phase("all")])
    counts = counted(lambda: ft.fine_tune(model, plan, data, data, verbose=0))
    for look in LOOKS:
        print(f"{look}: {counts[look]}")


if __name__ == "__main__":
    main()
