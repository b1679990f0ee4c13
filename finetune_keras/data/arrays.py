"""Arrays: their splits, and columns as arrays."""

import numpy as np

from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.examples import (
    Examples,
    checked_groups,
    checked_splits,
    digest,
)
from finetune_keras.data.labels import as_array
from finetune_keras.data.splits import check_fractions


def from_arrays(
    x,
    y,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    batch_size=32,
    task=None,
    classes=None,
    balanced=False,
    columns=None,
    split=None,
):
    """Splits arrays.

    Args:
        x: Array of numbers, one row an example, or list of strings. Images
            have values from 0 to 255.
        y: Array or list of labels, as the column `label` of `from_frame`.
        group_by: Array with a value an example. See `from_frame`. Defaults to
            `None`.
        columns: Dict of arrays to keep, such as the hospital. Defaults to
            `None`.
        split: Array with `"train"`, `"validation"` or `"test"` for each
            example. Defaults to `None`.
        validation_split, test_split, seed, batch_size, task, classes, balanced:
            As in `from_frame`.

    Returns:
        `DataSplits`.

    Raises:
        ValueError: As `from_frame`.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    x = np.random.normal(size=(100, 8))
    data = ft.from_arrays(x, x.sum(axis=1), test_split=0.2)
    print(data.task, data.sizes)
    ```
    """
    options = {
        "batch_size": batch_size,
        "task": task,
        "classes": classes,
        "balanced": balanced,
    }
    fractions = check_fractions(validation_split, test_split)
    kept = {k: np.asarray(v) for k, v in (columns or {}).items()}
    x = as_features(x)
    count = len(x)
    for name, column in {"y": y, **kept}.items():
        if len(column) != count:
            raise ValueError(
                f"`{name}` must have one entry an example, {count}. "
                f"Received: {name} of length {len(column)}"
            )
    examples = Examples(x, list(range(count)), y, digests(x), "Arrays")
    examples.columns = kept
    examples.given = checked_splits(split, count)
    examples.groups = checked_groups(group_by, count)
    return DataSplits(examples, fractions, seed, options)


def matrix(columns):
    """Stacks columns of numbers to a float32 matrix."""
    texts = [name for name, column in columns.items() if is_text(column)]
    if texts:
        raise ValueError(
            "Several columns must be of numbers; encode texts first. "
            f"Received: texts in {texts}"
        )
    numbers = {n: _as_float32(c, f"Column {n!r}") for n, c in columns.items()}
    return np.stack(list(numbers.values()), axis=1)


def as_features(x):
    """Texts as an array of objects, anything else as an array of numbers."""
    x = as_array(x)
    if is_text(x):
        return np.array([_text(i, value) for i, value in enumerate(x)], object)
    if x.dtype.kind not in "biuf" or not x.ndim or not len(x):
        raise ValueError(
            "`x` must be an array of numbers or a list of strings, and not "
            f"empty. Received: x of {x.dtype}, shape {x.shape}"
        )
    # Integers stay: they may be ids of tokens.
    return x if x.dtype.kind in "iu" else _as_float32(x, "`x`")


def _as_float32(values, name):
    """Numbers as float32; raises for what that cannot hold."""
    if values.dtype.kind not in "biufO":
        raise ValueError(
            f"{name} must hold numbers. Turn dates into such, for example the "
            f"days since the first. Received: values of {values.dtype}"
        )
    with np.errstate(over="ignore"):
        numbers = np.asarray(values, "float32")
    bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
    if bad.any():
        first = np.flatnonzero(bad)
        raise ValueError(
            f"{name} has {bad.sum()} examples with values that are missing, "
            "infinite, or too large for float32 (3.4e38). Fill them in, scale "
            "them or leave them out. Received: such values at "
            f"{first[:10].tolist()}, the first {values[first[0]]!r}"
        )
    return numbers


def is_text(column):
    """Tells whether a column holds strings."""
    return column.dtype.kind in "US" or (
        column.dtype.kind == "O"
        and any(isinstance(value, (str, bytes)) for value in column)
    )


def digests(x):
    """Hash of each example."""
    return [digest(row) for row in x]


def _text(place, value):
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise ValueError(
            "Every text must be a string. Leave out examples without one. "
            f"Received: {value!r} of type {type(value).__name__} at {place}"
        )
    return str(value)
