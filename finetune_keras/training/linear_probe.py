"""A linear head, solved on features until nothing is left to gain."""

import contextlib
import functools

import numpy as np

from finetune_keras.engine.packages import (
    require,
    scipy,
    sklearn,
    threadpoolctl,
)
from finetune_keras.training.probe_table import FOLDS, ProbeTable, losses_of

# By task, what the outputs of its head are for.
LOSSES = {
    "classification": "softmax",
    "multi_label": "sigmoid",
    "regression": "mse",
}
# The strength of the penalty is chosen on so many examples at most.
MOST_ROWS = 4000
# More outputs than these have a solution by least squares alone.
MOST_COLUMNS = 200
# Strengths that are tried, from the strongest on, until they fit too closely.
STRENGTHS = np.logspace(2, -6, 17)
# Of the loss, by each logit, as large as it is where little is certain.
CURVATURE = 0.1
# Where no example is wrong, each would be a little better than that before.
LEAST_GAIN = 5e-3
# Of the gradient of a solution; what only chooses is not so exact.
EXACT = 1e-6


class Probe:
    """A linear map from features to logits, or to values.

    Attributes:
        kernel: Float array (features, outputs).
        bias: Float array (outputs,).
        method: String, `"logistic"`, `"ridge"` or `"lda"`.
        strength: Float, of the penalty on the squares of the kernel of
            standardised features, beside the mean loss; `None` of `"lda"`.
        left_out: Float array (examples, outputs), logits or values of each
            example by a solution without it. `None` where none were made.
        loss: Float, the mean loss of these.
    """

    def __init__(
        self, kernel, bias, method, strength=None, left_out=None, loss=None
    ):
        self.kernel, self.bias, self.method = kernel, bias, method
        self.strength, self.left_out, self.loss = strength, left_out, loss

    def __str__(self):
        if self.strength is None:
            return self.method
        return f"{self.method}, strength {self.strength:.2g}"


def solve_probe(
    x,
    y,
    loss="softmax",
    method="auto",
    weight=None,
    bias=True,
    seed=0,
    by_size=False,
):
    """Solves a linear head on features.

    `"logistic"` is the regression of scikit-learn on standardised features,
    with `C = 1 / (examples * strength)`, twice that for two classes: convex,
    and solved by L-BFGS. `"ridge"` is least squares, sharpened to logits. The
    strength of their penalty is chosen by cross-validation, on targets that
    are the softer, the fewer examples there are. `"auto"` is the better of the
    two.

    Args:
        x: Float array (examples, features).
        y: Float array (examples, outputs): shares of classes that sum to one,
            labels in [0, 1], or values.
        loss: `"softmax"`, `"sigmoid"` or `"mse"`, what the outputs are for.
        method: `"auto"`, `"logistic"`, `"ridge"` or `"lda"`. Defaults to
            `"auto"`.
        weight: Float array (examples,), or `None`. Defaults to `None`.
        bias: Boolean, whether the head has one. Defaults to `True`.
        seed: Integer, of the folds. Defaults to `0`.
        by_size: Boolean, whether features are to be changed in part later, as
            by dropout, so that those are to count little which are large and
            hardly vary. Defaults to `False`.

    Returns:
        A `Probe`.

    Reference:

    - [Ledoit and Wolf, 2004](https://doi.org/10.1016/S0047-259X(03)00096-4),
      for the covariance of `"lda"`
    """
    if method == "lda":
        return Probe(*_lda(x, y.argmax(axis=1)), method)
    if len(x) > MOST_ROWS:
        return _solve_many(x, y, loss, method, weight, bias, seed, by_size)
    with one_thread():
        table = ProbeTable(x, y, loss, weight, bias, seed, by_size)
        names = _methods(method, loss, y.shape[1])
        probes = [_SOLVERS[name](table) for name in names]
    best = min(probes, key=lambda probe: table.soft_loss(probe.left_out))
    best.kernel, best.bias = table.unfolded(best.kernel, best.bias)
    return best


def require_solver(method):
    """Raises where the package that solves by this method is missing."""
    require(sklearn if method == "lda" else scipy)


def one_thread():
    """Products of such matrices are over before threads have met."""
    try:
        return _threads().limit(limits=1, user_api="blas")
    except ImportError:
        return contextlib.nullcontext()


@functools.cache
def _threads():
    # To look for the libraries takes as long as to solve for few examples.
    return threadpoolctl.ThreadpoolController()


def _methods(method, loss, columns):
    if method != "auto":
        return [method]
    if loss == "sigmoid":
        return ["logistic"]
    few = loss == "softmax" and columns <= MOST_COLUMNS
    return ["logistic", "ridge"] if few else ["ridge"]


def _solve_many(x, y, loss, method, weight, bias, seed, by_size):
    """Solves on all examples as some of them have chosen to."""
    some = np.random.default_rng(seed).permutation(len(x))[:MOST_ROWS]
    part = None if weight is None else weight[some]
    chosen = solve_probe(
        x[some], y[some], loss, method, part, bias, seed, by_size
    )
    table = ProbeTable(x, y, loss, weight, bias, seed, by_size)
    # A penalty weighs the less, the more examples there are.
    strength = chosen.strength * MOST_ROWS / len(x)
    if chosen.method == "ridge":
        kernel, bias = _least_squares(table, _moments(table), strength)
        outputs = table.x @ kernel + bias
        factor = 1.0 if loss == "mse" else _sharpness(table, outputs)
        solution = kernel * factor, bias * factor
    else:
        kernel, bias = _descend(
            table, table.weight[None], strength, None, EXACT
        )
        solution = kernel[0], bias[0]
    probe = Probe(*table.unfolded(*solution), chosen.method, strength)
    probe.loss = chosen.loss
    return probe


# === Logistic regression ===


def _logistic(table):
    """Kernel, bias, strength, and left-out logits, by L-BFGS.

    The folds are solved at once: what is one after the other for the others
    costs one product of matrices.
    """
    weights, start = table.train_weights(), None
    best, worse = (np.inf,), 0
    for strength in STRENGTHS:
        start = _descend(table, weights, strength, start, 1e-3)
        outputs = table.held_out(*start)
        loss = table.soft_loss(outputs)
        if loss < best[0] - LEAST_GAIN:
            best, worse = (loss, strength, outputs, start), 0
        else:
            worse += 1
        if worse == 2:
            break
    _, strength, outputs, (kernels, biases) = best
    start = kernels.mean(0, keepdims=True), biases.mean(0, keepdims=True)
    solved = _descend(table, table.weight[None], strength, start, EXACT)
    solution = solved[0][0], solved[1][0]
    loss = table.mean_loss(outputs)
    return Probe(*solution, "logistic", strength, outputs, loss)


def _descend(table, weights, strength, start, tolerance):
    """Kernels (problems, features, outputs) and biases of several problems.

    Each is the mean loss by its weights, and half the strength times the
    squares of the kernel.
    """
    problems, outputs = len(weights), table.y.shape[1]
    weights = weights / weights.sum(axis=1, keepdims=True)
    # Few numbers are 1 in all examples; this one may train freely. Examples
    # come last: NumPy is slow in sums over few numbers.
    x = np.vstack([table.x.T, np.full((1, len(table.x)), float(table.bias))])
    squares = np.append(np.mean(table.x**2, axis=0), 1.0)
    decay = np.append(np.full(table.x.shape[1], strength), 0.0)
    # Steps are as long along each axis as the loss is flat there: few
    # iterations, and the same solution.
    scale = 1 / np.sqrt(CURVATURE * squares + decay)
    x, decay = x * scale[:, None], decay * scale**2
    shape = problems, outputs, len(x)
    first, y = np.zeros(shape), table.y.T
    if tolerance > EXACT:
        x, y = x.astype("float32"), y.astype("float32")
        weights = weights.astype("float32")
    if start is not None:
        first = np.concatenate([start[0], start[1][:, None]], axis=1)
        first = np.moveaxis(first, 1, 2) / scale

    def objective(flat):
        matrix = flat.reshape(-1, len(x))
        logits = (matrix.astype(x.dtype) @ x).reshape(problems, outputs, -1)
        losses, slopes = losses_of(logits, y, table.kind, axis=1)
        slopes = (weights[:, None] * slopes).reshape(len(matrix), -1)
        value = np.sum(weights * losses) + np.sum(decay * matrix**2) / 2
        return value, (slopes @ x.T + decay * matrix).ravel()

    found = scipy.optimize.minimize(
        objective,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": tolerance, "ftol": tolerance**2, "maxiter": 1000},
    )
    matrix = np.moveaxis(found.x.reshape(shape) * scale, 2, 1)
    return matrix[:, :-1], matrix[:, -1] * table.bias


# === Least squares ===


def _ridge(table):
    """Kernel, bias, strength, and outputs with the fold of each left out.

    Targets 0 and 1 as logits would give a softmax that is nearly flat, and
    the first steps of training would spoil the features to sharpen it.
    """
    strength, moments = _best_strength(table), _moments(table)
    # A fold is a part of the sums: those of the others need no pass of theirs.
    solutions = [
        _least_squares(table, moments - _moments(table, rows), strength)
        for rows in [table.folds == fold for fold in range(FOLDS)]
    ]
    outputs = table.held_out(*zip(*solutions, strict=True))
    factor = 1.0 if table.kind == "mse" else _sharpness(table, outputs)
    kernel, bias = _least_squares(table, moments, strength)
    outputs = outputs * factor
    loss = table.mean_loss(outputs)
    return Probe(
        kernel * factor, bias * factor, "ridge", strength, outputs, loss
    )


def _best_strength(table):
    """The strength with the least error where each example is left out."""
    weight = table.weight / table.weight.sum()
    root = np.sqrt(weight)[:, None]
    x = table.x * root
    y = (table.y - (weight @ table.y) * table.bias) * root
    values, products, best = np.sum(x**2, axis=0), x.T @ y, (np.inf, 0.0)
    # Strengths relative to the features, whatever their scale.
    scale = values.sum() / max(len(values), 1)
    for strength in scale * np.logspace(-5, 3, 17) + 1e-12:
        shrunk = 1 / (values + strength)
        leverage = x**2 @ shrunk + 1 / len(x)
        solution = products * shrunk[:, None]
        left = (y - x @ solution) / (1 - leverage[:, None]).clip(1e-9)
        best = min(best, (np.sum(left**2), strength))
    return best[1]


def _moments(table, rows=slice(None)):
    """Sums of the products of features, targets and a one, by weights."""
    ones = np.ones((len(table.x), 1))
    columns = np.hstack([table.x, table.y, ones])[rows]
    return (columns.T * table.weight[rows]) @ columns


def _least_squares(table, moments, strength):
    count, moments = table.x.shape[1], moments / moments[-1, -1]
    means = moments[-1, :-1] * table.bias
    squares = moments[:count, :-1] - np.outer(means[:count], means)
    gram, products = squares[:, :count], squares[:, count:]
    gram[np.diag_indices_from(gram)] += strength
    kernel = np.linalg.solve(gram, products)
    return kernel, means[count:] - means[:count] @ kernel


def _sharpness(table, outputs):
    """The factor on outputs under which the targets are most likely."""

    def loss(log_factor):
        # Of hard targets, where no example is wrong, it would be infinite.
        return table.soft_loss(outputs * np.exp(log_factor))

    found = scipy.optimize.minimize_scalar(
        loss, bounds=(-2, 6), method="bounded"
    )
    return np.exp(found.x)


def _lda(x, y):
    lda = sklearn.discriminant_analysis.LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage="auto"
    )
    lda.fit(x, y)
    kernel, bias = lda.coef_.T, lda.intercept_
    if kernel.shape[1] == 1:
        # Two classes come as one difference of logits.
        kernel = np.concatenate([-kernel / 2, kernel / 2], axis=1)
        bias = np.concatenate([-bias / 2, bias / 2])
    return kernel, bias


_SOLVERS = {"logistic": _logistic, "ridge": _ridge}
