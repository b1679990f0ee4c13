import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import finetune_keras as ft
from finetune_keras.training.best import Best
from finetune_keras.training.linear_probe import solve_probe
from finetune_keras.training.probe_table import FOLDS, ProbeTable


def features(rows=80, columns=6, classes=3, seed=0):
    """Features of many scales, and labels that are not quite linear."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) * np.logspace(-2, 2, columns) + 3
    z = (x - x.mean(0)) / x.std(0)
    scores = z[:, :classes] * 1.5 + rng.gumbel(size=(rows, classes))
    return x, z, scores.argmax(axis=1)


def log_loss(logits, y, weight=None):
    shifted = logits - logits.max(axis=1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.average(-chances[np.arange(len(y)), y], weights=weight)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("columns", [6, 150])
def test_it_is_the_regression_of_scikit_learn(classes, columns):
    x, z, y = features(columns=columns, classes=classes)
    probe = solve_probe(x, np.eye(classes)[y], method="logistic")
    strength = 1 / (len(y) * probe.strength) * (2 if classes == 2 else 1)
    other = LogisticRegression(C=strength, tol=1e-10, max_iter=9999).fit(z, y)
    logits = other.decision_function(z)
    if classes == 2:
        logits = np.stack([-logits / 2, logits / 2], axis=1)
    found = x @ probe.kernel + probe.bias
    np.testing.assert_allclose(log_loss(found, y), log_loss(logits, y), 1e-5)
    assert log_loss(probe.left_out, y) == pytest.approx(probe.loss)
    # It is chosen by what was left out, and does better than the labels alone.
    shares = np.bincount(y) / len(y)
    assert probe.loss < -np.sum(shares * np.log(shares))


def test_labels_of_their_own_are_regressions_of_their_own():
    x, z, y = features()
    labels = np.stack([y == 0, y != 1], axis=1).astype("float64")
    probe = solve_probe(x, labels, "sigmoid")
    for column in range(2):
        other = LogisticRegression(
            C=1 / (2 * len(y) * probe.strength), tol=1e-10, max_iter=9999
        ).fit(z, labels[:, column])
        np.testing.assert_allclose(
            x @ probe.kernel[:, column] + probe.bias[column],
            other.decision_function(z),
            atol=1e-2,
        )


def test_values_are_ridge_regression():
    x, z, _ = features()
    y = z[:, :2] @ [[1.0, 2.0], [3.0, -1.0]] + 5
    probe = solve_probe(x, y, "mse")
    other = Ridge(alpha=probe.strength * len(y)).fit(z, y)
    np.testing.assert_allclose(
        x @ probe.kernel + probe.bias, other.predict(z), atol=1e-6
    )


@pytest.mark.parametrize("columns", [6, 260])
def test_weighed_values_are_ridge_regression_with_weights(columns):
    """Also those that each fold is left out of: no pass is made for these."""
    x, _, _ = features(rows=220, columns=columns)
    weight = np.random.default_rng(1).uniform(0.2, 3, 220)
    x_mean = np.average(x, axis=0, weights=weight)
    scale = np.average((x - x_mean) ** 2, axis=0, weights=weight) ** 0.5
    z = (x - x_mean) / scale
    y = z[:, :2] @ [[1.0, 2.0], [3.0, -1.0]] + 5
    y += np.random.default_rng(2).normal(size=y.shape)
    probe = solve_probe(x, y, "mse", weight=weight)
    folds = ProbeTable(x, y, "mse", weight, True, 0).folds
    for rows in (None, *range(FOLDS)):
        known = folds != rows
        strength = probe.strength * weight[known].sum()
        other = Ridge(alpha=strength).fit(z[known], y[known], weight[known])
        if rows is None:
            found, seen = x @ probe.kernel + probe.bias, z
        else:
            found, seen = probe.left_out[~known], z[~known]
        np.testing.assert_allclose(found, other.predict(seen), atol=1e-6)


def test_weights_stand_for_copies():
    x, _, y = features(rows=40)
    y = np.eye(3)[y]
    weight = np.where(np.arange(40) < 10, 3.0, 1.0)
    copies = np.repeat(np.arange(40), weight.astype(int))
    weighed = solve_probe(x, y, method="logistic", weight=weight)
    copied = solve_probe(x[copies], y[copies], method="logistic")
    losses = [
        log_loss(x @ p.kernel + p.bias, y.argmax(1), weight)
        for p in (weighed, copied)
    ]
    if weighed.strength == copied.strength:
        np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0] < log_loss(np.zeros((40, 3)), y.argmax(1), weight)


def test_a_head_without_bias_gets_none():
    x, _, y = features()
    for method in ("logistic", "ridge"):
        probe = solve_probe(x, np.eye(3)[y], method=method, bias=False)
        assert not np.any(probe.bias)
        assert log_loss(x @ probe.kernel, y) < np.log(3)


def test_features_that_tell_nothing_give_the_shares_of_the_classes():
    x = np.full((30, 40), 7.0) + np.arange(40)
    y = np.arange(30) % 3 % 2
    probe = solve_probe(x, np.eye(2)[y])
    logits = x @ probe.kernel + probe.bias
    np.testing.assert_allclose(np.diff(logits), np.log(0.5), atol=0.05)


def test_channels_that_are_put_out_stay_so():
    x, _, y = features()
    dead = 1e-31 * x[:, :2] ** 2
    probe = solve_probe(np.hstack([x, dead]), np.eye(3)[y])
    np.testing.assert_array_equal(probe.kernel[-2:], 0)
    expected = solve_probe(x, np.eye(3)[y]).kernel
    np.testing.assert_allclose(probe.kernel[:-2], expected, rtol=1e-5)


def seldom_active(rows, classes=3):
    """Features that are mostly 0, and tell the class where they are not."""
    rng = np.random.default_rng(1)
    y = np.arange(rows) % classes
    means = np.eye(classes, 40)[y].repeat(2, axis=1)[:, :40]
    return np.maximum(rng.normal(size=(rows, 40)) + means - 0.9, 0) ** 2, y


def test_a_deviation_that_one_example_makes_is_drawn_to_the_usual_one():
    x, y = seldom_active(12)
    probe = solve_probe(x, np.eye(3)[y], method="logistic")
    x_used = x[:, x.std(axis=0) > 0]
    squares = (x_used - x_used.mean(axis=0)) ** 2
    share = squares.max(axis=0) / squares.sum(axis=0)
    part = np.clip(3 * share - 1, 0, 1)
    assert part.min() < 0.5 < 1 == part.max()
    logs = np.log(squares.mean(axis=0)) / 2
    scale = np.exp((1 - part) * logs + part * np.median(logs))
    z = (x_used - x_used.mean(axis=0)) / scale
    strength = 1 / (12 * probe.strength)
    other = LogisticRegression(C=strength, tol=1e-10, max_iter=9999).fit(z, y)
    found = log_loss(x @ probe.kernel + probe.bias, y)
    assert found == pytest.approx(log_loss(other.decision_function(z), y), 1e-4)


@pytest.mark.parametrize("method", ["logistic", "ridge"])
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_few_of_a_class_are_not_sure_of_what_comes(count, method):
    x, y = seldom_active(300)
    few, rest = slice(0, 3 * count), slice(3 * count, None)
    probe = solve_probe(x[few], np.eye(3)[y[few]], method=method)
    logits = x[rest] @ probe.kernel + probe.bias
    assert log_loss(logits, y[rest]) < np.log(3) + 0.1


def test_few_of_many_examples_choose_for_all(monkeypatch):
    from finetune_keras.training import linear_probe

    x, _, y = features(rows=300)
    whole = solve_probe(x, np.eye(3)[y])
    monkeypatch.setattr(linear_probe, "MOST_ROWS", 200)
    part = solve_probe(x, np.eye(3)[y])
    losses = [log_loss(x @ p.kernel + p.bias, y) for p in (whole, part)]
    np.testing.assert_allclose(*losses, rtol=0.05)


# === In a plan ===


def network(classes=3, task="classification"):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="tanh", name="low")(inputs)
    return ft.replace_head(keras.Model(inputs, x), classes, task=task)


@pytest.mark.backends
def test_a_linear_probe_is_solved_in_place_of_its_epochs():
    _, z, y = features()
    model = network()
    data = z[:60], y[:60]
    low = model.get_layer("low").get_weights()
    history = ft.fine_tune(
        model, ft.plans.linear_probe(), data, (z[60:], y[60:]), verbose=0
    )
    assert history.epochs == [] and history.best_epoch == -1
    assert "solved" in str(history)
    assert len(history.plot().axes) == 2
    report = history.phases[0]["head_initializer"]
    assert report.startswith(("logistic, strength", "ridge, strength"))
    np.testing.assert_array_equal(low[0], model.get_layer("low").kernel)
    solved = history.phases[0]["solved"]
    judged = model.evaluate(z[60:], y[60:], verbose=0)
    assert judged[0] == pytest.approx(solved["val_loss"], rel=1e-5)
    # No epoch of a head alone gets below it on what it was solved for.
    loss = model.evaluate(*data, verbose=0)[0]
    assert loss < log_loss(np.zeros((60, 3)), y[:60])


def test_values_and_labels_are_solved_too():
    _, z, y = features()
    numbers = network(1, "regression")
    ft.fine_tune(numbers, ft.plans.linear_probe(), (z, z[:, 0]), verbose=0)
    errors = numbers.predict(z, verbose=0)[:, 0] - z[:, 0]
    assert np.mean(errors**2) < 0.3 * np.var(z[:, 0])
    several = network(2, "multi_label")
    labels = np.stack([y == 0, y != 1], axis=1).astype("float32")
    history = ft.fine_tune(
        several, ft.plans.linear_probe(), (z, labels), verbose=0
    )
    assert history.epochs == []
    right = (several.predict(z, verbose=0) > 0.5) == labels
    assert right.mean() > 0.75


def test_weights_of_classes_reach_the_solution():
    _, z, y = features()
    shares = []
    for weight in (None, {0: 20.0, 1: 1.0, 2: 1.0}):
        model = network()
        ft.fine_tune(
            model,
            ft.plans.linear_probe(),
            (z, y),
            class_weight=weight,
            verbose=0,
        )
        shares.append(np.mean(model.predict(z, verbose=0).argmax(1) == 0))
    assert shares[1] > shares[0] + 0.2


def test_smoothed_labels_are_solved_as_they_are_smoothed():
    _, z, y = features()
    model = network()
    model.compile(
        "sgd", keras.losses.CategoricalCrossentropy(label_smoothing=0.8)
    )
    data = z, np.eye(3)[y]
    ft.fine_tune(model, ft.plans.linear_probe(), data, verbose=0)
    assert model.predict(z, verbose=0).max() < 0.8


def test_a_solved_head_is_left_for_a_gain_beyond_noise_alone():
    x = np.random.default_rng(0).normal(size=(160, 6))
    # No linear map of the features tells these classes apart.
    y = (np.abs(x[:, 0]) > 0.67).astype(int)
    best = {}
    for rate in (1e-6, 0.1):
        phases = [ft.Phase("head"), ft.Phase("all", 20, rate)]
        plan = ft.Plan(phases, head_initializer="auto")
        data = (x[:100], y[:100]), (x[100:], y[100:])
        history = ft.fine_tune(network(2), plan, *data, verbose=0)
        solved = history.phases[0]["solved"]["val_loss"]
        gain = solved - min(history.history["val_loss"])
        best[rate] = history.best_epoch, gain
    # Steps so small change the loss by less than chance does.
    assert best[1e-6][0] == -1 and abs(best[1e-6][1]) < 1e-3
    assert best[0.1][0] >= 0 and best[0.1][1] > 0.1


def test_only_the_solved_head_has_noise_on_its_side():
    best = Best("val_loss")
    best.keep = lambda: None
    best.offer(-1, 0.50)
    best.noise = 0.05
    found = []
    for epoch, value in enumerate((0.47, 0.44, 0.43)):
        best.offer(epoch, value)
        found.append(best.epoch)
    assert found == [-1, 1, 2]


def test_a_head_that_dropout_will_meet_leans_on_no_large_still_feature():
    rng = np.random.default_rng(0)
    x, _, y = features(rows=200, classes=2)
    x = np.hstack([(x - x.mean(0)) / x.std(0), 5 + 0.05 * x[:, :2]])
    plain, steady = (
        solve_probe(x, np.eye(2)[y], by_size=by_size)
        for by_size in (False, True)
    )
    dropped = x * rng.binomial(1, 0.9, (50, *x.shape)) / 0.9
    clean, noisy = (
        [log_loss(z @ p.kernel + p.bias, y) for p in (plain, steady)]
        for z in (x, dropped.reshape(-1, x.shape[1]))
    )
    assert clean[1] < clean[0] + 0.03
    assert noisy[1] < noisy[0] - 0.1


def test_features_far_from_zero_tell_as_much_by_their_size():
    _, z, y = features(rows=200, classes=2)
    plain, by_size = (
        solve_probe(x, np.eye(2)[y], by_size=by_size)
        for x, by_size in ((z, False), (z + 100, True))
    )
    assert by_size.loss == pytest.approx(plain.loss, abs=0.02)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_it_is_solved_so_where_layers_with_dropout_train_next(rate):
    _, z, y = features()
    # What trains next moves little.
    on = ft.Plan([*ft.plans.linear_probe(), ft.Phase("all", 1, 1e-6)], "auto")
    kernels = []
    for plan in (ft.plans.linear_probe(), on):
        old = network()
        dropped = keras.layers.Dropout(rate)(old.layers[-2].output + 2.0)
        model = ft.replace_head(keras.Model(old.input, dropped), 3)
        ft.fine_tune(model, plan, (z, y), verbose=0)
        kernels.append(model.layers[-1].get_weights()[0])
    assert np.allclose(*kernels, atol=1e-4) == (rate == 0)
