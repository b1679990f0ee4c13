import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.training.audit import PhaseAudit

layers = keras.layers
X = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
Y = np.arange(12) % 3


def network(optimizer=None, spectral=False):
    inputs = keras.Input((6,))
    x = layers.Dense(8, "tanh", name="body1")(inputs)
    x = layers.Dense(8, "tanh", name="body2")(x)
    if spectral:
        inner = layers.Dense(8, name="inner")
        x = layers.SpectralNormalization(inner, name="spectral")(x)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))
    model.compile(optimizer or "sgd", "sparse_categorical_crossentropy")
    return model


def run(model, layers):
    plan = ft.Plan([ft.Phase(layers, epochs=1, learning_rate=0.1)])
    return ft.fine_tune(
        model, plan, (X, Y), cache="off", batch_size=6, verbose=0
    )


@pytest.mark.backends("all")
@pytest.mark.parametrize("chosen", ["all", "head"])
def test_state_that_a_layer_keeps_for_itself_is_not_judged(chosen):
    history = run(network(spectral=True), chosen)
    assert history.ledger[0]["head"]["change"] > 0


@pytest.mark.backends
def test_a_frozen_weight_beside_such_state_is_judged():
    model = network(spectral=True)
    ft.freeze(model)
    audit = PhaseAudit(ft.layer_groups(model))
    audit.begin_phase(ft.Phase("head"))
    bias = model.get_layer("spectral").layer.bias
    bias.assign(np.ones(bias.shape))
    with pytest.raises(RuntimeError, match="inner/bias"):
        audit.end_phase()


@pytest.mark.backends
def test_the_statistics_of_a_frozen_batch_norm_are_judged():
    inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="norm")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    ft.freeze(model, "norm")
    audit = PhaseAudit(ft.layer_groups(model))
    audit.begin_phase(ft.Phase("head"))
    model.get_layer("norm").moving_mean.assign(np.ones(6))
    with pytest.raises(RuntimeError, match="norm/moving_mean"):
        audit.end_phase()


def test_a_multiplier_of_0_stands_still_by_intent():
    model = network()
    optimizer = ft.layerwise_optimizer(
        keras.optimizers.SGD(0.1), model, multipliers={"body1": 0}
    )
    model.compile(optimizer, model.loss)
    before = keras.ops.convert_to_numpy(model.get_layer("body1").kernel).copy()
    ledger = run(model, "all").ledger[0]
    still, *others = ledger.values()
    assert still == {"trained": False, "change": 0}
    assert all(entry["change"] > 0 for entry in others)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.get_layer("body1").kernel), before
    )


@pytest.mark.backends
def test_gradients_that_were_only_accumulated_move_nothing():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    ledger = run(network(optimizer), "head").ledger
    assert ledger[0]["head"] == {"trained": True, "change": 0}
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    assert run(network(optimizer), "head").ledger[0]["head"]["change"] > 0


def test_an_idle_group_is_found():
    model = network()
    # Nothing of the loss comes through.
    model.get_layer("head").kernel.assign(np.zeros((8, 3)))
    with pytest.warns(UserWarning, match="body2: not moved in 2 updates"):
        entry = run(model, ["body2"]).ledger[0]["body2"]
    assert entry["trained"] and entry["change"] == 0
    assert entry["note"] == "not moved in 2 updates: its gradient may be 0"


@pytest.mark.backends
def test_a_fit_of_ones_own_is_audited_stretch_by_stretch():
    model, audit = network(), ft.Audit()
    # The audit comes first, and sees what the other sets all the same.
    unfreeze = ft.GradualUnfreeze(every=2, stop=2)
    model.fit(X, Y, epochs=4, callbacks=[audit, unfreeze], verbose=0)
    first, second = audit.ledger
    assert [entry["trained"] for entry in first.values()] == [0, 0, 1]
    assert first["body2"]["change"] == 0 < first["head"]["change"]
    assert second["body1"] == {"trained": False, "change": 0}
    assert second["body2"]["change"] > 0


def test_what_is_frozen_after_compile_is_found_to_move():
    model = network()
    model.fit(X, Y, verbose=0)
    ft.freeze(model, "body1")
    with pytest.raises(RuntimeError, match="after `compile` and without"):
        model.fit(X, Y, callbacks=[ft.Audit()], verbose=0)
    ft.retrace(model)
    model.fit(X, Y, callbacks=[ft.Audit()], verbose=0)
