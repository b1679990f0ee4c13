"""What `fine_tune` takes besides its own arguments, met at the door."""

import math
import numbers

import keras

from finetune_keras.arguments import check, integer, maybe
from finetune_keras.data.source import Source, kind_of
from finetune_keras.data.source_batches import Batches
from finetune_keras.data.source_examples import Arrays
from finetune_keras.data.task import Task

_COUNTS = (
    "batch_size",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "stop_after",
)


def check_fit(fit, train, validation=None):
    """Checks and completes the further arguments of `fine_tune`.

    Returns:
        Tuple of the training data, with `sample_weight` where it was given,
        and of a dict of the arguments, with `callbacks` as a list.
    """
    fit = {**fit, "callbacks": _as_list(fit.get("callbacks"))}
    check(**{name: (fit.get(name), maybe(integer(1))) for name in _COUNTS})
    train = _with_weights(train, fit.pop("sample_weight", None))
    if fit.get("class_weight") is not None and _has_weights(train):
        raise ValueError(
            "`class_weight` and sample weights exclude each other: multiply "
            "the weight of each sample by that of its class. "
            f"Received: class_weight={fit['class_weight']!r}"
        )
    _check_monitor(fit.get("monitor"))
    _check_end("train", train, "steps_per_epoch", fit)
    _check_end("validation", validation, "validation_steps", fit)
    return train, fit


def check_with_model(model, fit):
    """Checks what hangs on the compiled model.

    Keras takes `steps_per_execution` batches at once, and would exceed a
    number of steps that is no multiple of it.
    """
    _check_class_weight(model, fit.get("class_weight"))
    at_once = model.steps_per_execution
    for name in ("steps_per_epoch", "validation_steps"):
        if (fit.get(name) or 0) % at_once:
            raise ValueError(
                f"`{name}` must be a multiple of {at_once}, the "
                "`steps_per_execution` of the model: Keras takes so many "
                f"batches at once, and would take more than these. "
                f"Received: {name}={fit[name]}"
            )


def _check_class_weight(model, weights):
    if weights is None:
        return
    received = f"Received: class_weight={_short(weights)}"
    task = Task.of(model)
    if not getattr(task, "weighs_classes", True):
        raise ValueError(
            f"`class_weight` weighs classes, and the labels of {task} are "
            f"none: pass sample weights, `(x, y, weights)`. {received}"
        )
    if not isinstance(weights, dict):
        cure = "dict(enumerate(weights))"
        if isinstance(weights, str):
            cure = (
                "dict(enumerate(sklearn.utils.class_weight."
                f"compute_class_weight({weights!r}, classes=np.unique(y), "
                "y=y)))"
            )
        raise ValueError(
            "`class_weight` must be a dict from the number of each class to "
            f"its weight: `{cure}`; data of this library has it as "
            f"`data.class_weight`. {received}"
        )
    _check_classes(model, weights, received)
    bad = [w for w in weights.values() if not _is_weight(w)]
    if bad:
        raise ValueError(
            "The weights of `class_weight` must be finite numbers of at "
            f"least 0, and {bad[0]!r} is none. {received}"
        )


def _check_classes(model, weights, received):
    outputs = getattr(model, "outputs", None) or ()
    count = outputs[0].shape[-1] if len(outputs) == 1 else None
    classes = range(2 if count == 1 else count or 0)
    # What `np.unique` finds in labels of floats are whole numbers too.
    odd = [k for k in weights if not _is_class(k)]
    odd += [k for k in weights if count and _is_class(k) and k not in classes]
    missing = [k for k in classes if k not in weights]
    if odd or missing:
        what = f"{odd[0]!r} is none of them" if odd else f"{missing} lack"
        known = f" 0 to {len(classes) - 1}" if classes else ""
        raise ValueError(
            "The keys of `class_weight` must be the numbers of all "
            f"classes{known}, in the order of the outputs, and {what}. A "
            f"class of weight 1 is named too. {received}"
        )


def _is_class(key):
    return isinstance(key, numbers.Real) and key % 1 == 0


def _is_weight(value):
    return isinstance(value, numbers.Real) and 0 <= value < math.inf


def _as_list(callbacks):
    if isinstance(callbacks, keras.callbacks.Callback):
        return [callbacks]
    callbacks = list(callbacks or [])
    odd = [c for c in callbacks if not isinstance(c, keras.callbacks.Callback)]
    if odd:
        raise ValueError(
            "`callbacks` must be a list of instances of "
            f"`keras.callbacks.Callback`. Received: {odd[0]!r} among them"
        )
    return callbacks


def _with_weights(train, weights):
    if weights is None:
        return train
    if not isinstance(train, (tuple, list)) or _has_weights(train):
        raise ValueError(
            "`sample_weight` goes with a tuple of arrays (x, y). Let any other "
            "data give tuples (x, y, sample_weight), and pass weights only "
            f"once. Received: train of type {type(train).__name__}"
        )
    return (*train[:2], weights)


def _has_weights(train):
    arrays = isinstance(train, (tuple, list))
    return arrays and len(train) > 2 and train[2] is not None


def _check_monitor(monitor):
    if monitor is not None and not isinstance(monitor, str):
        raise ValueError(
            "`monitor` must be the name of a metric, such as "
            f'"val_accuracy". Received: monitor={monitor!r}'
        )


def _check_end(name, data, steps, fit):
    """Refuses data without an end, and without steps."""
    if fit.get(steps) is not None or kind_of(data) in (None, Arrays):
        return
    source = Source.of(data)
    unknown = isinstance(source, Batches) and source.num_batches is None
    endless = source.num_batches == math.inf and not source.is_exhausted
    if endless or unknown:
        raise ValueError(
            f"`{name}` never ends, or may not. Say with `{steps}` how many "
            "batches to take, or leave out `repeat()`, or give it a length. "
            f"Received: {name}={data!r}, {steps}=None"
        )


def _short(value):
    text = repr(value)
    return text if len(text) < 80 else f"a {type(value).__name__}"
