"""A search judges by validation, and by executions that differ."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

pytestmark = pytest.mark.usefixtures("op_by_op", "garbage_stays")
rng = np.random.default_rng(0)
Y = np.arange(40) % 2
X = (rng.normal(size=(40, 4)) + Y[:, None]).astype("float32")
SPACE = ft.search_space(
    groups=0, epochs=2, batch_size=8, learning_rate=0.05, decay=1.0
)


def build(hp):
    keras.utils.set_random_seed(7)  # as many a `build` does
    body = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    return ft.replace_head(body, 2)


def search(folder, made=build, space=SPACE, **options):
    return ft.tune(
        made, (X, Y), (X[::3], Y[::3]), space, "random", max_trials=1,
        directory=folder, verbose=0, **options,
    )  # fmt: skip


def test_a_search_by_a_metric_of_training_is_refused(tmp_path):
    for objective in ("accuracy", "loss"):
        message = f"Name that of validation, 'val_{objective}'"
        with pytest.raises(ValueError, match=message):
            search(tmp_path / "a", objective=objective)
        # A callback may write a metric, but not this one.
        with pytest.raises(ValueError, match=message):
            search(tmp_path / "a", objective=objective, callbacks=list)
    found = search(tmp_path / "b", objective="val_accuracy")
    assert found.trials[0]["status"] == "completed"


class Written(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = float(epoch)


def test_a_search_by_what_a_callback_writes_goes_on(tmp_path):
    found = search(tmp_path, objective="score", callbacks=lambda: [Written()])
    assert found.trials[0]["score"] == 1.0


def test_executions_differ_where_build_sets_its_own_seed(tmp_path):
    found = search(tmp_path, executions_per_trial=2)
    scores = found.trials[0]["scores"]
    assert len(set(scores)) == 2
    assert found.trials[0]["score"] == pytest.approx(np.mean(scores))


def test_executions_that_cannot_differ_are_told(tmp_path):
    """All examples are one batch, and so there is no order to differ."""
    whole = SPACE.change(batch_size=40)
    with pytest.warns(UserWarning, match="no more than one does"):
        search(tmp_path, space=whole, executions_per_trial=2)
