"""Tables: columns of numbers, of texts, or of paths of images."""

import collections

import numpy as np

from finetune_keras.data.arrays import is_text
from finetune_keras.data.columns import odd_among_numbers
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.examples import checked_groups, checked_splits
from finetune_keras.data.labels import as_array
from finetune_keras.data.splits import check_fractions
from finetune_keras.data.table_examples import examples_of, with_images


def from_frame(
    frame,
    features,
    label,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
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
    """Reads examples from the columns of a table.

    One column of texts becomes strings, one or several columns of numbers a
    float32 matrix, and, with `image_size`, a column of paths images; missing
    values are refused there. Columns of several kinds, numbers, categories,
    dates and texts, become a dict with an array for each, `(batch, 1)`, and
    may lack values: a model takes them through
    `data.feature_space()`. The other columns are kept in `columns` of the
    result.

    Args:
        frame: `pandas.DataFrame`, or dict from names to columns.
        features: String or list of strings, the columns of the inputs.
        label: String, the column of the labels, or list of strings, columns
            of zeros and ones (multi-label) or of floats (regression). A
            column of strings or of a few integers makes a classification,
            one of lists a multi-label task, one of floats a regression.
        validation_split: Float in [0, 1). Share of the examples; 0 is no
            validation data. Defaults to `0.15`.
        test_split: The same for the test data. Defaults to `0.15`.
        group_by: String, a column, or array with a value an example. Examples
            of one value are never in two splits. Defaults to `None`.
        seed: Integer. Seed of the splits and of the order of training.
            Defaults to `0`.
        batch_size: Integer, examples of a batch. Defaults to `32`.
        task: `"classification"`, `"multi_label"` or `"regression"`, where the
            labels do not tell. Defaults to `None`.
        classes: List of the names of the classes, in their order. Defaults to
            `None`, those found, sorted.
        balanced: Boolean, whether training draws as often from each class.
            Defaults to `False`.
        label_separator: String that divides the labels of one example, such as
            `","`. Defaults to `None`.
        split: String, a column with `"train"`, `"validation"` or `"test"`.
            Defaults to `None`.
        image_size: Integer, or tuple `(height, width)`, in pixels: the feature
            is a column of paths of images. Defaults to `None`.
        folder: String or path that the paths of images are relative to.
            Defaults to `None`, the present folder.
        bad_files: `"skip"` leaves out what cannot be used, `"refuse"` raises.
            Defaults to `"skip"`.
        cache: `True` or `False`, whether pixels are kept in memory; `"auto"`
            where they fit in a third of the free memory. Defaults to `"auto"`.
        crop_to_aspect_ratio: Boolean, whether images are cut to the shape
            around their centre instead of squeezed. Defaults to `False`.
        verbose: 0 or 1, whether progress is shown. Defaults to `1`.
        kinds: Dict from some of `features` to `"number"`, `"category"`,
            `"date"` or `"text"`, where the values do not tell: codes that are
            integers are categories, for example. Or `"auto"`, which takes
            columns of numbers as such a table too, with missing values.
            Defaults to `None`: that is done where the columns are of
            several kinds.

    Returns:
        `DataSplits`.

    Raises:
        ValueError: If a column is missing, has missing values where it may
            not, or values that are not of its kind, or the splits cannot be
            made.

    Example:

    ```python
    import finetune_keras as ft

    frame = {
        "text": [f"film number {i}" for i in range(40)],
        "verdict": ["good", "bad"] * 20,
        "year": [2000 + i // 4 for i in range(40)],
    }
    data = ft.from_frame(frame, "text", "verdict", group_by="year")
    print(data, data.columns["test"]["year"])
    ```
    """
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
    fractions = check_fractions(validation_split, test_split)
    columns = (features, label, group_by)
    examples = read_table(frame, columns, options, "Table")
    return DataSplits(examples, fractions, seed, options)


def read_table(frame, names, options, source):
    """Reads the `Examples` of a table.

    `names` are `(features, label, group_by)`, as for `from_frame`; `options`
    all its options, and `source` what to call the table.
    """
    inputs, labels = column_names(names[0]), column_names(names[1])
    groups = names[2]
    _check_names([str(name) for name in frame])
    columns = {str(name): _column(frame, name) for name in frame}
    used = [options["split"]] if options["split"] else []
    named = [groups] if isinstance(groups, str) else []
    if not inputs or not labels:
        raise ValueError(
            "Name at least one column for each of `features` and `label`. "
            f"Received: features={inputs}, label={labels}"
        )
    _check_columns(columns, [*inputs, *labels, *used], named)
    examples = examples_of(columns, inputs, labels, options)
    examples.source, examples.features = source, inputs
    texts = texts_meant(inputs, labels, options)
    names = [name for name in [*inputs, *labels] if name not in texts]
    examples.notes += [*_almost_numbers(columns, names)]
    count = len(examples.names)
    examples.groups = checked_groups(
        columns[groups] if named else groups, count
    )
    if used:
        examples.given = checked_splits(columns[used[0]], count)
    others = [c for c in columns if c not in inputs + labels + used]
    examples.columns = {name: columns[name] for name in others}
    if options["image_size"] is not None:
        examples = with_images(examples, options)
    return examples


def column_names(names):
    """Names of columns as a list, of one name too."""
    return [names] if isinstance(names, str) else list(names)


def _column(frame, name):
    values = frame[name]
    if isinstance(values, (list, tuple)) and isinstance(
        next(iter(values), None), (list, tuple, set)
    ):
        column = np.empty(len(values), object)
        column[:] = values
        return column
    return as_array(values)


def texts_meant(inputs, labels, options):
    """Columns of which it is told that they are texts: paths and classes."""
    paths = inputs if options["image_size"] is not None else []
    told = options["task"] in ("classification", "multi_label")
    told = told or options["classes"] or options["label_separator"] is not None
    kinds = options["kinds"]
    named = kinds.items() if isinstance(kinds, dict) else ()
    texts = [name for name, kind in named if kind in ("category", "text")]
    return [*paths, *texts, *(labels if told else [])]


def _almost_numbers(columns, names):
    """Notes on texts that are numbers but for a few."""
    for name in names:
        column = columns[name]
        odd = odd_among_numbers(column) if is_text(column) else []
        if odd:
            yield (
                f"Column {name!r} is of texts, for {len(odd)} of "
                f"{len(column)} values are no plain numbers, such as "
                f"{column[odd[0]]!r} at {odd[0]}."
            )


def _check_names(names):
    counts = collections.Counter(names)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(
            "Each column must have a name of its own, or a feature would be "
            f"two. Rename or drop them. Received: {twice} twice, in {names}"
        )


def _check_columns(columns, names, groups):
    unknown = [name for name in names + groups if name not in columns]
    if unknown:
        raise ValueError(
            f"There are no columns {unknown}. Columns: {list(columns)}. "
            f"Received: {names + groups}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            "A column is a feature, a label or that of the splits, and once: "
            "a model that sees its label has nothing to learn. "
            f"Received: {twice} twice, in {names}"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        raise ValueError(
            "The columns must be of one length, and not empty. "
            f"Received: {lengths}"
        )
