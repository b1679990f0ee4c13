"""Sets of TensorFlow Datasets, prepared or downloaded."""

import contextlib
import functools
import os
import urllib.error
import urllib.request

import numpy as np

from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.examples import (
    SPLIT_NAMES,
    Examples,
    checked_groups,
    digest,
)
from finetune_keras.data.images import check_image_size, load_image
from finetune_keras.data.pipeline import free_memory
from finetune_keras.data.splits import check_fractions
from finetune_keras.engine.network import call_within
from finetune_keras.engine.packages import tensorflow_datasets as tfds

_HOST = "https://storage.googleapis.com"
_PATIENCE = 6


def from_tfds(
    name,
    image_size=None,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    features=None,
    label=None,
    data_dir=None,
    download=True,
    crop_to_aspect_ratio=False,
    batch_size=32,
    task=None,
    classes=None,
    balanced=False,
):
    """Reads a set of TensorFlow Datasets into memory.

    The splits of the set are used as they are; a missing one is cut from
    `train`. Images are resized as in `image_folder`.

    Args:
        name: String. A name such as `"beans"` or `"glue/sst2:2.0.0"`, or the
            folder of a prepared set.
        image_size: Integer, or tuple `(height, width)`, in pixels; needed for
            images. Defaults to `None`.
        validation_split: Float in [0, 1). Share of `train` where the set has
            no validation split. Defaults to `0.15`.
        test_split: The same for the test split. Defaults to `0.15`.
        group_by: String, a feature. Examples of one value are never in two
            splits that are cut here. Defaults to `None`.
        seed: Integer. Seed of the splits and of the order of training.
            Defaults to `0`.
        features: String, the feature to use where the set does not say.
            Defaults to `None`.
        label: String, the feature of the labels where the set does not say.
            Defaults to `None`.
        data_dir: String, folder of prepared sets. Defaults to `None`, that of
            TensorFlow Datasets.
        download: Boolean, whether a set that is not prepared is downloaded.
            Defaults to `True`.
        crop_to_aspect_ratio: Boolean, whether images are cut to the shape
            around their centre instead of squeezed. Defaults to `False`.
        batch_size, task, classes, balanced: As in `from_frame`.

    Returns:
        `DataSplits`; features of one value are in `columns`.

    Raises:
        ConnectionError: If the set must be downloaded and the network cannot
            be reached; within ten seconds.
        ValueError: If there is no such set or feature, or it does not fit in
            memory.

    Example:

    ```python
    import finetune_keras as ft

    try:
        data = ft.from_tfds("beans", image_size=160, download=False)
    except ValueError as error:
        print(error)
    ```
    """
    options = {
        "crop_to_aspect_ratio": crop_to_aspect_ratio,
        "batch_size": batch_size,
        "task": task,
        "classes": classes,
        "balanced": balanced,
    }
    fractions = check_fractions(validation_split, test_split)
    builder = _builder(name, data_dir, download)
    keys = _keys(builder, features, label)
    feature = builder.info.features[keys[1]]
    examples = _read(builder, keys, image_size, crop_to_aspect_ratio)
    names = getattr(feature, "names", None) or getattr(
        getattr(feature, "feature", None), "names", None
    )
    if hasattr(feature, "feature") and names:
        options["task"] = options["task"] or "multi_label"
        examples.labels = [[names[i] for i in row] for row in examples.labels]
    options["classes"] = options["classes"] or (names and list(names))
    if group_by is not None:
        if group_by not in examples.columns:
            raise ValueError(
                "`group_by` must be a feature of one value. Features: "
                f"{list(examples.columns)}. Received: group_by={group_by!r}"
            )
        count = len(examples.names)
        examples.groups = checked_groups(examples.columns[group_by], count)
    return DataSplits(examples, fractions, seed, options)


def _builder(name, data_dir, download):
    name = os.fspath(name)
    if os.path.isdir(name):
        return tfds.builder_from_directory(_prepared_folder(name))
    try:
        return tfds.core.read_only_builder.builder_from_files(
            name, data_dir=data_dir
        )
    except tfds.core.DatasetNotFoundError:
        _check_name(name)
    if not download:
        raise ValueError(
            f"{name!r} is not prepared in {data_dir or 'the default folder'}. "
            "Pass its `data_dir`, or `download=True`. "
            "Received: download=False"
        )
    _check_network(name)
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare()
    return builder


def _prepared_folder(folder):
    found = sorted(
        place
        for place, _, files in os.walk(folder)
        if "dataset_info.json" in files
    )
    if len(found) == 1:
        return found[0]
    raise ValueError(
        "The folder must hold one prepared set, with its `dataset_info.json`. "
        "For a folder of images use `image_folder`. Received: "
        f"name={folder!r} with {found or 'none'}"
    )


def _check_name(name):
    import difflib

    plain = name.split("/")[0].split(":")[0]
    known = tfds.list_builders()
    namespace = ":" in name.split("/")[0] and plain not in known
    if plain not in known and not namespace:
        raise ValueError(
            "There is neither a folder nor a set of that name. Nearest names: "
            f"{difflib.get_close_matches(plain, known)}. "
            f"Received: name={name!r}"
        )


def _check_network(name):
    """Raises in seconds where a download would hang for minutes."""

    def ask():
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(_HOST, timeout=_PATIENCE).close()

    try:
        call_within(_PATIENCE + 1, ask)
    except OSError as error:
        raise ConnectionError(
            f"{name!r} is not prepared here and must be downloaded, and the "
            f"network cannot be reached ({_HOST}: {error}). Prepare the set "
            "where there is a network, and pass its folder. "
            f"Received: name={name!r}"
        ) from error


def _keys(builder, features, label):
    keys = builder.info.supervised_keys or (None, None)
    x, y = features or keys[0], label or keys[1]
    known = list(builder.info.features or [])
    if x == y and x is not None:
        raise ValueError(
            "A feature is an input or the label: a model that sees its label "
            "has nothing to learn. "
            f"Received: features={x!r}, label={y!r}"
        )
    if len(keys) != 2 or x not in known or y not in known:
        raise ValueError(
            "Name the features to use with `features` and `label`. Features "
            f"of the set: {known}. Received: features={x!r}, label={y!r}"
        )
    return x, y


def _read(builder, keys, image_size, crop):
    splits = {s: SPLIT_NAMES.get(s) for s in builder.info.splits}
    used = {s: name for s, name in splits.items() if name}
    if "train" not in used.values():
        raise ValueError(
            "The set must have a split `train`. "
            f"Received: splits {list(splits)}"
        )
    is_image = isinstance(builder.info.features[keys[0]], tfds.features.Image)
    _check_size(builder, used, is_image, image_size)
    read = _plain
    if is_image:
        read = functools.partial(
            load_image, image_size=image_size, crop_to_aspect_ratio=crop
        )
    x, labels, digests, given, names, rows = [], [], [], [], [], []
    for split, part in used.items():
        dataset = builder.as_dataset(split=split, shuffle_files=False)
        for i, row in enumerate(tfds.as_numpy(dataset)):
            value, label = row.pop(keys[0]), row.pop(keys[1])
            digests.append(digest(value))
            x.append(read(value))
            labels.append(_plain(label))
            given.append(part)
            names.append(f"{split}[{i}]")
            rows.append(row)
    unused = [s for s in splits if s not in used]
    return Examples(
        x=np.array(x, object) if isinstance(x[0], str) else np.stack(x),
        names=names,
        labels=labels,
        digests=digests,
        source=f"TensorFlow Datasets {builder.info.full_name!r}",
        image_size=image_size if is_image else None,
        columns=_columns(rows),
        given=given,
        notes=[f"Splits of the set not used: {unused}."] * bool(unused),
    )


def _check_size(builder, used, is_image, image_size):
    if not is_image:
        return
    if image_size is None:
        raise ValueError(
            "The set has images: pass the `image_size` of the model in "
            "pixels. Received: image_size=None"
        )
    count = sum(builder.info.splits[split].num_examples for split in used)
    needed = 3 * count * int(np.prod(check_image_size(image_size)))
    # Once as a list of images, once as an array.
    if 2 * needed > free_memory():
        raise ValueError(
            f"{count} images of this size take {needed / 2**30:.1f} GiB, more "
            "than half of the free memory. Pass a smaller `image_size`. "
            f"Received: image_size={image_size!r}"
        )


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype("float32")
    return value


def _columns(rows):
    """Features with one value an example, as arrays."""
    scalar = (bytes, int, float, bool, np.generic)
    return {
        name: np.array([_plain(row[name]) for row in rows])
        for name in rows[0]
        if all(isinstance(row[name], scalar) for row in rows)
    }
