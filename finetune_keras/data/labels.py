"""Labels as people have them, and names of classes."""

import collections
import numbers

import numpy as np


def check_classes(classes, name="classes"):
    """Names of classes as a list of different strings, or a `ValueError`.

    Integers are names only where they are their own places, 0, 1, ...: others
    could be meant as places or as labels.
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
    """`(count, names)` of a list of names, or of an integer: then no names."""
    if isinstance(classes, numbers.Integral):
        return classes, None
    names = check_classes(classes, name)
    return len(names), names


def _refuse_classes(name, classes, why):
    raise ValueError(
        f"`{name}` must be a list of names, all different strings, in the "
        f"order of the outputs. {why} Received: {name}={classes!r}"
    )


# === What labels are ===


def one_column(labels):
    """Labels of shape (n, 1), or masks of (n, height, width, 1), without it."""
    shape = np.shape(labels)
    return labels[..., 0] if len(shape) > 1 and shape[-1] == 1 else labels


def as_array(values):
    """An array; beside texts, what is no text does not become one."""
    if isinstance(values, (list, tuple)) and any(
        isinstance(value, (str, bytes)) for value in values
    ):
        array = np.empty(len(values), object)
        array[:] = values
        return array
    return np.asarray(values)


def as_rows(labels):
    """One array of labels: lists of several stay lists, columns of one go."""
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


def as_text(value):
    """A string, from bytes too."""
    return (
        value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else str(value)
    )


def is_whole(labels):
    """Tells integers, also among objects, from truths and all else."""
    return labels.dtype.kind in "iu" or (
        all_are(labels, (int, np.integer)) and not all_are(labels, bool)
    )


def all_are(labels, types):
    """Tells whether an array of objects has but such ones."""
    return labels.dtype == object and all(isinstance(x, types) for x in labels)


def split_labels(labels, separator):
    """Turns `"a,b"` into `["a", "b"]`; an empty string into no label."""
    _refuse_missing([i for i, x in enumerate(labels) if _lacks(x) and str(x)])
    return [
        [part.strip() for part in str(x).split(separator) if part.strip()]
        for x in labels
    ]


def few(values):
    """Some of many numbers, for a message."""
    values = np.unique(np.asarray(values).ravel())
    picked = values if len(values) <= 5 else values[[0, 1, 2, -2, -1]]
    return [round(float(value), 4) for value in picked]


# === What is missing ===


def is_missing(value):
    """Tells `None`, NaN and the empty string from a value."""
    # NAType and NaTType of pandas, which need not be there.
    kind = type(value).__name__
    none = value is None or kind in ("NAType", "NaTType")
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return none or (isinstance(value, str) and value == "")


def check_missing(labels):
    """Raises where an array of labels lacks some."""
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


def _textual(labels):
    return labels.dtype.kind in "USO" or "string" in str(labels.dtype).lower()


# === Numbers of classes ===


def ids_of_names(labels, names, name=None):
    """Numbers of classes of an array of their names, in its shape."""
    found = [as_text(label) for label in labels.ravel()]
    ids = {name: i for i, name in enumerate(names or ())}
    unknown = sorted(set(found) - set(ids))
    if unknown:
        which = f"The labels of `{name}`" if name else "Labels"
        raise ValueError(
            f"{which} that are strings must be among `classes`, in the order "
            "of the outputs: name them all, or number the labels from 0. "
            f"Received: labels that `classes` does not name: {unknown[:10]}, "
            f"classes={names!r}"
        )
    return np.array([ids[text] for text in found], "int32").reshape(
        labels.shape
    )


def as_numbers(labels, name):
    """Labels as an array of numbers; raises where there are others."""
    labels = np.asarray(labels)
    if labels.dtype.kind in "biuf":
        return labels
    if labels.dtype.kind not in "OSU":
        # Such as bfloat16, which is no kind of NumPy's own.
        return labels.astype("float32")
    number = (bool, int, float, np.number)
    odd = [x for x in labels.ravel().tolist() if not isinstance(x, number)]
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
    """Raises where an array of numbers has others than those of classes.

    `count` is how many classes there are, `None` where that is not known.
    """
    if not labels.size:
        return
    if labels.dtype.kind == "f":
        odd = np.flatnonzero(labels.ravel() != np.floor(labels.ravel()))
        if len(odd):
            raise ValueError(
                f"The labels of `{name}` must be whole numbers, the ids of "
                "classes. For amounts take a loss and a task of regression, "
                "for shares of classes a loss that is not sparse. Received: "
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
