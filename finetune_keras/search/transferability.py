"""How well features suit labels, told without training: formulas."""

import numpy as np

from finetune_keras.engine.packages import scipy, sklearn


def logme(features, targets):
    """LogME: the log evidence of linear models on features, an example.

    The model of each target is y = features @ w + noise, with normal w and
    noise, at the two precisions that make y most likely; there is no bias.
    Of several targets it is the mean.

    Args:
        features: Array of shape (examples, features).
        targets: Array of shape (examples,) or (examples, targets): zeros and
            ones for each class, or values.

    Returns:
        Float, in nats; higher is better.

    Reference:

    - [You et al., 2021](https://arxiv.org/abs/2102.11005)
    """
    x = np.asarray(features, "float64")
    y = np.asarray(targets, "float64").reshape(len(x), -1)
    # Of what is never so nothing is to be learnt, with infinite evidence.
    y = y[:, y.any(axis=0)]
    vectors, sizes, _ = np.linalg.svd(x, full_matrices=False)
    parts = vectors.T @ y
    rest = ((y - vectors @ parts) ** 2).sum(axis=0)
    columns = zip(parts.T**2, rest, strict=True)
    found = [_evidence(sizes**2, *column, len(x)) for column in columns]
    return float(np.mean(found) / len(x))


def _evidence(squares, parts, rest, count):
    """The highest log evidence of one target.

    With the best noise for each ratio of noise to weights it hangs on the
    ratio alone; `parts` of the target are along the singular vectors, `rest`
    is what no features reach.
    """
    scale = squares.max() or 1.0
    # What is fitted exactly would have infinite evidence.
    least = np.finfo("float64").eps * (parts.sum() + rest)

    def loss(log_ratio):
        ratio = scale * np.exp(log_ratio)[..., None]
        error = rest + (parts * ratio / (ratio + squares)).sum(axis=-1)
        error = np.maximum(error, least)
        volume = np.log1p(squares / ratio).sum(axis=-1)
        return count * np.log(2 * np.pi * np.e * error / count) + volume

    grid = np.linspace(-35, 35, 141)
    best = grid[loss(grid).argmin()]
    found = scipy.optimize.minimize_scalar(
        loss,
        bounds=(best - 0.5, best + 0.5),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return -0.5 * min(found.fun, loss(best))


def h_score(features, labels, shrinkage=0.0):
    """H-score: how much of the features the classes explain.

    It is the trace of cov(features)^-1 cov(mean of the class), at most one
    less than there are classes. With more features than examples it always
    reaches that, unless the covariance is shrunk.

    Args:
        features: Array of shape (examples, features).
        labels: Integer array of shape (examples,).
        shrinkage: Float from 0 to 1, or `"auto"`: that of Ledoit and Wolf.
            Defaults to `0.0`, the score as it was first defined.

    Returns:
        Float; higher is better.

    Reference:

    - [Bao et al., 2019](https://doi.org/10.1109/ICIP.2019.8803726)
    - [Ibrahim et al., 2021](https://arxiv.org/abs/2110.06893), the shrunk one
    """
    x = np.asarray(features, "float64")
    x = x - x.mean(axis=0)
    if shrinkage == "auto":
        shrinkage = sklearn.covariance.ledoit_wolf_shrinkage(
            x, assume_centered=True
        )
    vectors, sizes, _ = np.linalg.svd(x, full_matrices=False)
    seen = sizes > sizes.max() * max(x.shape) * np.finfo("float64").eps
    vectors, squares = vectors[:, seen], sizes[seen] ** 2
    members = _one_hot(labels)
    sums = members.T @ vectors
    explained = (sums**2 / members.sum(axis=0)[:, None]).sum(axis=0)
    kept = (1 - shrinkage) * squares
    spread = shrinkage * squares.sum() / x.shape[1]
    return float((explained * kept / (kept + spread)).sum())


def leep(probabilities, labels):
    """LEEP: how well the old classes predict the new ones, through a table.

    The table holds the share of each new class among the examples of an old
    one, as far as the old head believes in it.

    Args:
        probabilities: Array of shape (examples, old classes).
        labels: Integer array of shape (examples,).

    Returns:
        Float, the mean log likelihood, at most 0; higher is better.

    Reference:

    - [Nguyen et al., 2020](https://arxiv.org/abs/2002.12462)
    """
    old = np.asarray(probabilities, "float64")
    old = old / old.sum(axis=1, keepdims=True)
    members = _one_hot(labels)
    together = members.T @ old
    total = together.sum(axis=0)
    table = together / np.where(total > 0, total, 1)
    likely = ((old @ table.T) * members).sum(axis=1)
    return float(np.log(likely).mean())


def _one_hot(labels):
    _, ids = np.unique(labels, return_inverse=True)
    return np.eye(ids.max() + 1)[ids]
