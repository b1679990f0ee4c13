"""What the audit is sure of ends a run; what it suspects is told."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

rng = np.random.default_rng(0)
Y = np.arange(24) % 2
X = (rng.normal(size=(24, 6)) + Y[:, None]).astype("float32")


def deep(groups=5, activation="tanh"):
    inputs = x = keras.Input((6,))
    for i in range(groups):
        layer = keras.layers.Dense(
            6, activation, use_bias=False, name=f"body{i}"
        )
        x = layer(x)
    return ft.replace_head(keras.Model(inputs, x), 2)


def test_a_decay_below_the_rounding_of_weights_is_told_and_goes_on():
    plan = ft.plans.discriminative(epochs=2, decay=0.01)
    with pytest.warns(UserWarning, match="body0.*lost in the rounding"):
        history = ft.fine_tune(deep(), plan, (X, Y), verbose=0)
    assert len(history.epochs) == 2
    ledger = history.ledger[0]
    assert ledger["body0"]["change"] == 0 and ledger["head"]["change"] > 0
    assert "a step of about 1e-14 is lost" in ledger["body0"]["note"]
    assert "note" not in ledger["head"]


def test_a_dead_activation_is_told_and_the_phases_behind_it_run():
    model = deep(3, "relu")
    model.get_layer("body1").kernel.assign(-np.ones((6, 6)))
    plan = ft.Plan([ft.Phase("all", 1, 0.01), ft.Phase("head", 2, 0.01)])
    with pytest.warns(UserWarning, match="body0, body1, body2: not moved"):
        history = ft.fine_tune(model, plan, (X, Y), (X, Y), verbose=0)
    assert len(history.epochs) == 3
    note = history.ledger[0]["body0"]["note"]
    assert note == "not moved in 1 update: its gradient may be 0"
    # Bit-equal with the epoch that was best, as after any run.
    loss = model.evaluate(X, Y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(history.best_value, abs=1e-6)


def test_a_frozen_weight_that_moves_still_ends_the_run():
    class Meddler(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("body0").kernel.assign(np.ones((6, 6)))

    plan = ft.Plan([ft.Phase("head", 1, 0.01)])
    with pytest.raises(RuntimeError, match="frozen weight 'body0/kernel'"):
        ft.fine_tune(
            deep(3), plan, (X, Y), cache="off", callbacks=[Meddler()],
            verbose=0,
        )  # fmt: skip


def test_gradients_that_are_accumulated_count_as_one_update():
    """3 updates of 6 batches, and not 1 (divided twice)."""
    optimizer = keras.optimizers.SGD(1e-30, gradient_accumulation_steps=2)
    model = deep(1)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    plan = ft.Plan([ft.Phase("body0", 1)])
    with pytest.warns(UserWarning, match="body0: not moved in 3 updates"):
        ft.fine_tune(model, plan, (X, Y), batch_size=4, verbose=0)
