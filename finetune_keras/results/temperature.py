"""Temperature and vector scaling: the arithmetic under calibration."""

import numpy as np

from finetune_keras.engine.packages import scipy
from finetune_keras.results.formulas import bin_of

# Float32 probabilities end here; further down there are no logits to scale.
_SMALLEST = 1e-7
# Standard deviation of the prior of the logarithm of a temperature, around 0.
_SPREAD = 0.3


def scaled(probabilities, scale, bias, activation, ops):
    """Scales the logits behind probabilities; `ops` is `keras.ops` or NumPy."""
    logits = logits_of(probabilities, activation, ops)
    logits = scaled_logits(logits, scale, bias, ops)
    if activation == "sigmoid":
        return 0.5 * (1 + ops.tanh(0.5 * logits))
    powers = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    return powers / ops.sum(powers, axis=-1, keepdims=True)


def scaled_logits(logits, scale, bias, ops):
    """The logits times `scale`, plus `bias`."""
    dtype = logits.dtype
    if isinstance(scale, (list, tuple)):
        scale = ops.reshape(ops.array(scale, dtype=dtype), (1, -1))
    logits = logits * scale
    if bias is None:
        return logits
    return logits + ops.reshape(ops.array(bias, dtype=dtype), (1, -1))


def logits_of(probabilities, activation, ops):
    """Returns logits that give these probabilities."""
    p = ops.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    if activation == "sigmoid":
        return ops.log(p) - ops.log(1 - p)
    # Not clipped from above, where it would make the surest ones alike.
    return ops.log(ops.maximum(probabilities, _SMALLEST))


def log_loss(probabilities, labels):
    """Mean negative log-likelihood, for class numbers or rows of 0 and 1."""
    p = np.clip(probabilities.astype("float64"), 1e-12, 1 - 1e-12)
    if labels.ndim == 1:
        return -np.mean(np.log(p[np.arange(len(labels)), labels]))
    return -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))


def fit_scaling(probabilities, labels, method, activation):
    """`(scale, bias)` that are the likeliest by labels and prior; plain."""
    probabilities = np.asarray(probabilities, "float64")

    def loss(scale, bias=None):
        after = scaled(probabilities, scale, bias, activation, np)
        return log_loss(after, labels)

    def penalised(log_scale):
        # Beside the labels it weighs the less, the more there are of them.
        prior = (log_scale / _SPREAD) ** 2 / 2
        return loss(np.exp(log_scale)) + prior / labels.size

    # Between a hundredth and a hundredfold: beyond it, all is noise.
    found = scipy.optimize.minimize_scalar(
        penalised, bounds=np.log([0.01, 100]), method="bounded"
    )
    scale = float(np.exp(found.x))
    if method == "temperature":
        return scale, None
    return _fit_vector(loss, scale, probabilities.shape[1], len(labels))


def _fit_vector(loss, common, outputs, examples):
    """A factor of each class beside the common one, and a shift."""

    def penalised(values):
        scale, bias = common * np.exp(values[:outputs]), values[outputs:]
        # A class that is never wrong would get an infinite factor.
        return loss(list(scale), bias) + np.sum(values**2) / examples

    found = scipy.optimize.minimize(
        penalised, np.zeros(2 * outputs), method="L-BFGS-B"
    )
    scale, bias = np.split(found.x, 2)
    return (common * np.exp(scale)).tolist(), bias.tolist()


def confidence(probabilities, thresholds=None):
    """How sure each decision is: from 0 at its threshold to 1.

    For several outputs of a softmax the greatest probability. For sigmoids
    the distance of the nearest probability to its threshold, relative to the
    way from there to 0 or 1.
    """
    p = np.asarray(probabilities, "float64")
    if thresholds is None:
        return p.max(-1)
    t = np.asarray(thresholds, "float64")
    relative = np.where(p >= t, (p - t) / (1 - t), (t - p) / t)
    return relative.min(-1)


def top_label_ece(probabilities, labels):
    """Expected calibration error, in bins as those of `evaluate`.

    For a softmax that of the class predicted; for sigmoids that of all labels.
    """
    p = np.asarray(probabilities, "float64")
    if labels.ndim == 1:
        sure, right = p.max(-1), p.argmax(-1) == labels
    else:
        sure, right = p.reshape(-1), labels.reshape(-1)
    gaps = np.bincount(bin_of(sure), sure - right)
    return float(np.abs(gaps).sum() / len(sure))
