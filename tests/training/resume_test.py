import io
import os
import pathlib
import time

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.training.checkpoint import Checkpoint
from finetune_keras.training.saved import assign, decode, encode, values_of

layers = keras.layers
# Epochs short of their end, so that kills fall into all parts of a run.
SCRIPT = """
import sys
import keras, numpy as np
import finetune_keras as ft

folder, result = sys.argv[1:]
keras.utils.set_random_seed(3)
inputs = keras.Input((6, 6, 3))
x = keras.layers.GaussianNoise(0.1)(inputs)
for i in range(2):
    x = keras.layers.Conv2D(4, 3, padding="same", name=f"block{i}_conv")(x)
    x = keras.layers.BatchNormalization(name=f"block{i}_norm")(x)
    x = keras.layers.ReLU()(x)
model = ft.replace_head(keras.Model(inputs, x), 3, dropout=0.4)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
rng = np.random.default_rng(0)
y = rng.integers(0, 3, size=36)
x = (rng.normal(size=(36, 6, 6, 3)) + y[:, None, None, None]).astype("float32")
plan = ft.Plan([
    ft.Phase("head", epochs=3, learning_rate=0.05, patience=2),
    ft.Phase(1, epochs=3, learning_rate=0.01, schedule="cosine",
             warmup_fraction=0.4, multipliers={"head": 2.0}, weight_decay=0.1,
             optimizer="rmsprop"),
    ft.Phase("all", epochs=3, learning_rate=0.01, layerwise_lr_decay=0.5,
             batch_norm="train"),
], head_initializer="ridge")
history = ft.fine_tune(
    model, plan, (x[:24], y[:24]), (x[24:], y[24:]), checkpoint_dir=folder,
    batch_size=8, verbose=2,
)
np.savez(result, *[keras.ops.convert_to_numpy(v) for v in model.variables])
print("DONE", history.best_epoch)
"""


def start(folder, result):
    environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1"}
    root = pathlib.Path(__file__).parents[2]
    arguments = "-c", SCRIPT, folder, result
    return FreshProcess(*arguments, env=environment, cwd=root)


def finish(process):
    assert process.wait() == 0, process.stderr[-3000:]
    return process.stdout


def arrays(path):
    with np.load(path) as file:
        return [file[name] for name in file.files]


def test_killed_runs_end_with_the_same_weights(tmp_path):
    quiet = finish(start(tmp_path / "quiet", tmp_path / "quiet.npz"))
    kills = int(os.environ.get("FINETUNE_KERAS_KILLS", 1))
    rng = np.random.default_rng(kills)
    for _ in range(kills):
        # By lines, so that slow machines are killed in the same places; with
        # many kills soon, so that the run is not over before the last.
        stop = int(rng.integers(1, 1 + max(10 // kills, 2)))
        process = start(tmp_path / "run", tmp_path / "run.npz")
        seen = 0
        for line in process.lines():
            seen += line.startswith(("Epoch", "Phase"))
            if seen >= stop:
                break
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
    out = finish(start(tmp_path / "run", tmp_path / "run.npz"))
    assert out.splitlines()[-1] == quiet.splitlines()[-1]
    for a, b in zip(
        arrays(tmp_path / "quiet.npz"),
        arrays(tmp_path / "run.npz"),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backends("off", "views")
@pytest.mark.parametrize(
    ("cache", "stops"),
    [
        ("off", [2, 7, 7]),
        ("memory", [2, 7, 7]),
        ({"views": 2}, [1, 3, 4, 7]),
    ],
    ids=["off", "memory", "views"],
)
def test_stopped_runs_end_with_the_same_weights(tmp_path, cache, stops):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 8)).astype("float32")
    y = rng.integers(0, 3, 50)
    plan = ft.Plan([ft.Phase("head", 3, 1e-2), ft.Phase("all", 4, 1e-2)])

    def weights(folder, stops):
        for number, stop in enumerate(stops):
            # The seed is in the folder: later ones play no part.
            keras.utils.set_random_seed(number)
            model = keras.Sequential(
                [
                    keras.Input((8,)),
                    layers.Dense(6, "tanh", name="body"),
                    layers.Dropout(0.3),
                    layers.Dense(3, "softmax", name="head"),
                ]
            )
            randomize(model)
            ft.fine_tune(
                model, plan, (x, y), checkpoint_dir=folder, stop_after=stop,
                batch_size=8, cache=cache, verbose=0,
            )  # fmt: skip
        # With the states of what is random.
        return [keras.ops.convert_to_numpy(v) for v in model.variables]

    whole = weights(tmp_path / "whole", [7])
    parts = weights(tmp_path / "parts", stops)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def small_run(folder, epochs=2, callbacks=None, units=3):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(units, activation="tanh", name="body")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    x, y = np.random.default_rng(0).normal(size=(16, 4)), np.arange(16) % 2
    plan = ft.Plan([ft.Phase("head", epochs=epochs, learning_rate=0.1)])
    history = ft.fine_tune(
        model,
        plan,
        (x, y),
        (x, y),
        checkpoint_dir=folder,
        callbacks=callbacks,
        verbose=0,
    )
    return model, history


def test_a_finished_run_is_not_run_again(tmp_path):
    first, history = small_run(tmp_path)
    again, repeated = small_run(tmp_path)
    assert repeated.history == history.history
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_plan_or_model_is_refused(tmp_path):
    small_run(tmp_path)
    with pytest.raises(ValueError, match="epochs was 2 and is 3"):
        small_run(tmp_path, epochs=3)
    with pytest.raises(ValueError, match="units was 3 and is 5"):
        small_run(tmp_path, units=5)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    class Second(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            small_run(tmp_path)

    with pytest.raises(ValueError, match="Another run"):
        small_run(tmp_path, callbacks=[Second()])


def test_a_write_cut_off_leaves_the_old_state(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {"plan": 1})
    checkpoint.save({"epoch": 1, "a": np.arange(3)})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({"epoch": 2, "a": np.arange(4)})
    state = checkpoint.load()
    assert state["epoch"] == 1 and len(state["a"]) == 3
    checkpoint.close()


def test_bfloat16_survives_the_state():
    variable = keras.Variable(
        np.array([1.5, -2.25]), dtype="bfloat16", name="v"
    )
    file = io.BytesIO(encode(values_of([variable])))
    other = keras.Variable(np.zeros(2), dtype="bfloat16", name="w")
    assign([other], decode(file))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(other).astype("float32"), [1.5, -2.25]
    )
