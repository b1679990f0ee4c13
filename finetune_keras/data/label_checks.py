"""Labels against a loss and an output: what one can learn from the other."""

import keras
import numpy as np

from finetune_keras.data.labels import (
    as_numbers,
    check_class_ids,
    few,
    one_column,
)
from finetune_keras.data.outputs import snake_case

# Losses of shares and probabilities, by a part of their name.
_SHARES = ("crossentropy", "categorical_hinge", "dice", "tversky")


def check_targets(labels, loss, shape, name):
    """Raises where a loss cannot learn an output from labels.

    Of a loss that is not Keras's own nobody knows what it can learn from, but
    it itself by a `check_labels`: it may take NaN for "not known". It gets
    whatever is a number. `shape` is
    that of the output, `None` where it is not known; `name` the data's.
    """
    kind = _kind_of(loss)
    if not np.ndim(labels):
        return
    labels = as_numbers(labels, name)
    if hasattr(loss, "check_labels"):
        loss.check_labels(labels, name)
    if kind is None:
        return
    _check_finite(labels, name)
    columns = shape[-1] if shape else None
    if "sparse" in kind:
        labels = _check_ids_alone(labels, shape, name)
        ignored = getattr(loss, "ignore_class", None)
        kept = labels if ignored is None else labels[labels != ignored]
        _check_size(labels, shape, name)
        if kept.ndim == 3 or ignored is not None:
            check_no_255(kept, columns, name)
        check_class_ids(kept, columns, name)
    elif any(part in kind for part in _SHARES):
        _check_columns(labels, kind, shape, name)
        _check_shares(labels, kind, columns, name)


def check_no_255(ids, count, name):
    """Refuses the 255 of masks, which means two things, as a class."""
    if ids.size and ids.max() == 255 and (count or 0) < 256:
        raise ValueError(
            f"The masks of `{name}` hold 255. If they are masks of 0 and 255, "
            "divide them by 255; if it is for pixels of no class, compile the "
            "model with `keras.losses.SparseCategoricalCrossentropy("
            "ignore_class=255)`. `ft.mask_folder` does both. "
            f"Received: masks with values {few(ids)}"
        )


def mask_ids(labels, count):
    """Masks (n, height, width) of class ids, of columns too.

    Columns of one go; of one for each class they must be one-hot.
    """
    if labels.ndim == 4 and labels.shape[-1] == 1:
        return labels[..., 0]
    if labels.ndim == 4:
        hot = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
        if labels.shape[-1] != count or not hot:
            raise ValueError(
                f"Masks with a column for each of {count} classes must have "
                "exactly one 1 at each pixel. "
                f"Received: labels of shape {labels.shape}"
            )
        return labels.argmax(-1)
    if labels.ndim != 3:
        raise ValueError(
            "Masks must have the shape (batch, height, width), (batch, height, "
            "width, 1), or a last axis of a column for each class. "
            f"Received: labels of shape {labels.shape}"
        )
    return labels


def _check_size(labels, shape, name):
    """Refuses masks of another size than the model gives."""
    if not shape or len(shape) != 4 or labels.ndim != 3:
        return
    sizes = zip(labels.shape[1:], shape[1:3], strict=True)
    if any(wanted not in (None, size) for size, wanted in sizes):
        raise ValueError(
            f"The masks of `{name}` must have the size of those that the model "
            f"gives, {shape[1:3]}: `ft.mask_folder(..., image_size=...)` "
            f"resizes both. Received: masks of {labels.shape[1:]}"
        )


def _check_finite(labels, name):
    if labels.dtype.kind != "f":
        return
    bad = ~np.isfinite(labels)
    if bad.any():
        rows = np.flatnonzero(bad.reshape(len(labels), -1).any(axis=1))
        raise ValueError(
            f"{len(rows)} of the {len(labels)} labels of `{name}` are NaN or "
            "infinite. Leave these examples out, or fill in what is missing. "
            f"Received: such labels at {rows[:10].tolist()}"
        )


def _check_ids_alone(labels, shape, name):
    """Raises for one-hot rows; returns labels without a last axis of one."""
    rank = shape and len(shape)
    if rank and labels.ndim == rank and labels.shape[-1] == shape[-1] != 1:
        raise ValueError(
            f"The labels of `{name}` have a column for each class, and the "
            "loss is sparse: it wants the number of the class. Compile the "
            'model with "categorical_crossentropy", or pass '
            f"`y.argmax(axis=-1)`. Received: labels of {labels.shape}"
        )
    return one_column(labels)


def _check_columns(labels, kind, shape, name):
    rank = shape and len(shape)
    columns = shape[-1] if shape else None
    if None in (rank, columns):
        return
    if labels.ndim == rank and labels.shape[-1] != columns:
        raise ValueError(
            f"The labels of `{name}` have {labels.shape[-1]} columns, and the "
            f"model has {columns} outputs. Received: labels of {labels.shape}"
        )
    if "categorical" in kind and labels.ndim == rank:
        _check_apart(labels, name)
    if "categorical" in kind and labels.ndim < rank:
        raise ValueError(
            f"The labels of `{name}` are integers, and the loss {kind!r} "
            "wants one column a class. Compile the model with "
            '"sparse_categorical_crossentropy". '
            f"Received: labels of {labels.shape}"
        )


def _check_apart(labels, name):
    """Refuses several classes at once for a loss of one alone."""
    sums = np.asarray(labels, "float64").sum(axis=-1)
    if sums.size and sums.max() > 1.01 and labels.min() >= 0:
        which = "masks that overlap" if labels.ndim == 4 else "several labels"
        raise ValueError(
            f"The labels of `{name}` have more than one class at once, and the "
            f"loss learns one: {which} need a sigmoid for each class and "
            '"binary_crossentropy". Or leave one class where there are '
            f"several. Received: columns that sum to up to {sums.max():g}"
        )


def _check_shares(labels, kind, columns, name):
    low, high = (labels.min(), labels.max()) if labels.size else (0, 1)
    if low >= -1e-6 and high <= 1 + 1e-6:
        return
    cure = "Number two classes 0 and 1."
    if high == 255:
        cure = "Divide masks of 0 and 255 by 255."
    elif columns == 1 and low >= 0 and labels.ndim < 3:
        cure = (
            "One output tells two classes apart: for more give the head one "
            'output a class, and compile "sparse_categorical_crossentropy".'
        )
    raise ValueError(
        f"The labels of `{name}` go from {low} to {high}, and the loss "
        f"{kind!r} learns shares from 0 to 1. {cure} "
        f"Received: labels of {labels.shape}"
    )


def _kind_of(loss):
    """Name of a loss of Keras, such as "mean_squared_error"; else `None`."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    kind = loss if hasattr(loss, "__name__") else type(loss)
    if not str(getattr(kind, "__module__", "")).startswith("keras."):
        return None
    return snake_case(kind.__name__)
