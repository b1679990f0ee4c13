"""Examples as they are found, before they are split."""

import dataclasses
import hashlib

import numpy as np

from finetune_keras.data.labels import as_array, is_missing


@dataclasses.dataclass
class Examples:
    """What each way of reading data hands on; private.

    `x` is an array or an `ImageStore`; `names`, `labels`, `digests` and each
    of `columns` have one entry an example, as have `given`, the names of given
    splits, and `groups`, where there are any. `source` says where they come
    from, `kind` what they are, `bad_files` lists (name, reason), `sizes`
    (width, height), `notes` sentences,
    `features` the names of the columns of a table, `label_digests` what labels
    in files of their own hold.
    """

    x: object
    names: list
    labels: object
    digests: list
    source: str
    kind: str = "examples"
    image_size: object = None
    columns: dict = dataclasses.field(default_factory=dict)
    given: object = None
    groups: object = None
    bad_files: list = dataclasses.field(default_factory=list)
    sizes: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)
    features: list = None
    label_digests: list = None


def digest(value):
    """Hash of a row of an array, or of a text."""
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    elif not isinstance(value, bytes):
        value = np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(value).hexdigest()[:32]


# What folders and sets call the splits.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def checked_groups(groups, count):
    """Groups as a list, or `None` where there are none."""
    if groups is None:
        return None
    if callable(groups) or isinstance(groups, str) or len(groups) != count:
        raise ValueError(
            f"`group_by` must be an array with {count} values, one an example"
            f"; for a table, also a column. Received: group_by={groups!r}"
        )
    # What is not known stands alone, and is not one large group.
    groups = as_array(groups).tolist()
    return [None if is_missing(group) else group for group in groups]


def checked_splits(given, count):
    """Given splits as an array, or `None` where there are none."""
    if given is None:
        return None
    given = np.asarray(given).astype(str)
    unknown = sorted(set(given.tolist()) - set(SPLIT_NAMES))
    if unknown or len(given) != count:
        raise ValueError(
            '`split` must name "train", "validation" or "test" for each of '
            f"the {count} examples. Received: {len(given)} names, of which "
            f"unknown: {unknown[:10]}"
        )
    return np.array([SPLIT_NAMES[name] for name in given])
