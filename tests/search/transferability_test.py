"""LogME, H-score and LEEP against their formulas, by another route."""

import numpy as np
import pytest
from scipy import optimize
from sklearn.covariance import LedoitWolf

from finetune_keras.search.transferability import h_score, leep, logme

CLASSES = 3


def arrays(examples, width, seed=0):
    """Features that tell the classes somewhat, as after a ReLU."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(examples) % CLASSES)
    x = rng.normal(size=(examples, width))
    x[:, :CLASSES] += 1.5 * np.eye(CLASSES)[y]
    return np.maximum(x, 0.0), y


# === LogME ===


def evidence(x, y, alpha, beta):
    """Log of the normal density of y, from its whole covariance."""
    covariance = np.eye(len(y)) / beta + x @ x.T / alpha
    _, log_det = np.linalg.slogdet(covariance)
    error = y @ np.linalg.solve(covariance, y)
    return -0.5 * (len(y) * np.log(2 * np.pi) + log_det + error)


def evidence_as_published(x, y, alpha, beta):
    """Equation (2) of You et al., with the mean of the weights."""
    n, d = x.shape
    precision = alpha * np.eye(d) + beta * x.T @ x
    mean = beta * np.linalg.solve(precision, x.T @ y)
    return (
        n / 2 * np.log(beta)
        + d / 2 * np.log(alpha)
        - n / 2 * np.log(2 * np.pi)
        - beta / 2 * ((x @ mean - y) ** 2).sum()
        - alpha / 2 * (mean**2).sum()
        - np.linalg.slogdet(precision)[1] / 2
    )


def highest(formula, x, y):
    """Maximised over both precisions, from several starts."""
    found = [
        optimize.minimize(
            lambda logs: -formula(x, y, *np.exp(logs)),
            (a, b),
            method="Nelder-Mead",
            bounds=((-15, 15), (-15, 15)),
            options={"xatol": 1e-9, "fatol": 1e-10, "maxiter": 4000},
        ).fun
        for a in (-2.0, 3.0)
        for b in (0.0, 4.0)
    ]
    return -min(found)


@pytest.mark.parametrize("formula", [evidence, evidence_as_published])
@pytest.mark.parametrize("shape", [(30, 5), (12, 20)])
def test_logme_is_the_highest_evidence(formula, shape):
    x, y = arrays(*shape)
    expected = np.mean(
        [highest(formula, x, (y == c).astype("f8")) for c in range(CLASSES)]
    )
    got = logme(x, np.eye(CLASSES)[y])
    assert got == pytest.approx(expected / len(y), abs=1e-6)


def test_logme_of_values():
    x, _ = arrays(25, 6)
    y = x @ np.arange(6) + np.random.default_rng(1).normal(size=25)
    expected = highest(evidence, x, y) / 25
    assert logme(x, y) == pytest.approx(expected, abs=1e-6)
    assert logme(x, y[:, None]) == logme(x, y)


def test_logme_of_features_that_tell_nothing():
    y = np.eye(2)[np.arange(10) % 2]
    # Each target is then normal, with the mean square 1/2.
    expected = -0.5 * np.log(2 * np.pi * np.e / 2)
    got = logme(np.zeros((10, 4)), y)
    assert got == pytest.approx(expected, abs=1e-6)


def test_logme_is_finite_where_all_is_fitted_exactly():
    y = np.eye(3)[np.arange(30) % 3]
    exact, good = logme(y, y), logme(*arrays_of(y))
    assert np.isfinite(exact)
    assert exact > good > logme(np.ones((30, 1)), y)


def arrays_of(y):
    noise = np.random.default_rng(0).normal(0, 0.1, y.shape)
    return y + noise, y


def test_logme_passes_over_what_is_never_so():
    x, y = arrays(20, 4)
    members = np.eye(CLASSES)[y]
    more = np.concatenate([members, np.zeros((20, 1))], axis=1)
    assert logme(x, more) == pytest.approx(logme(x, members), abs=1e-12)


# === H-score ===


def covariances(x, y):
    means = np.stack([x[y == label].mean(axis=0) for label in y])
    return np.cov(x, rowvar=False, ddof=0), np.cov(means, rowvar=False, ddof=0)


@pytest.mark.parametrize("shape", [(40, 5), (12, 20)])
def test_h_score_is_the_trace(shape):
    x, y = arrays(*shape)
    of_features, of_means = covariances(x, y)
    expected = np.trace(np.linalg.pinv(of_features, rcond=1e-12) @ of_means)
    assert h_score(x, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 5), (12, 20)])
def test_h_score_with_shrinkage(shape):
    x, y = arrays(*shape)
    _, of_means = covariances(x, y)
    shrunk = LedoitWolf().fit(x)
    expected = np.trace(np.linalg.inv(shrunk.covariance_) @ of_means)
    expected *= 1 - shrunk.shrinkage_
    assert 0 < shrunk.shrinkage_ < 1
    assert h_score(x, y, "auto") == pytest.approx(expected, abs=1e-6)


def test_h_score_of_more_features_than_examples_tells_nothing_unshrunk():
    rng = np.random.default_rng(0)
    noise, (x, y) = rng.normal(size=(12, 20)), arrays(12, 20)
    assert h_score(noise, y) == pytest.approx(CLASSES - 1)
    assert h_score(x, y) == pytest.approx(CLASSES - 1)
    assert h_score(x, y, "auto") > h_score(noise, y, "auto")


# === LEEP ===


def test_leep_is_the_mean_log_likelihood():
    rng = np.random.default_rng(0)
    old = rng.dirichlet(np.ones(4), size=15)
    y = np.arange(15) % CLASSES
    total = 0.0
    for i in range(15):
        likely = 0.0
        for z in range(4):
            both = sum(old[j, z] for j in range(15) if y[j] == y[i])
            likely += old[i, z] * both / sum(old[j, z] for j in range(15))
        total += np.log(likely)
    assert leep(old, y) == pytest.approx(total / 15, abs=1e-6)


def test_leep_of_old_classes_that_nobody_believes_in():
    y = np.arange(6) % 2
    old = np.concatenate([np.eye(2)[y], np.zeros((6, 3))], axis=1)
    assert leep(old, y) == pytest.approx(0.0, abs=1e-12)


# === Odd features ===


@pytest.mark.parametrize("shape", [(9, 4), (9, 30), (200, 3)])
def test_constant_features_and_a_class_of_one_example(shape):
    x, y = arrays(*shape)
    x, y = np.concatenate([x, np.ones((len(x), 2))], axis=1), y % 2
    y[0] = 2
    for score in (logme(x, np.eye(3)[y]), h_score(x, y), h_score(x, y, "auto")):
        assert np.isfinite(score)
    constant = np.ones((len(x), 3))
    assert h_score(constant, y) == h_score(constant, y, "auto") == 0.0
    assert np.isfinite(logme(constant, np.eye(3)[y]))


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_no_score_hangs_on_the_scale_of_the_features(factor):
    x, y = arrays(30, 5)
    for score in (lambda a: logme(a, np.eye(3)[y]), lambda a: h_score(a, y)):
        assert score(x * factor) == pytest.approx(score(x), abs=1e-6)
