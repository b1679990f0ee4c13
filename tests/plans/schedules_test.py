import inspect

import keras
import numpy as np
import pytest

from finetune_keras.plans.schedules import (
    OneCycle,
    SlantedTriangular,
    rate_factor,
)


def values(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def one_cycle(step, peak, total, warmup, start_divisor, end_divisor):
    """fastai's `combined_cos(warmup, peak / start, peak, peak / end)`."""
    share = step / total

    def cosine(start, end, position):
        return start + (1 + np.cos(np.pi * (1 - position))) * (end - start) / 2

    if share < warmup:
        return cosine(peak / start_divisor, peak, share / warmup)
    return cosine(peak, peak / end_divisor, (share - warmup) / (1 - warmup))


def slanted_triangular(step, peak, total, cut_fraction, ratio):
    """Equation 3 of the ULMFiT paper, letter by letter."""
    cut = np.floor(total * cut_fraction)
    if step < cut:
        p = step / cut
    else:
        p = 1 - (step - cut) / (cut * (1 / cut_fraction - 1))
    return peak * (1 + p * (ratio - 1)) / ratio


@pytest.mark.backends("settings0")
@pytest.mark.parametrize(
    "settings",
    [(0.02, 80, 0.25, 25.0, 1e5), (3.0, 37, 0.4, 10.0, 200.0)],
)
def test_one_cycle_equals_the_formula(settings):
    steps = range(settings[1] + 1)
    expected = [one_cycle(step, *settings) for step in steps]
    np.testing.assert_allclose(
        values(OneCycle(*settings), steps), expected, rtol=2e-5, atol=1e-7
    )


def test_a_warm_up_comes_before_the_schedule():
    linear = values(rate_factor("linear", 20, 0.25), [0, 1, 4, 5, 6, 10, 19])
    rise = [1 / 6, 2 / 6, 5 / 6]
    fall = [1, 14 / 15, 10 / 15, 1 / 15]
    np.testing.assert_allclose(linear, rise + fall, rtol=1e-5)
    cosine = keras.optimizers.schedules.CosineDecay(1.0, 15)
    found = values(rate_factor("cosine", 20, 0.25), range(5, 21))
    np.testing.assert_allclose(found, values(cosine, range(16)), rtol=1e-5)
    constant = values(rate_factor("constant", 8, 0.5), range(8))
    np.testing.assert_allclose(constant, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    assert rate_factor("constant", 8) is rate_factor("constant", 8, 0.0) is None
    # An only step is not lost; in epochs the rise begins at 0.
    assert float(rate_factor("cosine", 1, 0.2)(0)) > 0.8
    assert float(rate_factor("cosine", 5, 0.2, step_size=0.0)(0.5)) == 0.5
    cycle = values(rate_factor("one_cycle", 20, 0.5), range(21))
    whole = values(OneCycle(1.0, 20, 0.5), range(21))
    np.testing.assert_array_equal(cycle, whole)


@pytest.mark.backends("settings0")
@pytest.mark.parametrize(
    "settings", [(0.01, 100, 0.1, 32), (4.0, 60, 0.25, 8.0)]
)
def test_slanted_triangular_equals_the_formula(settings):
    steps = range(settings[1] + 1)
    expected = [slanted_triangular(step, *settings) for step in steps]
    np.testing.assert_allclose(
        values(SlantedTriangular(*settings), steps), expected, rtol=2e-5
    )


def test_slanted_triangular_ends_at_its_lowest_for_any_number_of_steps():
    for total in (1, 5, 19, 105):
        rates = values(SlantedTriangular(1.0, total), range(total + 1))
        assert rates.max() == 1.0
        assert rates[-1] == rates.min() == pytest.approx(1 / 32)
    # The paper's own formula goes below zero where the cut was rounded.
    assert slanted_triangular(19, 1.0, 19, 0.1, 32) < 0


@pytest.mark.parametrize(
    "schedule, last",
    [(OneCycle(1.0, 10), 1e-5), (SlantedTriangular(1.0, 10), 1 / 32)],
)
def test_stays_at_the_end(schedule, last):
    after = values(schedule, (10, 11, 1000))
    np.testing.assert_allclose(after, last, rtol=1e-3)


def test_without_a_rise():
    assert float(OneCycle(2.0, 10, warmup_fraction=0)(0)) == 2.0
    assert float(SlantedTriangular(2.0, 10, cut_fraction=0)(0)) == 2.0


SCHEDULES = [
    OneCycle(0.5, 12, 0.3, 20.0, 1e3, name="mine"),
    SlantedTriangular(0.5, 12, 0.3, 20, name="mine"),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_config_has_every_argument(schedule):
    arguments = inspect.signature(type(schedule)).parameters
    assert set(schedule.get_config()) == set(arguments)
    again = type(schedule).from_config(schedule.get_config())
    np.testing.assert_array_equal(
        values(again, range(15)), values(schedule, range(15))
    )


@pytest.mark.backends
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_trains_and_survives_saving(schedule, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), loss="mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)), rng.normal(size=(10, 1))
    model.fit(x, y, batch_size=2, verbose=0)
    rate = float(model.optimizer.learning_rate)
    assert rate == pytest.approx(float(schedule(5)), rel=1e-6)
    model.save(tmp_path / "model.keras")
    optimizer = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert float(optimizer.learning_rate) == pytest.approx(rate)
    assert optimizer.get_config() == model.optimizer.get_config()


@pytest.mark.parametrize("schedule", [OneCycle, SlantedTriangular])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"max_learning_rate": 0.0}, "max_learning_rate=0.0"),
        ({"total_steps": 0}, "total_steps=0"),
        ({"total_steps": 2.5}, "total_steps=2.5"),
    ],
)
def test_wrong_cycle(schedule, arguments, message):
    arguments = {"max_learning_rate": 0.1, "total_steps": 10, **arguments}
    with pytest.raises(ValueError, match=message):
        schedule(**arguments)


@pytest.mark.parametrize(
    "schedule, arguments",
    [
        (OneCycle, {"warmup_fraction": 1.0}),
        (OneCycle, {"start_divisor": 0.5}),
        (OneCycle, {"end_divisor": 0}),
        (SlantedTriangular, {"cut_fraction": -0.1}),
        (SlantedTriangular, {"ratio": 0.5}),
    ],
)
def test_wrong_shape(schedule, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"Received: {name}="):
        schedule(0.1, 10, **arguments)
