import keras
import numpy as np
import pytest

import finetune_keras as ft


def fitted(cache, steps_per_execution):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, "tanh", name="body")(inputs)
    x = keras.layers.Dense(3, "softmax", name="head")(x)
    model = keras.Model(inputs, x)
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        steps_per_execution=steps_per_execution,
    )
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 6)).astype("float32"), np.arange(40) % 3
    plan = ft.Plan([ft.Phase("head", 2, 1e-2)])
    options = {"cache": cache, "batch_size": 8, "verbose": 0}
    history = ft.fine_tune(model, plan, data, data, **options)
    return int(model.optimizer.iterations), history


@pytest.mark.backends("2")
@pytest.mark.parametrize("at_once", [2, 5])
def test_several_steps_at_once_read_no_further_than_an_epoch(at_once):
    if keras.backend.backend() == "torch":
        pytest.skip("Keras takes one step at once on torch")
    steps, expected = fitted("off", at_once)
    ours, history = fitted("memory", at_once)
    assert "in memory" in history.phases[0]["cache"]
    assert ours == steps == 10
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(
            history.history[name], expected.history[name], rtol=1e-5
        )
