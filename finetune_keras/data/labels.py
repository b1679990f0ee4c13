"""Raw labels to what a model is trained on; the task they make."""

import collections
import numbers
import typing

import numpy as np

from finetune_keras.data.label_checks import one_column

TASKS = ("classification", "multi_label", "regression")
_FEW = 20
_MOST = float(np.finfo("float32").max)


class Targets(typing.NamedTuple):
    """Encoded labels."""

    task: str
    classes: list | None
    y: np.ndarray


def encode(labels, task=None, classes=None):
    """Encodes labels and finds the task.

    Strings, booleans and integers of at most 20 values make a
    classification; lists of labels, or rows of zeros and ones, a multi-label
    task; floats a regression. Other integers are not guessed at.

    Args:
        labels: List or array, one entry an example.
        task: One of `"classification"`, `"multi_label"`, `"regression"`, or
            `None` to infer it. Defaults to `None`.
        classes: List of strings. Names of the integers 0, 1, ...; for strings
            their order. Defaults to the sorted labels.

    Returns:
        `Targets`: `y` is int32 ids, float32 multi-hot rows or float32 values.

    Raises:
        ValueError: If labels are missing, unknown or of no clear task.
    """
    if task not in (None, *TASKS):
        raise ValueError(f"`task` must be one of {TASKS}. Received: {task!r}")
    labels = _as_array(labels)
    _check_missing(labels)
    task = task or _infer(labels)
    if task == "regression":
        if classes is not None:
            raise ValueError(
                "A regression has no classes; leave `classes` out, or pass "
                f'task="classification". Received: classes={classes!r}'
            )
        return Targets(task, None, _floats(labels))
    if task == "multi_label":
        return Targets(task, *_multi_hot(labels, classes))
    return Targets(task, *_class_ids(labels, classes))


def check_classes(classes, name="classes"):
    """Names of classes as a list of strings.

    Integers are names only where they are their own places, 0, 1, ...: others
    could be meant as places or as labels.

    Args:
        classes: List of strings, in the order of the outputs.
        name: String, the argument that messages speak of. Defaults to
            `"classes"`.

    Returns:
        List of strings.

    Raises:
        ValueError: If it is a string or a set, if a name is no string, or
            stands twice.
    """
    listed = isinstance(classes, (list, tuple))
    if not listed and getattr(classes, "ndim", None) != 1:
        _refuse_classes(name, classes, "It has an order.")
    names = [x.decode() if isinstance(x, bytes) else x for x in classes]
    if all(x is not True and x is not False for x in names):
        places = names == list(range(len(names)))
        names = [str(int(x)) for x in names] if places else names
    odd = [x for x in names if not isinstance(x, str)]
    if odd or not names:
        what = f"{odd[0]!r} is no string." if odd else "There is none."
        _refuse_classes(name, classes, what)
    twice, count = collections.Counter(names).most_common(1)[0]
    if count > 1:
        _refuse_classes(name, classes, f"{twice!r} stands twice.")
    return [str(x) for x in names]


def count_classes(classes, name="classes"):
    """Tells how many classes there are, and their names where they are known.

    Args:
        classes: See `check_classes`; or an integer.
        name: See `check_classes`.

    Returns:
        `(count, names)`; names are `None` for an integer.
    """
    if isinstance(classes, numbers.Integral):
        return classes, None
    names = check_classes(classes, name)
    return len(names), names


def _refuse_classes(name, classes, why):
    raise ValueError(
        f"`{name}` must be a list of names, all different strings, in the "
        f"order of the outputs. {why} Received: {name}={classes!r}"
    )


def as_array(values):
    """An array; beside texts, what is no text does not become one."""
    if isinstance(values, (list, tuple)) and any(
        isinstance(value, (str, bytes)) for value in values
    ):
        array = np.empty(len(values), object)
        array[:] = values
        return array
    return np.asarray(values)


def split_labels(labels, separator):
    """Turns `"a,b"` into `["a", "b"]`; an empty string into no label."""
    _refuse_missing([i for i, x in enumerate(labels) if _lacks(x) and str(x)])
    return [
        [part.strip() for part in str(x).split(separator) if part.strip()]
        for x in labels
    ]


def _as_array(labels):
    first = next(iter(labels), None)
    if isinstance(first, (list, tuple, set, frozenset)):
        if _is_matrix(labels):
            return np.asarray(labels)
        rows = np.empty(len(labels), object)
        rows[:] = [list(x) for x in labels]
        return rows
    return one_column(as_array(labels))


def _is_matrix(rows):
    """Tells rows of numbers, or of zeros and ones, from lists of labels."""
    if len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        return False
    values = [value for row in rows for value in row]
    if not all(isinstance(v, (int, float, np.number)) for v in values):
        return False
    floats = any(isinstance(v, (float, np.floating)) for v in values)
    return floats or set(values) <= {0, 1}


def is_missing(value):
    """Tells `None`, NaN and the empty string from a value."""
    # NAType and NaTType of pandas, which need not be there.
    kind = type(value).__name__
    none = value is None or kind in ("NAType", "NaTType")
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return none or (isinstance(value, str) and value == "")


def _check_missing(labels):
    if labels.dtype == object:
        missing = [i for i, x in enumerate(labels) if _lacks(x)]
    elif labels.dtype.kind == "f":
        bad = ~np.isfinite(labels)
        missing = np.flatnonzero(bad.reshape(len(labels), -1).any(1))
    else:
        missing = np.flatnonzero(labels == "") if _textual(labels) else []
    _refuse_missing(missing)


def _refuse_missing(missing):
    if len(missing):
        raise ValueError(
            f"{len(missing)} examples have no label, or one that is NaN or "
            "infinite. Leave them out. "
            f"Received: missing labels at {[int(i) for i in missing[:10]]}"
        )


def _lacks(label):
    """Tells whether a label, or one of several, is missing."""
    if isinstance(label, list):
        return any(map(is_missing, label))
    return is_missing(label)


def _infer(labels):
    if labels.ndim == 2:
        zero_one = np.isin(labels, (0, 1)).all()
        return "multi_label" if zero_one else "regression"
    if len(labels) and isinstance(labels[0], list):
        return "multi_label"
    if labels.dtype.kind == "f" or _all_are(labels, (float, np.floating)):
        return "regression"
    if not _whole_numbers(labels):
        return "classification"
    values = np.unique(labels)
    if len(values) <= _FEW:
        return "classification"
    raise ValueError(
        f"The labels are integers with {len(values)} different values: classes "
        'or amounts? Pass task="classification" or task="regression". '
        f"Received: labels from {values[0]} to {values[-1]}"
    )


def _class_ids(labels, classes):
    if labels.ndim == 2:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
            raise ValueError(
                "Labels of a classification are one an example, or one-hot "
                f"rows. Received: labels of shape {labels.shape}"
            )
        labels = labels.argmax(1)
    if _whole_numbers(labels) and classes is not None:
        names = check_classes(classes)
        return names, _named_ids(labels, names)
    labels = labels if _whole_numbers(labels) else np.array(_texts(labels))
    values, ids = np.unique(labels, return_inverse=True)
    names = [str(value) for value in values]
    if classes is None:
        return names, ids.astype("int32")
    classes = check_classes(classes)
    order = _positions(names, classes)
    return classes, np.array(order, "int32")[ids]


def _named_ids(labels, names):
    count = len(names)
    apart = [
        name
        for i, name in enumerate(names)
        if name.isdecimal() and int(name) < count and int(name) != i
    ]
    if apart:
        raise ValueError(
            "Integers as labels are the places of their names in `classes`, "
            f"where {apart[0]!r} stands in another place. Leave out `classes`, "
            "or pass the labels as strings. "
            f"Received: classes={names} and integer labels"
        )
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"`classes` has {count} names, for the labels 0 to {count - 1}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels.astype("int32")


def _multi_hot(labels, classes):
    if labels.ndim == 2:
        names = [str(i) for i in range(labels.shape[1])]
        names = names if classes is None else check_classes(classes)
        if len(names) != labels.shape[1]:
            raise ValueError(
                f"`classes` must have {labels.shape[1]} names, one a column of "
                f"the labels. Received: classes={classes!r}"
            )
        return names, labels.astype("float32")
    rows = [_texts(row) for row in labels]
    found = sorted({name for row in rows for name in row})
    names = check_classes(classes) if classes is not None else found
    _positions(found, names)
    place = {name: i for i, name in enumerate(names)}
    y = np.zeros((len(rows), len(names)), "float32")
    for target, row in zip(y, rows, strict=True):
        target[[place[name] for name in row]] = 1.0
    return names, y


def _floats(labels):
    odd = [x for x in labels.ravel().tolist() if not _is_float(x)]
    if odd:
        raise ValueError(
            "Labels of a regression must be numbers that float32 can hold. "
            f"Received: {odd[0]!r}, and {len(odd) - 1} more"
        )
    return labels.astype("float32")


def _is_float(value):
    try:
        return bool(abs(float(value)) <= _MOST)
    except (TypeError, ValueError):
        return False


def _positions(found, names):
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ValueError(
            f"Labels that `classes` does not name: {unknown[:10]}. "
            f"Received: classes={names!r}"
        )
    return [names.index(name) for name in found]


def _texts(labels):
    return [x.decode() if isinstance(x, bytes) else str(x) for x in labels]


def _textual(labels):
    return labels.dtype.kind in "USO" or "string" in str(labels.dtype).lower()


def _whole_numbers(labels):
    return labels.dtype.kind in "iu" or (
        _all_are(labels, (int, np.integer)) and not _all_are(labels, bool)
    )


def _all_are(labels, types):
    return labels.dtype == object and all(isinstance(x, types) for x in labels)
