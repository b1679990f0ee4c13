"""Features and targets of a linear head, as its solvers take them."""

import numpy as np

FOLDS = 5
# Up to so many examples a deviation that one of them makes counts for nothing;
# it is taken as it is from twice as many on.
MANY = 100


class ProbeTable:
    """Standardised features, targets, weights and folds.

    The features are turned to their principal axes, of which there are no more
    than examples: a penalised solution lies among them, and by the weights of
    the examples no two axes have a product. `by_size` a feature is
    one on average with the rest of its size, not with its deviation alone:
    what is large and the same nearly everywhere is not made loud.
    """

    def __init__(self, x, y, loss, weight, bias, seed, by_size=False):
        x, self.y = np.asarray(x, "float64"), np.asarray(y, "float64")
        self.kind, self.bias = loss, bias
        rows = len(x)
        self.weight = np.ones(rows) if weight is None else weight / 1.0
        self.mean = np.average(x, axis=0, weights=self.weight) * bias
        squares = (x - self.mean) ** 2 * self.weight[:, None]
        scale = np.sqrt(squares.sum(axis=0) / self.weight.sum())
        # What is the same everywhere, but for rounding, tells nothing.
        tells = scale > 1e-6 * np.abs(x).max(axis=0)
        # Channels that weight decay has put out, as MiniLM has: to make them
        # as loud as the others takes a kernel that no later step survives.
        tells &= scale > 1e-7 * np.median(scale)
        scale[tells] = _steadied(scale[tells], squares[:, tells])
        if by_size and tells.any():
            sizes = np.hypot(scale, self.mean)
            # As loud as all features would be by their deviations.
            shares = scale[tells] / sizes[tells]
            scale = sizes * np.sqrt(np.mean(shares**2))
        self.inverse = np.divide(1, scale, where=tells, out=0 * scale)
        x = (x - self.mean) * self.inverse
        self.x, self.turn = _turned(x, self.weight)
        self.folds = _folds(self.y, loss, seed)
        self.soft = self.y if loss == "mse" else _softened(self.y, loss)

    def train_weights(self):
        """Array (folds, examples): weights of those of the other folds."""
        return np.stack([self.weight * (self.folds != k) for k in range(FOLDS)])

    def losses(self, outputs):
        """Loss of each example."""
        return losses_of(outputs, self.y, self.kind)[0]

    def held_out(self, kernels, biases):
        """Outputs of each example by the solution without its fold."""
        outputs = np.zeros(self.y.shape)
        for fold in range(FOLDS):
            rows = self.folds == fold
            outputs[rows] = self.x[rows] @ kernels[fold] + biases[fold]
        return outputs

    def mean_loss(self, outputs):
        return np.average(self.losses(outputs), weights=self.weight)

    def soft_loss(self, outputs):
        """The mean loss to choose by: few examples make nothing certain."""
        losses = losses_of(outputs, self.soft, self.kind)[0]
        return np.average(losses, weights=self.weight)

    def unfolded(self, kernel, bias):
        """Kernel and bias for features as they are."""
        kernel = (self.turn @ kernel) * self.inverse[:, None]
        return kernel, (bias - self.mean @ kernel) * self.bias


def _turned(x, weight):
    """Features along their principal axes, and what turns them."""
    rows, columns = x.shape
    part = x * np.sqrt(weight / weight.mean())[:, None]
    gram = part @ part.T if columns > rows else part.T @ part
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-10 * values.max(initial=0)
    turn = vectors[:, kept]
    if columns > rows:
        turn = part.T @ (turn / np.sqrt(values[kept]))
    return x @ turn, turn


def _steadied(scale, squares):
    """Deviations; those that one example makes are drawn to the usual one.

    A feature that is active in one of few examples has, by chance, nearly no
    deviation, and would outweigh all others wherever else it is active.
    """
    if not len(scale):
        return scale
    owed = squares.max(axis=0) / squares.sum(axis=0)
    few = np.clip(2 - len(squares) / MANY, 0, 1)
    part = few * np.clip(3 * owed - 1, 0, 1)
    return scale ** (1 - part) * np.median(scale) ** part


def _softened(y, loss):
    """Targets as Platt has them, for what is chosen by few examples."""
    number, columns = y.shape
    classes = columns if loss == "softmax" else 2
    return (y * number + 1) / (number + classes)


def _folds(y, loss, seed):
    """Number of the fold of each example; classes are spread evenly."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    if loss == "softmax":
        order = order[np.argsort(y[order].argmax(axis=1), kind="stable")]
    folds = np.empty(len(y), int)
    folds[order] = np.arange(len(y)) % FOLDS
    return folds


def losses_of(outputs, y, kind, axis=-1):
    """Loss of each example, and its slope by the outputs along the axis."""
    if kind == "mse":
        return np.sum((outputs - y) ** 2, axis=axis), 2 * (outputs - y)
    if kind == "sigmoid":
        losses = np.logaddexp(0, outputs) - y * outputs
        # Keras takes the mean over the labels.
        slopes = 0.5 * (1 + np.tanh(0.5 * outputs)) - y
        return losses.mean(axis=axis), slopes / outputs.shape[axis]
    shifted = outputs - outputs.max(axis=axis, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=axis, keepdims=True)
    losses = np.log(sums).squeeze(axis) - np.sum(y * shifted, axis=axis)
    return losses, powers / sums - y
