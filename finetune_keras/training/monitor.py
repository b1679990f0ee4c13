"""The monitored metric: which way is better, and what is compared."""

import re

import keras

from finetune_keras.arguments import check, one_of
from finetune_keras.engine.fit_state import compile_arguments, sync_state
from finetune_keras.engine.private import way_of

_RISING = set(
    "acc accuracy auc auroc auprc rocauc prauc ap map precision recall f1 f2 "
    "fbeta beta r2 iou dice jaccard kappa mcc matthews correlation pearson "
    "spearman similarity true sensitivity specificity tpr tnr ppv npv bleu "
    "rouge meteor ndcg mrr psnr ssim explained match hit hits reward".split()
)
_FALLING = set(
    "loss error mse mae rmse msle rmsle mape smape nll bce distance divergence "
    "entropy crossentropy perplexity hinge poisson cosh logcosh kl kld brier "
    "ece wer cer false fpr fnr fdr deviation cost regret".split()
)
_RISING_ENDS = ("accuracy", "precision", "recall", "similarity")
_FALLING_ENDS = ("loss", "error", "entropy", "distance")


def rises(monitor, mode="auto", model=None):
    """Tells whether a metric is to rise.

    Where `mode` is `"auto"`, it is as the metric of this name in `model` says
    of itself, else as its name says.

    Raises:
        ValueError: If `mode` is unknown, or it cannot be told.
    """
    check(mode=(mode, one_of("auto", "min", "max")))
    if monitor is None or mode != "auto":
        return mode == "max"
    rising = _by_metric(monitor, model)
    if rising is None:
        rising = _by_name(monitor)
    if rising is None:
        raise ValueError(
            "Whether the monitored metric is to rise or to fall cannot be told "
            'from its name. Pass `mode="max"` or `mode="min"`. '
            f"Received: monitor={monitor!r}"
        )
    return rising


def _by_name(monitor):
    """Asks the last telling word: the name of an output may stand before it."""
    name = re.sub(
        r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", monitor
    )
    name = name.lower().replace("io_u", "iou").removeprefix("val_")
    words = re.split(r"[^a-z0-9]+", re.split(r"_at_", name)[0])
    for word in reversed(words):
        forms = {word, word.rstrip("0123456789")}
        if forms & _FALLING or word.endswith(_FALLING_ENDS):
            return False
        if forms & _RISING or word.endswith(_RISING_ENDS):
            return True
    return True if words[-1] == "score" else None


def _by_metric(monitor, model):
    """Asks the metric of that name, where it knows, as Keras does."""
    if model is None or not getattr(model, "compiled", False):
        return None
    # Those of `compile` are wrapped, and unknown until the first batch.
    given = compile_arguments(model)
    given = [given.get("metrics"), given.get("weighted_metrics"), model.metrics]
    name = monitor.removeprefix("val_")
    for metric in keras.tree.flatten(given):
        known = isinstance(metric, keras.metrics.Metric)
        way = way_of(metric) if known else None
        if way and (name == metric.name or name.endswith(f"_{metric.name}")):
            return way == "up"
    return None


def is_skipped(monitor, logs):
    """Tells whether a metric is missing because nothing was validated."""
    validated = any(name.startswith("val_") for name in logs)
    return monitor.startswith("val_") and not validated


def weight_penalty(monitor, model):
    """Returns what the regularisers of weights add to a monitored loss.

    Keras counts those of trainable weights alone, so that a loss jumps when
    layers begin to train, and cannot be compared with the one before. A model
    with a `compute_loss` of its own is left alone: it may not add them.
    """
    if monitor not in ("loss", "val_loss") or model is None:
        return 0.0
    if type(model).compute_loss is not keras.Model.compute_loss:
        return 0.0
    weights = [v for v in model.trainable_weights if v.regularizer is not None]
    if weights:
        sync_state(model)
    terms = [keras.ops.convert_to_numpy(v.regularizer(v)) for v in weights]
    return float(sum(terms))
