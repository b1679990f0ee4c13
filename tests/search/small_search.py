"""A small search in a process of its own, for tests to kill.

python small_search.py FOLDER ALGORITHM MAX_TRIALS
"""

import contextlib
import os
import pathlib
import sys

import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.search.hypermodel import FineTuneHyperModel
from finetune_keras.search.space import search_space
from finetune_keras.search.tune import tune

SPACE = search_space(
    groups=[1, 0],
    phases=2,
    epochs=3,
    batch_size=[16, 32],
    boundary=0.4,
    learning_rate=[1e-3, 3e-3, 1e-2],
    backbone_factor=0.1,
    decay=1.0,
    order=False,
)


class Logged(FineTuneHyperModel):
    """Writes a line for each run of a trial."""

    def __init__(self, log):
        super().__init__(space=SPACE)
        self.log = log

    def build(self, hp):
        rng = np.random.default_rng(0)
        inputs = keras.Input((8,))
        layer = keras.layers.Dense(6, activation="relu", name="lower")
        model = keras.Model(inputs, layer(inputs))
        layer.set_weights([rng.normal(size=(8, 6)), np.zeros(6)])
        return ft.replace_head(model, 2)

    def train(self, hp, model, *data, **fit):
        values = {k: v for k, v in sorted(hp.values.items())}
        with open(self.log, "a") as file:
            file.write(f"{values}\n")
        return super().train(hp, model, *data, **fit)


def data():
    rng = np.random.default_rng(0)
    y = np.arange(64) % 2
    return (rng.normal(size=(64, 8)) + y[:, None]).astype("float32"), y


@contextlib.contextmanager
def op_by_op():
    """Few steps each: to trace them takes longer."""
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def run(folder, algorithm, max_trials):
    folder = pathlib.Path(folder)
    with op_by_op():
        return tune(
            Logged(folder.with_suffix(".log")),
            data(),
            data(),
            algorithm=algorithm,
            max_trials=max_trials,
            directory=folder,
            max_epochs=3 if algorithm == "hyperband" else None,
        )


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print("done", os.environ.get("KERASTUNER_TUNER_ID", ""))
