import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.results.predicted import predict_all
from finetune_keras.search.gains import losses_around

pytestmark = pytest.mark.usefixtures("op_by_op")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 5)).astype("float32")
Y = (X[:, 0] + X[:, 1] + RNG.normal(0, 0.5, 90) > 0).astype("int32")
TRAIN, JUDGED = (X[:56], Y[:56]), (X[56:], Y[56:])


def classifier(dropout=0.0):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(6, "tanh", name="low")(inputs)
    x = keras.layers.Dropout(dropout)(x) if dropout else x
    x = keras.layers.Dense(2, "tanh", name="high")(x)
    return ft.replace_head(keras.Model(inputs, x), 2)


def losses(model):
    chances, labels, _ = predict_all(model, JUDGED)
    return -np.log(chances[np.arange(len(labels)), labels])


@pytest.mark.backends
@pytest.mark.parametrize("layers", [1, "all"])
def test_what_a_phase_gains_behind_the_solved_head(layers):
    """Of stored activations, and of the whole model where all layers train."""
    model, solved = classifier(), classifier()
    low = keras.ops.convert_to_numpy(model.get_layer("low").kernel).copy()
    phase = ft.Phase(layers, epochs=4, learning_rate=3e-2)
    plan = ft.Plan([phase], head_initializer="auto")
    before, after = losses_around(model, plan, TRAIN, JUDGED)
    ft.fine_tune(solved, ft.plans.linear_probe(), TRAIN, verbose=0)
    np.testing.assert_allclose(before, losses(solved), rtol=1e-4)
    np.testing.assert_allclose(after, losses(model), rtol=1e-4)
    assert after.mean() < before.mean() - 0.02
    frozen = np.array_equal(low, model.get_layer("low").kernel)
    assert frozen == (layers == 1)


def test_the_best_epoch_is_told_even_where_the_head_is_better():
    model = classifier()
    plan = ft.Plan([ft.Phase(1, 2, 1.0)], head_initializer="auto")
    before, after = losses_around(model, plan, TRAIN, JUDGED)
    assert after.mean() > before.mean()
    np.testing.assert_allclose(after, losses(model), rtol=1e-4)


def test_who_is_too_sure_is_judged_at_the_best_temperature():
    plan = ft.Plan([ft.Phase("all", 6, 0.1)], head_initializer="auto")
    model, other = classifier(), classifier()
    _, after = losses_around(model, plan, TRAIN, JUDGED, calibrated=True)
    _, raw = losses_around(other, plan, TRAIN, JUDGED)
    assert after.mean() < raw.mean() - 0.01
    report = ft.evaluate(ft.calibrate(model, JUDGED), JUDGED, verbose=0)
    np.testing.assert_allclose(
        after.mean(), report.metrics["log_loss"], rtol=1e-5
    )


def test_the_head_is_that_of_the_plan_to_come():
    """Under dropout a head is solved otherwise where more than it trains."""
    phases = ft.plans.linear_probe()[0], ft.Phase("all", 1, 1e-3)
    plan = ft.Plan(phases, head_initializer="auto")
    before, _ = losses_around(classifier(0.3), plan, TRAIN, JUDGED)
    history = ft.fine_tune(classifier(0.3), plan, TRAIN, JUDGED, verbose=0)
    solved = history.phases[0]["solved"]["val_loss"]
    np.testing.assert_allclose(before.mean(), solved, rtol=1e-5)
    alone = ft.fine_tune(
        classifier(0.3), ft.plans.linear_probe(), TRAIN, JUDGED, verbose=0
    )
    assert abs(alone.phases[0]["solved"]["val_loss"] - solved) > 1e-4
