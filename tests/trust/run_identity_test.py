"""A folder belongs to one run: whatever changes its result is refused."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize
from finetune_keras.training.described import describe, differences, digest

layers, optimizers = keras.layers, keras.optimizers
PLAN = ft.Plan([ft.Phase("all", 2)])


def table(rows=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype("float32")
    return x, rng.integers(0, 3, rows)


def run(folder, **changes):
    """Runs nothing but the beginning: the second call only reads."""
    inputs = keras.Input((4,))
    activation = changes.pop("activation", "tanh")
    x = layers.Dense(6, activation=activation)(inputs)
    x = layers.Rescaling(changes.pop("scale", 1.0))(x)
    x = x * changes.pop("factor", 1.0)
    model = keras.Model(inputs, layers.Dense(3, "softmax")(x))
    randomize(model)
    model.compile(
        changes.pop("optimizer", None) or optimizers.Adam(1e-2),
        changes.pop("loss", "sparse_categorical_crossentropy"),
        metrics=["accuracy"],
        loss_weights=changes.pop("loss_weights", None),
    )
    x, y = changes.pop("data", None) or table()
    changes.setdefault("stop_after", 1)
    changes.setdefault("validation", table(8))
    return ft.fine_tune(
        model, changes.pop("plan", PLAN), (x, y), checkpoint_dir=folder,
        **{"batch_size": 32, "verbose": 0, **changes},
    )  # fmt: skip


def changed_rows():
    x, y = table()
    x[37, 2] += 1e-6
    return x, y


def changed_labels():
    x, y = table()
    y[50] = (y[50] + 1) % 3
    return x, y


def smooth(rate):
    def loss(y, p):
        return (1 - rate) * keras.losses.sparse_categorical_crossentropy(y, p)

    return loss


CHANGES = {
    "one row": ({"data": changed_rows()}, "train.x was"),
    "one label": ({"data": changed_labels()}, "train.y was"),
    "validation": ({"validation": table(9)}, "validation.x was"),
    "class weight": (
        {"class_weight": {0: 2.0, 1: 1.0, 2: 1.0}},
        "class_weight was None and is {'0': 2.0",
    ),
    "shuffle": ({"shuffle": False}, "shuffle was True and is False"),
    "batch size": ({"batch_size": 16}, "batch_size was 32 and is 16"),
    "steps": ({"steps_per_epoch": 1}, "steps_per_epoch was None and is 1"),
    "views": ({"cache": {"views": 2}}, "cache.views was 1 and is 2"),
    "loss": ({"loss": smooth(0.1)}, "loss was 'sparse_cat.* is 'smooth"),
    "loss weights": ({"loss_weights": [2.0]}, "loss_weights"),
    "activation": (
        {"activation": "relu"},
        r"model.layers.1..activation was 'tanh' and is 'relu'",
    ),
    "scale": ({"scale": 2.0}, r"scale was 1.0 and is 2.0"),
    "operation": ({"factor": 2.0}, "model.graph"),
    "beta_1": (
        {"optimizer": optimizers.Adam(1e-2, beta_1=0.8)},
        "beta_1 was 0.9 and is 0.8",
    ),
    "clipnorm": (
        {"optimizer": optimizers.Adam(1e-2, clipnorm=1.0)},
        "clipnorm was None and is 1.0",
    ),
    "amsgrad": (
        {"optimizer": optimizers.Adam(1e-2, amsgrad=True)},
        "amsgrad was False and is True",
    ),
    "optimizer": (
        {"optimizer": optimizers.SGD(1e-2, momentum=0.9)},
        "class was 'Adam' and is 'SGD'",
    ),
    "own rate": (
        {"optimizer": optimizers.Adam(1e-3)},
        "learning rate was 0.01 and is 0.001",
    ),
    "schedule": (
        {
            "optimizer": optimizers.Adam(
                optimizers.schedules.CosineDecay(1.0, 9)
            )
        },
        "learning_rate",
    ),
    "mode": ({"mode": "max"}, "monitor.1. was False and is True"),
    "patience": (
        {"callbacks": keras.callbacks.EarlyStopping(patience=3)},
        r"callbacks was \[\] and is .*EarlyStopping",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run that has done its first epoch of two."""
    path = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(0)
    run(path)
    return path


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_result_is_refused_and_named(folder, name):
    changes, message = CHANGES[name]
    with pytest.raises(ValueError, match=message):
        run(folder, **dict(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"verbose": 2, "callbacks": [keras.callbacks.History()]},
        {"cache": "memory"},
        {"data": tuple(part.copy(order="F") for part in table())},
    ],
    ids=["nothing", "watching", "where activations are", "copies"],
)
def test_what_changes_no_result_is_no_other_run(folder, changes):
    history = run(folder, **changes)
    assert len(history.epochs) == 1


def test_the_same_objects_go_on_after_they_were_used(tmp_path):
    """Whatever a run leaves in model, optimizer and callbacks."""
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="tanh", name="body")(inputs)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))
    randomize(model)
    model.compile("adam", "sparse_categorical_crossentropy")
    plan = ft.Plan(
        [
            ft.Phase("all", 3, schedule="cosine", layerwise_lr_decay=0.5),
            ft.Phase("head", 1, layerwise_lr_decay=0.7),
        ]
    )
    plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1)
    for stop in (1, 2, 4):
        history = ft.fine_tune(
            model, plan, table(), checkpoint_dir=tmp_path, stop_after=stop,
            callbacks=plateau, verbose=0,
        )  # fmt: skip
        assert len(history.epochs) == stop


def test_a_folder_of_an_older_version_is_refused(tmp_path):
    state = {"facts": np.frombuffer(b'{"run": {"plan": 1}}', "uint8")}
    np.savez(tmp_path / "state.npz", **state)
    with pytest.raises(ValueError, match="another version of this library"):
        run(tmp_path)


def test_the_first_batch_and_the_number_of_a_dataset_are_looked_at(tmp_path):
    import tensorflow as tf

    def fit(*arrays):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Dense(3, "softmax")(inputs))
        model.compile("adam", "sparse_categorical_crossentropy")
        data = tf.data.Dataset.from_tensor_slices(arrays).batch(16)
        plan = ft.Plan([ft.Phase("all", 1, 1e-2)])
        ft.fine_tune(model, plan, data, checkpoint_dir=tmp_path, verbose=0)

    x, y = table()
    fit(x, y)
    with pytest.raises(ValueError, match="train.batches was 4 and is 3"):
        fit(x[:48], y[:48])
    with pytest.raises(ValueError, match="train.first batch was"):
        fit(x + 1, y)


def test_our_data_are_known_by_their_contents(tmp_path):
    def fit(y):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Dense(3, "softmax")(inputs))
        model.compile("adam", "sparse_categorical_crossentropy")
        data = ft.from_arrays(table()[0], y, batch_size=16)
        plan = ft.Plan([ft.Phase("all", 1, 1e-2)])
        ft.fine_tune(
            model, plan, data.train, checkpoint_dir=tmp_path, verbose=0
        )

    fit(table()[1])
    with pytest.raises(ValueError, match="train.contents"):
        fit(changed_labels()[1])


def test_every_row_of_an_array_is_in_its_digest():
    x = np.arange(3 * 10**7, dtype="uint8").reshape(-1, 3)
    seen = {digest(x)}
    for row in (0, 5 * 10**6, -1):
        changed = x.copy()
        changed[row, 1] ^= 1
        seen.add(digest(changed))
    assert len(seen) == 4
    assert digest(x[::2]) == digest(x[::2].copy()) != digest(x[:5000000])
    assert digest({"a": x[:2], "b": x[2:4]}) != digest(
        {"b": x[:2], "a": x[2:4]}
    )
    assert digest(["a", "b"]) != digest(["ab", ""]) != digest(["a", None])


def test_functions_are_known_by_their_code_and_what_they_hold():
    same = [describe(smooth(0.1)), describe(smooth(0.1))]
    assert same[0] == same[1] != describe(smooth(0.2))
    assert describe(lambda x: x + 1) != describe(lambda x: x + 2)
    assert describe(keras.activations.relu) == "relu"
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == [
        "a[1].b was 2 and is 3"
    ]
