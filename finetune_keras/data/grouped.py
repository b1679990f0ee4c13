"""Examples of groups, in batches that hold several of each group."""

import typing
import warnings

import numpy as np

from finetune_keras.data.buckets import Buckets
from finetune_keras.data.labels import (
    as_rows,
    as_text,
    check_missing,
    is_whole,
)
from finetune_keras.data.pairs import Pairs


class Rows(typing.NamedTuple):
    """Inputs, and what is known of each: a row each.

    `units` tells which of them belong together, and `size` how many of a unit
    stay in one batch, `None` of labelled ones.
    """

    x: typing.Any
    labels: tuple
    units: np.ndarray
    size: int | None


def learns_groups(task, data):
    """Tells whether a task compares inputs; refuses pairs for any other."""
    if getattr(task, "is_compared", False):
        return True
    if isinstance(data, Pairs):
        raise ValueError(
            "Pairs train an encoder, a model from `ft.text_embedder` or "
            "`ft.image_embedder`. To judge pairs of texts pass `((first, "
            f"second), labels)`. Received: a model for {task}"
        )
    return False


def rows_of(data, batch_size):
    """The `Rows` of pairs, or of a tuple of inputs and labels."""
    if isinstance(data, Pairs):
        size = len(data.columns)
        _check_batch_size(batch_size, 2 * size)
        return Rows(data.x, (data.y,), data.units, size)
    x, y, *weight = data
    if isinstance(x, tuple):
        raise ValueError(
            "An encoder takes one input at a time. Inputs that belong together "
            "are `ft.pairs(anchors, positives)`. "
            f"Received: a tuple of {len(x)} as inputs"
        )
    groups = _numbers(y)
    counts = np.bincount(groups)
    if len(counts) < 2 or counts.max() < 2:
        found = "of one group all" if len(counts) < 2 else "of a group each"
        raise ValueError(
            "An encoder learns from inputs of one group, which it puts "
            "together, and of others, from which it keeps them apart: labels "
            "must tell several groups, and one of them must have two inputs. "
            f"Received: {len(groups)} inputs, {found}"
        )
    _check_batch_size(batch_size, 4)
    alone = int((counts == 1).sum())
    if 2 * alone > len(groups):
        warnings.warn(
            f"{alone} of {len(groups)} inputs are alone in their group: an "
            "encoder learns of them only what to keep them apart from. Inputs "
            "that belong together are `ft.pairs(anchors, positives)`.",
            stacklevel=2,
        )
    return Rows(x, (groups, *weight), groups, None)


def in_groups(data, batch_size=None):
    """Composes batches of arrays; data in batches of their own stay so."""
    if not isinstance(data, (Pairs, tuple, list)):
        return data
    batch_size = batch_size or 32
    if not isinstance(data, Pairs) and len(data) not in (2, 3):
        return data
    rows = rows_of(data, batch_size)
    part = (np.asarray(rows.x), *map(np.asarray, rows.labels))
    places = [np.arange(len(rows.units))]
    return GroupedBuckets(
        [part], batch_size, None, places, [rows.units], rows.size
    )


def _check_batch_size(batch_size, least):
    if batch_size < least:
        raise ValueError(
            f"A batch of an encoder holds at least {least} inputs: those of "
            "one group, and of another to keep them apart from. "
            f"Received: batch_size={batch_size}"
        )


def _numbers(y):
    """Labels of groups, names or numbers or one-hot rows, as 0, 1, ..."""
    y = as_rows(y)
    check_missing(y)
    if y.ndim == 2:
        if not np.isin(y, (0, 1)).all() or (y.sum(axis=1) != 1).any():
            raise ValueError(
                "The labels of an encoder are one group an input: a name, an "
                "integer, or a one-hot row. Inputs that belong together in "
                "pairs are `ft.pairs(anchors, positives)`. "
                f"Received: labels of shape {y.shape}"
            )
        y = y.argmax(axis=1)
    if y.dtype == object and not is_whole(y):
        y = np.array([as_text(one) for one in y])
    return np.unique(y, return_inverse=True)[1].astype("int32")


class GroupedBuckets(Buckets):
    """Examples of groups, in batches that hold several of each.

    Those of a unit of `size` examples stay in one batch. Without `size`, the
    examples of each unit are drawn two by two, other two in each epoch; one
    that is left over comes last.
    """

    def __init__(
        self,
        parts,
        batch_size=32,
        renew=None,
        rows=None,
        units=(),
        size=None,
    ):
        batch_size -= batch_size % (size or 2)
        super().__init__(parts, batch_size, renew, rows)
        self.units, self.size = units, size

    @classmethod
    def of_rows(cls, x, lengths, labels, batch_size, rows, renew=None):
        """Sorts sequences so that what belongs together is of one length."""
        longest, order = _together(lengths, rows.units, rows.size or 2)
        x = {name: array[order] for name, array in x.items()}
        labels = [array[order] for array in labels]
        batch_size -= batch_size % (rows.size or 2)
        sorted_ = Buckets.sort(x, longest[order], labels, batch_size)
        places = [order[one] for one in sorted_.rows]
        units = [rows.units[one] for one in places]
        return cls(sorted_.parts, batch_size, renew, places, units, rows.size)

    def with_parts(self, parts):
        new = super().with_parts(parts)
        new.units, new.size = self.units, self.size
        return new

    def _order(self, part, random):
        random = np.random.default_rng(0) if random is None else random
        units, size = self.units[part], self.size or 2
        rows = random.permutation(len(units))
        rows = rows[np.argsort(units[rows], kind="stable")]
        place, count = _places(units[rows])
        left = place >= count - count % size
        pieces = rows[~left].reshape(-1, size)
        pieces = pieces[random.permutation(len(pieces))]
        return np.concatenate([pieces.ravel(), rows[left]])


def _places(units):
    """The place of each of sorted ones in its unit, and how many are in it."""
    _, first, which, counts = np.unique(
        units, return_index=True, return_inverse=True, return_counts=True
    )
    return np.arange(len(units)) - first[which], counts[which]


def _together(lengths, units, size):
    """`(lengths, order)`: as long as the longest of a piece, and side by side.

    A piece is `size` examples of a unit, of similar length.
    """
    order = np.lexsort((lengths, units))
    place, count = _places(units[order])
    last = np.maximum(count // size - 1, 0)
    starts = (place == 0) | ((place % size == 0) & (place // size <= last))
    piece = np.cumsum(starts) - 1
    longest = np.zeros(piece[-1] + 1, "int64")
    np.maximum.at(longest, piece, lengths[order])
    found = np.empty_like(lengths)
    found[order] = longest[piece]
    return found, order[np.argsort(longest[piece], kind="stable")]
