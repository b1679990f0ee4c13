"""Weights of the members of an ensemble, from what they predict."""

import numpy as np

from finetune_keras.engine.packages import scipy
from finetune_keras.results.members import mean_loss
from finetune_keras.results.temperature import logits_of

_ROUNDS = 50
# Standard deviation of the prior of each weight, around equal ones.
_SPREAD = 0.5
_LEAST = 1e-4


def select(task, outputs, labels, counts):
    """Greedy selection with replacement; the fewest rounds of the least loss.

    `outputs` is a list of arrays (examples, columns), one a member; `counts`
    are sample weights, or `None`.
    """
    chosen, best, total = [], (np.inf, 0), 0.0
    for number in range(1, _ROUNDS + 1):
        found = [
            mean_loss(task, labels, (total + x) / number, counts)
            for x in outputs
        ]
        chosen.append(int(np.argmin(found)))
        total = total + outputs[chosen[-1]]
        if min(found) < best[0] - 1e-9:
            best = min(found), number
    times = np.bincount(chosen[: best[1]], minlength=len(outputs))
    return (times / times.sum()).tolist()


def stack(task, outputs, labels, counts):
    """Weights of at least 0 for logarithms of probabilities, or for values."""
    fit = _stack_logits if task.has_chances else _stack_values
    counts = np.ones(len(labels)) if counts is None else counts
    weights = fit(task, np.stack(outputs).astype("float64"), labels, counts)
    weights = np.where(weights < _LEAST, 0.0, weights)
    if not weights.any():
        raise ValueError(
            "No model predicts the labels of `validation` at all. Compare "
            "them one by one with `ft.evaluate`. Received: weights of 0 only"
        )
    return weights.tolist()


def _stack_logits(task, outputs, labels, counts):
    equal = 1 / len(outputs)
    logits = logits_of(outputs, task.output_activation, np)

    def loss(weights):
        together = task.softened(np.tensordot(weights, logits, 1))
        prior = np.sum((weights - equal) ** 2) / (2 * _SPREAD**2)
        # In float64, since the gradient is one of small differences.
        found = task.losses(labels, task.by_class(together))
        return np.average(found, weights=counts) + prior / len(labels)

    start = np.full(len(outputs), equal)
    bounds = [(0, None)] * len(outputs)
    return scipy.optimize.minimize(
        loss, start, method="L-BFGS-B", bounds=bounds
    ).x


def _stack_values(task, outputs, labels, counts):
    """Non-negative least squares, with the prior as rows of its own."""
    count = len(outputs)
    noise = mean_loss(task, labels, outputs.mean(axis=0), counts)
    rows = np.sqrt(counts / counts.mean())[:, None]
    strength = np.sqrt(noise) / _SPREAD
    left = (outputs * rows).reshape(count, -1).T
    right = (labels * rows).reshape(-1)
    left = np.concatenate([left, strength * np.eye(count)])
    right = np.concatenate([right, np.full(count, strength / count)])
    return scipy.optimize.nnls(left, right)[0]
