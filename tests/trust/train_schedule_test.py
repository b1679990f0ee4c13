"""The schedule of a phase goes by step, on every way that a run may take."""

import keras
import numpy as np
import pytest
from keras import optimizers as ko

import finetune_keras as ft

pytestmark = pytest.mark.usefixtures("op_by_op")
SCHEDULES = {
    "cosine": ko.schedules.CosineDecay,
    "one_cycle": ft.OneCycle,
}
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
STEPS = 3  # an epoch has 20 examples in batches of 8


def network(optimizer, **compiling):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="tanh", name="body")(inputs)
    x = keras.layers.Dense(1, name="head")(x)
    model = keras.Model(inputs, x)
    model.compile(optimizer, "mse", **compiling)
    return model


def tune(model, *phases, train=(X, Y), **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    if not isinstance(train, tuple):
        del options["batch_size"]
    return ft.fine_tune(model, ft.Plan(phases), train, **options)


def by_hand(model, epochs):
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


def assert_same(model, expected, atol=1e-6):
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.backends("memory")
@pytest.mark.traced
@pytest.mark.parametrize(
    "name, cache", [("cosine", "off"), ("one_cycle", "memory")]
)
def test_a_phase_takes_the_rates_of_the_schedule_step_by_step(name, cache):
    """Phases of 3 epochs and 2: as with schedules of 9 and of 6 steps."""
    model = network(ko.SGD(0.1))
    phases = [
        ft.Phase("head", 3, learning_rate=0.05, schedule=name),
        ft.Phase("all", 2, schedule=name),
    ]
    history = tune(model, *phases, cache=cache)
    expected = network("sgd")
    for layers, peak, epochs in (("head", 0.05, 3), ("all", 0.1, 2)):
        ft.freeze(expected)
        ft.unfreeze(expected, layers)
        schedule = SCHEDULES[name](peak, STEPS * epochs)
        expected.compile(ko.SGD(schedule), "mse")
        by_hand(expected, epochs)
    assert_same(model, expected)
    rates = history.history["learning_rate"]
    assert rates[:3] == pytest.approx(
        [float(SCHEDULES[name](0.05, 9)(step)) for step in (2, 5, 8)], rel=1e-5
    )
    # Nothing of it is left in what is traced.
    by_hand(model, 1)
    expected.compile(ko.SGD(0.1), "mse")
    assert_same(model, by_hand(expected, 1))


OPTIMIZERS = {
    "accumulation": lambda rate: ko.SGD(rate, gradient_accumulation_steps=2),
    "loss scale": lambda rate: ko.LossScaleOptimizer(ko.SGD(rate)),
}


@pytest.mark.backends("loss scale")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_follows_the_schedule(name):
    model = network(OPTIMIZERS[name](0.1))
    tune(model, ft.Phase("all", 2, schedule="one_cycle"))
    schedule = ft.OneCycle(0.1, 2 * STEPS)
    expected = network(OPTIMIZERS[name](schedule))
    assert_same(model, by_hand(expected, 2))


def test_rates_by_depth_follow_the_schedule():
    model = network(ko.AdamW(0.1, weight_decay=0.5))
    phase = ft.Phase("all", 2, layerwise_lr_decay=0.3, schedule="cosine")
    tune(model, phase)
    expected = network("sgd")
    optimizer = ko.AdamW(SCHEDULES["cosine"](0.1, 6), weight_decay=0.5)
    optimizer = ft.layerwise_optimizer(optimizer, expected, decay=0.3)
    expected.compile(optimizer, "mse")
    assert_same(model, by_hand(expected, 2))


@pytest.mark.traced
def test_several_steps_at_once_have_a_rate_each():
    ends = [network(ko.SGD(0.1), steps_per_execution=n) for n in (1, 3)]
    for model in ends:
        tune(model, ft.Phase("all", 2, schedule="cosine"))
    assert_same(*ends)


@pytest.mark.backends
def test_a_run_that_stops_amid_a_schedule_ends_as_an_unbroken_one(tmp_path):
    plan = [
        ft.Phase("head", 1, learning_rate=0.05),
        ft.Phase("all", 3, schedule="one_cycle"),
    ]
    whole = network(ko.Adam(0.01))
    options = {"validation": (X, Y), "shuffle": True}
    keras.utils.set_random_seed(3)
    expected = tune(whole, *plan, checkpoint_dir=tmp_path / "a", **options)
    for stop_after in (2, None):
        broken = network(ko.Adam(0.01))
        keras.utils.set_random_seed(3)
        history = tune(
            broken, *plan, checkpoint_dir=tmp_path / "b",
            stop_after=stop_after, **options,
        )  # fmt: skip
    assert_same(broken, whole, atol=0)
    for name in ("learning_rate", "val_loss"):
        assert history.history[name] == expected.history[name]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute"
)
@pytest.mark.traced
def test_variables_of_a_strategy_follow_the_schedule():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = network(ko.SGD(0.1))
    tune(model, ft.Phase("all", 2, schedule="cosine"), cache="off")
    expected = network(ko.SGD(SCHEDULES["cosine"](0.1, 6)))
    assert_same(model, by_hand(expected, 2))


def of_unknown_length():
    """A dataset of three batches that does not know how many."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    return data.filter(lambda x, y: True)


def test_data_of_unknown_length_goes_by_step_from_the_second_epoch():
    model = network(ko.SGD(0.1))
    schedule = SCHEDULES["cosine"](0.1, 9)
    with pytest.warns(UserWarning, match="that epoch has one rate"):
        history = tune(
            model,
            ft.Phase("all", 3, schedule="cosine"),
            ft.Phase("all", 2, schedule="one_cycle"),
            train=of_unknown_length(),
            cache="off",
        )
    steps = [1.5, 5, 8]
    expected = [float(schedule(step)) for step in steps]
    expected += [float(ft.OneCycle(0.1, 6)(step)) for step in (2, 5)]
    np.testing.assert_allclose(
        history.history["learning_rate"], expected, rtol=1e-5
    )
    hand = by_hand(network(ko.SGD(expected[0])), 1)
    rates = [schedule(step) for step in range(3, 9)]
    rates += [ft.OneCycle(0.1, 6)(step) for step in range(6)]
    for i, rate in enumerate(rates):
        hand.optimizer.learning_rate = float(rate)
        rows = slice(i % 3 * 8, i % 3 * 8 + 8)
        hand.train_on_batch(X[rows], Y[rows])
    assert_same(model, hand)


class Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        rate = self.model.optimizer.learning_rate
        self.seen.append(float(keras.ops.convert_to_numpy(rate)))


def test_callbacks_see_the_rate_of_each_step():
    rates = Rates()
    phase = ft.Phase("all", 3, learning_rate=0.05, schedule="one_cycle")
    tune(network("sgd"), phase, callbacks=[rates])
    expected = [float(ft.OneCycle(0.05, 9)(step)) for step in range(9)]
    np.testing.assert_allclose(rates.seen, expected, rtol=1e-5)


def test_a_callback_that_lowers_the_rate_lowers_what_is_left_of_it():
    rates = Rates()
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.1, patience=1, min_delta=10.0
    )
    phase = ft.Phase("all", 4, learning_rate=0.05, schedule="cosine")
    history = tune(network("sgd"), phase, callbacks=[plateau, rates])
    schedule = SCHEDULES["cosine"](0.05, 12)
    factors = np.repeat([1, 1, 0.1, 0.01], 3)
    rates_by_step = [float(schedule(step)) for step in range(12)]
    # A rate that is assigned at the end of an epoch is that of the next step.
    np.testing.assert_allclose(rates.seen, rates_by_step * factors, rtol=1e-4)
    assert history.epochs[1]["learning_rate"] < rates.seen[5]


def test_a_plan_with_a_schedule_refuses_an_optimizer_with_one():
    model = network(ko.SGD(SCHEDULES["cosine"](0.1, 9)))
    with pytest.raises(ValueError, match="leave out `learning_rate` and `sch"):
        tune(model, ft.Phase("all", 3, schedule="cosine"))
