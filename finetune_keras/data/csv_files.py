"""Files of comma- or tab-separated values."""

import csv
import math
import os
import re

import numpy as np

from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.examples import COMMON, IMAGES, take_options
from finetune_keras.data.frames import FRAME, read_table
from finetune_keras.data.splits import check_fractions

_CSV = {"separator": None, "quotes": True}
_INTEGER = re.compile(r"\s*[+-]?(0|[1-9]\d*)\s*", re.ASCII)
_FLOAT = re.compile(
    r"\s*[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII
)


def from_csv(
    path,
    features,
    label,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    **options,
):
    """Reads examples from a file of comma- or tab-separated values.

    The first line names the columns. A column is of integers or floats where
    every value is one, else of strings; `"NA"` and `"None"` are strings, an
    empty value is missing.

    Args:
        path: String or path; UTF-8. Tabs separate in a `.tsv` file.
        features: See `from_frame`.
        label: See `from_frame`.
        validation_split: See `from_frame`. Defaults to `0.15`.
        test_split: See `from_frame`. Defaults to `0.15`.
        group_by: See `from_frame`. Defaults to `None`.
        seed: Integer. See `from_frame`. Defaults to `0`.
        **options: Those of `from_frame`, where `folder` is that of the file by
            default; `separator=None`, to say another one; `quotes=True`,
            `False` where `"` is a sign like any other.

    Returns:
        `DataSplits`.

    Raises:
        ValueError: If lines differ in their number of values, and as
            `from_frame`.

    Example:

    ```python
    import finetune_keras as ft
    from pathlib import Path

    rows = [f"{i % 7},{i / 9:.3f},{i % 2}" for i in range(60)]
    Path("table.csv").write_text("\\n".join(["a,b,sold", *rows]))
    print(ft.from_csv("table.csv", ["a", "b"], "sold"))
    ```
    """
    path = os.fspath(path)
    options = take_options("from_csv", options, _CSV, COMMON, FRAME, IMAGES)
    separator = options.pop("separator")
    if separator is None:
        separator = "\t" if path.lower().endswith((".tsv", ".tab")) else ","
    frame = _read_csv(path, separator, options.pop("quotes"))
    if options["folder"] is None:
        options["folder"] = os.path.dirname(path)
    fractions = check_fractions(validation_split, test_split)
    columns = (features, label, group_by)
    examples = read_table(frame, columns, options, f"File {path!r}")
    return DataSplits(examples, fractions, seed, options)


def _read_csv(path, separator, quotes):
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(
            file, delimiter=separator, quoting=quoting, strict=True
        )
        try:
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise ValueError(
                f"Line {reader.line_num} cannot be read: {error}. Where quotes "
                "are signs like any other, pass `quotes=False`. "
                f"Received: path={path!r}"
            ) from error
    if len(rows) < 2:
        raise ValueError(
            "The file must hold a line of names and lines of values. "
            f"Received: path={path!r} with {len(rows)} lines"
        )
    header, *rows = rows
    uneven = [i for i, row in enumerate(rows) if len(row) != len(header)]
    if uneven or len(set(header)) != len(header):
        raise ValueError(
            f"Each line must have {len(header)} values with names of their "
            f"own, {header}. {len(uneven)} lines have not, such as "
            f"{rows[uneven[0]] if uneven else header}. Is the separator "
            f"right? Received: separator={separator!r}"
        )
    columns = zip(*rows, strict=True)
    return {n: _typed(c) for n, c in zip(header, columns, strict=True)}


def _typed(column):
    """Integers or floats where all are; what has a leading zero is a name."""
    given = [v for v in column if v.strip()]
    for kind, pattern in ((int, _INTEGER), (float, _FLOAT)):
        if given and all(map(pattern.fullmatch, given)):
            return np.array(
                [kind(v) if v.strip() else math.nan for v in column]
            )
    return np.array(column, object)
