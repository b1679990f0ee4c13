"""Labels against a loss and an output: what one can learn from the other."""

import re

import keras
import numpy as np

# Losses of shares and probabilities, by a part of their name.
_SHARES = ("crossentropy", "categorical_hinge", "dice", "tversky")


def one_column(labels):
    """Labels of shape (n, 1), or masks of (n, height, width, 1), without it.

    Args:
        labels: Array, or whatever has a shape.

    Returns:
        The labels, of one dimension less if the last is one.
    """
    shape = np.shape(labels)
    return labels[..., 0] if len(shape) > 1 and shape[-1] == 1 else labels


def check_targets(labels, loss, shape, name):
    """Raises where a loss cannot learn an output from labels.

    Of a loss that is not Keras's own nobody knows what it can learn from: it
    may take NaN for "not known". It gets whatever is a number.

    Args:
        labels: Array, of as many labels as are known.
        loss: What `compile` takes as the loss of one output.
        shape: Shape of the output with `None` for the batch, or `None`.
        name: String, what messages call the data, such as `"train"`.

    Raises:
        ValueError: If they do not fit.
    """
    kind = _kind_of(loss)
    if not np.ndim(labels):
        return
    labels = as_numbers(labels, name)
    if kind is None:
        return
    _check_finite(labels, name)
    columns = shape[-1] if shape else None
    if "sparse" in kind:
        labels = _check_ids_alone(labels, shape, name)
        ignored = getattr(loss, "ignore_class", None)
        kept = labels if ignored is None else labels[labels != ignored]
        check_class_ids(kept, columns, name)
    elif any(part in kind for part in _SHARES):
        _check_columns(labels, kind, shape, name)
        _check_shares(labels, kind, columns, name)


def as_numbers(labels, name):
    """Labels as an array of numbers; raises where there are others."""
    labels = np.asarray(labels)
    if labels.dtype.kind in "biuf":
        return labels
    if labels.dtype.kind not in "OSU":
        # Such as bfloat16, which is no kind of NumPy's own.
        return labels.astype("float32")
    odd = [x for x in labels.ravel().tolist() if not _is_number(x)]
    if not odd:
        return labels.astype("float64")
    raise ValueError(
        f"The labels of `{name}` must be numbers: the model does not know the "
        "names of its classes. Number them from 0 in the order of the outputs "
        "(`np.unique(y, return_inverse=True)`), or make the data by "
        f"`ft.from_arrays`, which does it. Received: {odd[0]!r} among "
        f"{len(labels)} labels"
    )


def check_class_ids(labels, count, name):
    """Raises where labels are no numbers of classes.

    Args:
        labels: Array of numbers.
        count: Integer, number of classes, or `None` if it is not known.
        name: String, what messages call the data.
    """
    if not labels.size:
        return
    if labels.dtype.kind == "f":
        odd = np.flatnonzero(labels.ravel() != np.floor(labels.ravel()))
        if len(odd):
            raise ValueError(
                f"The labels of `{name}` must be whole numbers, the ids of "
                "classes. For amounts compile a loss of regression, for "
                "shares of classes one that is not sparse. Received: "
                f"{labels.ravel()[odd[0]]} as label {odd[0]}"
            )
    low, high = labels.min(), labels.max()
    if low < 0 or (count is not None and high >= count):
        allowed = "" if count is None else f", for 0 to {count - 1}"
        raise ValueError(
            f"The labels of `{name}` go from {low} to {high}, and the model "
            f"has {count or 'some'} outputs{allowed}. Give the head as many "
            "classes as there are, or number the labels from 0. "
            f"Received: {name} with {len(labels)} labels"
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
    if "categorical" in kind and labels.ndim < rank:
        raise ValueError(
            f"The labels of `{name}` are integers, and the loss {kind!r} "
            "wants one column a class. Compile the model with "
            '"sparse_categorical_crossentropy". '
            f"Received: labels of {labels.shape}"
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
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def _is_number(value):
    return isinstance(value, (bool, int, float, np.number))
