"""Files of comma- or tab-separated values."""

import csv
import io
import os

from finetune_keras.data.columns import odd_among_numbers, read_numbers
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.decoding import read_text
from finetune_keras.data.frames import column_names, read_table, texts_meant
from finetune_keras.data.splits import check_fractions


def from_csv(
    path,
    features,
    label,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    separator=None,
    quotes=True,
    encoding=None,
    batch_size=32,
    task=None,
    classes=None,
    balanced=False,
    label_separator=None,
    split=None,
    image_size=None,
    folder=None,
    bad_files="skip",
    cache="auto",
    crop_to_aspect_ratio=False,
    verbose=1,
    kinds=None,
):
    """Reads examples from a file of comma- or tab-separated values.

    The first line names the columns. A column is of integers or floats where
    every value is one, else of strings; `"NA"` and `"None"` are strings, an
    empty value is missing. Where most values of a feature or label are numbers
    and a few are not, such as `"1,5"`, the file is refused, with the line; of
    other columns it is noted.

    Args:
        path: String or path. Tabs separate in a `.tsv` file.
        separator: String between two values. Defaults to `None`: a tab in
            `.tsv` and `.tab` files, else a comma.
        quotes: Boolean, `False` where `"` is a sign like any other. Defaults to
            `True`.
        encoding: String, such as `"cp1252"`. Defaults to `None`, UTF-8 or what
            the file begins with.
        folder: String or path that the paths of images are relative to.
            Defaults to `None`, that of the file.
        features, label, validation_split, test_split, group_by, seed: As in
            `from_frame`.
        batch_size, task, classes, balanced, label_separator, split: As in
            `from_frame`.
        image_size, bad_files, cache, crop_to_aspect_ratio, verbose, kinds: As
            in `from_frame`.

    Returns:
        `DataSplits`.

    Raises:
        ValueError: If lines differ in their number of values, the encoding is
            another one, numbers cannot be read, and as `from_frame`.

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
    options = {
        "batch_size": batch_size,
        "task": task,
        "classes": classes,
        "balanced": balanced,
        "label_separator": label_separator,
        "split": split,
        "image_size": image_size,
        "folder": folder,
        "bad_files": bad_files,
        "cache": cache,
        "crop_to_aspect_ratio": crop_to_aspect_ratio,
        "verbose": verbose,
        "kinds": kinds,
    }
    if separator is None:
        separator = "\t" if path.lower().endswith((".tsv", ".tab")) else ","
    text = read_text(path, encoding)
    lines, rows = _split(path, text, separator, quotes)
    frame = {name: read_numbers(column) for name, column in rows.items()}
    if options["folder"] is None:
        options["folder"] = os.path.dirname(path)
    fractions = check_fractions(validation_split, test_split)
    columns = (features, label, group_by)
    notes = _check_numbers(frame, lines, columns, options)
    examples = read_table(frame, columns, options, f"File {path!r}")
    examples.notes += notes
    return DataSplits(examples, fractions, seed, options)


def _split(path, text, separator, quotes):
    """Numbers of the lines, and a dict from names to columns of strings."""
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=quoting,
        strict=True,
    )
    try:
        rows = [(reader.line_num, row) for row in reader if row]
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
    (_, header), *rows = rows
    uneven = [(i, row) for i, row in rows if len(row) != len(header)]
    if uneven or len(set(header)) != len(header):
        line, row = uneven[0] if uneven else (1, header)
        raise ValueError(
            f"Each line must have {len(header)} values with names of their "
            f"own, {header}. {len(uneven)} lines have not, such as line {line}"
            f", {row}. Is the separator right? "
            f"Received: separator={separator!r}"
        )
    columns = zip(*(row for _, row in rows), strict=True)
    return [i for i, _ in rows], dict(zip(header, columns, strict=True))


def _check_numbers(frame, lines, columns, options):
    """Notes on columns that are almost of numbers; raises for those used."""
    features, labels = column_names(columns[0]), column_names(columns[1])
    meant = texts_meant(features, labels, options)
    notes = []
    for name, column in frame.items():
        odd = odd_among_numbers(column) if column.dtype == object else []
        if not odd or name in meant:
            continue
        found = (
            f"Column {name!r} is of texts, for {len(odd)} of {len(column)} "
            f"values are no plain numbers, such as {column[odd[0]]!r} in line "
            f"{lines[odd[0]]}."
        )
        if name in [*features, *labels]:
            raise ValueError(
                f"{found} Write numbers as 1234.5, and leave out the lines in "
                "which one is missing. Where texts are meant, read the table "
                "yourself and use `ft.from_frame`; for classes pass "
                f'`task="classification"`. Received: {name!r} as a '
                f"{'label' if name in labels else 'feature'}"
            )
        notes.append(found)
    return notes
