"""Examples of tables: one matrix, texts, columns of several kinds, images."""

import os
import pathlib

import numpy as np

from finetune_keras.data.arrays import as_features, digests, is_text, matrix
from finetune_keras.data.examples import Examples, digest
from finetune_keras.data.files import check_bad_files, check_images
from finetune_keras.data.labels import is_missing, split_labels
from finetune_keras.data.pipeline import ImageStore
from finetune_keras.data.table_columns import is_mixed, kinds_of, read_column
from finetune_keras.data.table_layers import input_name
from finetune_keras.data.walk import stamp


def examples_of(columns, inputs, labels, options):
    """The `Examples` of columns of features and labels, files not read."""
    y = columns[labels[0]]
    if len(labels) > 1:
        y = matrix({name: columns[name] for name in labels})
        if np.isin(y, (0, 1)).all() and options["task"] != "regression":
            options["classes"] = options["classes"] or labels
    if options["label_separator"] is not None:
        y = split_labels(y, options["label_separator"])
    features = {name: columns[name] for name in inputs}
    if options["kinds"] is not None or is_mixed(features):
        return _mixed(features, y, options)
    x = _inputs(features)
    return Examples(x, list(range(len(x))), y, digests(x), "")


def _mixed(features, y, options):
    if options["image_size"] is not None:
        raise ValueError(
            "Images from files are the only feature: leave `kinds` out, and "
            "name one column of paths. Received: features="
            f"{list(features)}, image_size={options['image_size']}"
        )
    kinds = kinds_of(features, options["kinds"] or "auto")
    options["kinds"] = kinds
    x = {
        input_name(name): read_column(name, column, kinds[name])
        for name, column in features.items()
    }
    if len(x) < len(features):
        raise ValueError(
            "Inputs of a model have no `/` in their names, and without it "
            f"columns are called alike. Received: features={list(features)}"
        )
    rows = zip(*(column[:, 0].tolist() for column in x.values()), strict=True)
    marks = [digest(repr(row)) for row in rows]
    notes = [*_names_of_rows(x, kinds)]
    return Examples(x, list(range(len(marks))), y, marks, "", notes=notes)


def _names_of_rows(x, kinds):
    """Notes on categories of which nearly all are different."""
    for name, kind in kinds.items():
        values = x[input_name(name)]
        if kind == "category" and len(set(values.flat)) > 0.9 * len(values):
            yield (
                f"Column {name!r} has another category in nearly each row: "
                "where these are names of rows they teach nothing, and are "
                "left out of `features`."
            )


def _inputs(columns):
    for name, column in columns.items():
        _check_whole(name, column)
    if any(map(is_text, columns.values())):
        return as_features(*columns.values())
    return matrix(columns)


def _check_whole(name, column):
    """Raises where a column has missing values."""
    lacks = [is_missing(value) for value in column.tolist()]
    if any(lacks):
        raise ValueError(
            f"Column {name!r} has {sum(lacks)} missing values. Fill them in, "
            'leave the rows out, or pass `kinds="auto"`, with which numbers '
            "may be missing. Received: missing values at "
            f"{np.flatnonzero(lacks)[:10].tolist()}"
        )


def with_images(examples, options):
    """Takes the texts for paths of images, and checks the files."""
    folder = os.fspath(options["folder"] or ".")
    names = [str(name) for name in examples.x]
    files = [(n, *stamp(pathlib.Path(folder, n))) for n in names]
    checks = check_images(folder, files, options["verbose"])
    bad = [(c.name, c.problem) for c in checks if c.problem]
    check_bad_files(bad, options["bad_files"])
    good = np.array([i for i, c in enumerate(checks) if not c.problem], int)
    if not len(good):
        raise ValueError(
            f"None of the {len(names)} images can be used: {bad[:3]}. "
            f"Received: folder={folder!r}"
        )
    checks = [checks[i] for i in good]
    paths = [os.path.join(folder, check.name) for check in checks]
    crop, cache = options["crop_to_aspect_ratio"], options["cache"]
    columns = {name: c[good] for name, c in examples.columns.items()}
    return Examples(
        x=ImageStore(paths, options["image_size"], crop, cache),
        names=[c.name for c in checks],
        labels=[examples.labels[i] for i in good],
        digests=[c.digest for c in checks],
        source=examples.source,
        features=examples.features,
        kind="images",
        image_size=options["image_size"],
        columns={**columns, "path": np.array(paths, object)},
        given=None if examples.given is None else examples.given[good],
        groups=examples.groups and [examples.groups[i] for i in good],
        bad_files=bad,
        sizes=[(c.width, c.height) for c in checks],
        notes=[f"{c.name!r}: {c.note}" for c in checks if c.note],
    )
