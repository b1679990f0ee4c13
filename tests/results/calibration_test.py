import keras
import numpy as np
import pytest

from finetune_keras.results.calibration import (
    Calibration,
    calibrate,
    find_calibration,
)
from finetune_keras.results.decisions import (
    Decisions,
    conformal_threshold,
    decision_thresholds,
)
from finetune_keras.results.temperature import (
    fit_scaling,
    scaled,
    top_label_ece,
)
from finetune_keras.testing.fresh_process import reload


def too_sure(number, factor=3.0, seed=0):
    """Inputs are the true logits; the model multiplies them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, 4)).astype("float32") * 1.5
    powers = np.exp(x)
    chances = powers / powers.sum(-1, keepdims=True)
    y = (chances.cumsum(-1) < rng.random((number, 1))).sum(-1).clip(max=3)
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(4, activation="softmax", name="head")
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.eye(4) * factor, np.zeros(4)])
    return model, x, y


@pytest.mark.backends
def test_temperature_finds_the_factor_and_changes_no_label():
    model, x, y = too_sure(4000)
    calibrated = calibrate(model, (x, y))
    layer = find_calibration(calibrated)
    assert layer.scale == pytest.approx(1 / 3, rel=0.1)
    facts = layer.facts
    assert facts["ece_after"] < 0.03 < 0.1 < facts["ece_before"]
    _, x, y = too_sure(2000, seed=1)
    before = model.predict(x, verbose=0)
    after = calibrated.predict(x, verbose=0)
    np.testing.assert_array_equal(before.argmax(-1), after.argmax(-1))
    np.testing.assert_allclose(after.sum(-1), 1, atol=1e-6)
    assert top_label_ece(after, y) < 0.06 < 0.1 < top_label_ece(before, y)


def test_vector_scaling_mends_a_shifted_class():
    model, x, y = too_sure(4000, factor=1.0)
    model.get_layer("head").bias.assign([2.0, 0, 0, 0])
    layer = find_calibration(calibrate(model, (x, y), method="vector"))
    shift = np.array(layer.bias) - np.mean(layer.bias[1:])
    assert shift[0] == pytest.approx(-2, abs=0.3)
    np.testing.assert_allclose(layer.scale, 1, atol=0.2)


@pytest.mark.parametrize("number", [20, 20_000])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_few_examples_move_the_temperature_little(number, activation):
    from scipy import optimize, stats

    rng = np.random.default_rng(1)
    z = rng.normal(size=(number, 3))
    if activation == "softmax":
        p, y = np.exp(z), (z + rng.gumbel(size=z.shape)).argmax(-1)
        p = p**3 / (p**3).sum(-1, keepdims=True)
        terms = (np.arange(number), y)
    else:
        p, y = 1 / (1 + np.exp(-3 * z)), rng.logistic(size=z.shape) < z
    p = p.clip(1e-7, 1 - 1e-7)

    def minus_posterior(log_scale, prior):
        if activation == "softmax":
            scaled = p ** np.exp(log_scale)
            chances = (scaled / scaled.sum(-1, keepdims=True))[terms]
        else:
            odds = (p / (1 - p)) ** np.exp(log_scale)
            chances = np.where(y, odds / (1 + odds), 1 / (1 + odds))
        known = prior * stats.norm(0, 0.3).logpdf(log_scale)
        return -np.log(chances).sum() - known

    best, likely = (
        np.exp(optimize.brent(minus_posterior, (prior,), (-0.5, 0)))
        for prior in (1, 0)
    )
    found, _ = fit_scaling(p, y.astype(int), "temperature", activation)
    assert found == pytest.approx(best, rel=1e-4)
    # Of many, the prior is nothing; of few, half of the way.
    assert (found / likely < 1.01) == (number > 1000)


def test_factors_of_classes_are_found_beside_the_common_one():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 40)
    y = rng.integers(0, 3, 40)
    common, _ = fit_scaling(p, y, "temperature", "softmax")
    scale, bias = fit_scaling(p, y, "vector", "softmax")
    values = np.concatenate([np.log(np.array(scale) / common), bias])

    def loss(values):
        z = np.log(p) * common * np.exp(values[:3]) + values[3:]
        chances = np.exp(z)[np.arange(40), y] / np.exp(z).sum(-1)
        return -np.log(chances).sum() + np.sum(values**2)

    assert all(loss(values) < loss(values + 0.01 * row) for row in np.eye(6))
    assert all(loss(values) < loss(values - 0.01 * row) for row in np.eye(6))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scaling_by_one_changes_nothing(activation):
    p = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    np.testing.assert_allclose(scaled(p, 1.0, None, activation, np), p)


def test_certain_probabilities_stay_finite():
    p = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for activation in ("softmax", "sigmoid"):
        for scale in (0.01, 50.0):
            assert np.isfinite(scaled(p, scale, None, activation, np)).all()
    labels = np.array([0, 1, 1])
    assert np.isfinite(fit_scaling(p, labels, "temperature", "softmax")[0])


def test_ece_of_a_case_by_hand():
    p = np.array([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [1] * 7 + [0] * 3)
    assert top_label_ece(p, labels) == pytest.approx((0.3 + 0.0) / 2)


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy", "accuracy"])
def test_thresholds_are_the_best_of_all(metric):
    from sklearn import metrics

    rng = np.random.default_rng(2)
    y = (rng.random((100, 2)) < 0.2).astype(int)
    p = np.clip(0.3 * y + rng.random((100, 2)) * 0.6, 0, 1)
    score = getattr(metrics, f"{metric}_score")
    for i, threshold in enumerate(decision_thresholds(p, y, metric)):
        found = score(y[:, i], p[:, i] >= threshold)
        # Others than these cut nothing else.
        every = [score(y[:, i], p[:, i] >= t) for t in (*p[:, i], 1)]
        assert found >= max(every) - 1e-12


def test_abstention_covers_what_was_asked():
    model, x, y = too_sure(3000)
    layer = find_calibration(calibrate(model, (x, y), coverage=0.7))
    _, x, y = too_sure(3000, seed=1)
    decisions = Decisions(layer(model(x)), layer)
    assert np.mean(~decisions.abstained) == pytest.approx(0.7, abs=0.03)
    wrong = decisions.errors(y)
    assert wrong[~decisions.abstained].mean() < wrong.mean() - 0.05


def test_the_promised_error_holds_on_new_data():
    kept_promise = []
    for seed in range(20):
        model, x, y = too_sure(1500, seed=seed)
        layer = find_calibration(calibrate(model, (x, y), error=0.2))
        _, x, y = too_sure(4000, seed=seed + 100)
        decisions = Decisions(layer(model(x)), layer)
        errors = decisions.errors(y)[~decisions.abstained]
        assert len(errors) > 200
        kept_promise.append(errors.mean() <= 0.2 + 0.01)
    assert np.mean(kept_promise) >= 0.95


def test_a_promise_that_cannot_be_held_is_refused():
    model, x, y = too_sure(60)
    with pytest.raises(ValueError, match="cannot be promised"):
        calibrate(model, (x, y), error=0.01)
    with pytest.raises(ValueError, match="need at least 99"):
        calibrate(model, (x, y), conformal=0.99)


def test_sets_hold_the_true_class_as_often_as_promised():
    model, x, y = too_sure(2000)
    layer = find_calibration(calibrate(model, (x, y), conformal=0.9))
    _, x, y = too_sure(4000, seed=1)
    sets = Decisions(layer(model(x)), layer).sets
    held = [label in found for label, found in zip(y, sets, strict=True)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    assert 1 < np.mean([len(found) for found in sets]) < 4


def test_the_rank_of_the_conformal_threshold():
    p = np.tile(np.linspace(0.1, 1.0, 10)[:, None], (1, 2))
    labels = np.zeros(10, int)
    assert conformal_threshold(p, labels, 0.9) == pytest.approx(0.1)
    assert conformal_threshold(p, labels, 0.8) == pytest.approx(0.2)


@pytest.mark.backends
def test_it_is_saved_with_the_model(tmp_path):
    model, x, y = too_sure(500)
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    calibrated = calibrate(model, (x, y), coverage=0.9, conformal=0.8)
    expected = calibrated.predict(x, verbose=0)
    calibrated.evaluate(x, y, verbose=0)
    loaded = reload(calibrated, x, ["finetune_keras"])
    np.testing.assert_allclose(loaded["outputs"][0], expected, atol=1e-6)
    calibrated.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    config = find_calibration(calibrated).get_config()
    assert find_calibration(again).get_config() == config


def test_it_replaces_an_earlier_calibration():
    model, x, y = too_sure(500)
    once = calibrate(model, (x, y))
    twice = calibrate(once, (x, y))
    assert len(twice.layers) == len(once.layers)
    assert find_calibration(twice).scale == find_calibration(once).scale


@pytest.mark.backends
def test_it_works_on_a_dataset_and_on_sigmoids():
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3)).astype("float32")
    y = (rng.random((600, 3)) < 1 / (1 + np.exp(-x))).astype(int)
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(3, activation="sigmoid")
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.eye(3) * 4, np.zeros(3)])
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(600).batch(50)
    layer = find_calibration(calibrate(model, dataset, metric="f1"))
    assert layer.scale == pytest.approx(0.25, rel=0.3)
    assert len(layer.thresholds) == 3


@pytest.mark.parametrize(
    "options, match",
    [
        ({"method": "platt"}, "method"),
        ({"coverage": 0}, "coverage"),
        ({"coverage": 0.5, "error": 0.1}, "or `error`"),
        ({"metric": "f1"}, "sigmoids"),
        ({"metric": "auc"}, "metric"),
    ],
)
def test_bad_options(options, match):
    model, x, y = too_sure(50)
    with pytest.raises(ValueError, match=match):
        calibrate(model, (x, y), **options)


def test_bad_models_and_labels():
    model, x, y = too_sure(50)
    logits = keras.Model(model.inputs, keras.layers.Dense(4)(model.inputs[0]))
    with pytest.raises(ValueError, match="ends in no softmax"):
        calibrate(logits, (x, y))
    with pytest.raises(ValueError, match="go from 1 to 4"):
        calibrate(model, (x, y + 1))


def test_the_contract_of_the_layer():
    layer = Calibration(0.5, [0.0, 1.0], "sigmoid", [0.3, 0.4], 0.1, 0.2)
    config = layer.get_config()
    same = Calibration.from_config(config)
    assert same.get_config() == config
