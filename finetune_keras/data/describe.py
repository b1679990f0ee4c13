"""What data looks like, as a layout."""

import collections
import statistics

from finetune_keras.data.labels import is_missing
from finetune_keras.data.layout import Listing, Table

_MOST_CLASSES = 30
_MOST_LINES = 20


def describe(data, examples):
    """The layout of `DataSplits` and the `Examples` in it."""
    lines = [_title(data, examples), _table(data)]
    if examples.sizes:
        lines.append(_sizes(examples))
    if isinstance(examples.x, dict):
        lines.append(
            Listing(f"Columns: {len(data.kinds)}", _columns(data, examples.x))
        )
    lines += _imbalance(data)
    lines += _listing(
        f"Bad files, left out: {len(data.bad_files)}",
        [f"{_shown(name)}: {why}" for name, why in data.bad_files],
    )
    lines += _listing(
        f"Equal content in two splits: {len(data.duplicates)}",
        [f"{_shown(a)} = {_shown(b)}" for a, b in data.duplicates],
    )
    lines += _listing(f"Notes: {len(data.notes)}", data.notes)
    return lines


def _title(data, examples):
    count = sum(data.sizes.values())
    classes = "" if data.classes is None else f", {len(data.classes)} classes"
    return f"{examples.source}: {count:,} {examples.kind}{classes}, {data.task}"


def _table(data):
    splits = [name for name, size in data.sizes.items() if size]
    rows = [
        [_name(c), *(data.counts[s][c] for s in splits)]
        for c in (data.classes or [])[:_MOST_CLASSES]
    ]
    bars = range(1, 1 + len(splits)) if rows else ()
    hidden = len(data.classes or []) - len(rows)
    if hidden > 0:
        rows.append([f"({hidden} more)", *([""] * len(splits))])
    rows.append([data.task.total, *(data.sizes[s] for s in splits)])
    first = "" if data.classes is None else "class"
    return Table([first, *splits], rows, bars=bars)


def _sizes(examples):
    """The sizes of images, or the lengths and rates of sounds."""
    one, two = zip(*examples.sizes, strict=True)
    if examples.kind != "sounds":
        return (
            f"Image sizes (min / median / max): width {_spread(one)}, height "
            f"{_spread(two)}"
        )
    length = _spread([round(n / rate, 3) for n, rate in examples.sizes])
    rates = sorted(collections.Counter(two).items())
    found = ", ".join(f"{rate:,} Hz ({count})" for rate, count in rates)
    return f"Seconds (min / median / max): {length}; rates: {found}"


def _columns(data, x):
    """What the columns of a table are, and how much of them is missing."""
    found = []
    for (name, kind), column in zip(
        data.kinds.items(), x.values(), strict=True
    ):
        lacks = [is_missing(value) for value in column[:, 0].tolist()]
        share = sum(lacks) / len(lacks)
        count = f", {len(set(column.flat) - {''})} values" * (
            kind == "category"
        )
        missing = f", {share:.1%} missing" * (share > 0)
        found.append(f"{_shown(str(name))}: {kind}{count}{missing}")
    return found


def _imbalance(data):
    counts = {c: n for c, n in data.counts["train"].items() if n}
    if data.task.is_dense:
        return []
    if len(counts) < 2:
        return []
    small, large = min(counts, key=counts.get), max(counts, key=counts.get)
    which = f"{_name(large)} {counts[large]}, {_name(small)} {counts[small]}"
    which = f" ({which})" if counts[large] > counts[small] else ""
    return [f"Imbalance in train: {counts[large] / counts[small]:.1f}{which}"]


def _listing(title, lines):
    if not lines:
        return []
    shown = list(lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        shown.append(f"and {len(lines) - _MOST_LINES} more")
    return [Listing(title, shown)]


def _spread(values):
    middle = statistics.median(values)
    return f"{min(values)} / {middle:g} / {max(values)}"


def _name(name):
    """A class as it is, unless that would break the table."""
    return name if name.isprintable() else repr(name)


def _shown(name):
    return repr(name) if isinstance(name, str) else f"example {name}"
