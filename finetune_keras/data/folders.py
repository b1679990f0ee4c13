"""Folders with a subfolder a class: images and texts."""

import os
import re

import numpy as np

from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.decoding import marked_encoding
from finetune_keras.data.examples import SPLIT_NAMES, Examples, digest
from finetune_keras.data.files import check_bad_files, check_images
from finetune_keras.data.image_check import read_file
from finetune_keras.data.images import check_image_size
from finetune_keras.data.pipeline import ImageStore
from finetune_keras.data.splits import check_fractions
from finetune_keras.data.walk import list_folder


def image_folder(
    folder,
    image_size,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    batch_size=32,
    task=None,
    classes=None,
    balanced=False,
    bad_files="skip",
    cache="auto",
    crop_to_aspect_ratio=False,
    verbose=1,
):
    """Reads images from a folder with a subfolder for each class.

    Every file is decoded before training. What cannot be used is left out and
    named, so that nothing fails in the middle of an epoch; the results are
    remembered for files that do not change. Pixels are float32 RGB from 0 to
    255, of `load_image`.

    The folder holds the classes, or `train`, `validation` (or `val`) and
    `test` with the classes in each. Those splits stay as they are; a missing
    one is cut from `train`.

    Args:
        folder: String or path.
        image_size: Integer, or tuple `(height, width)`, in pixels.
        validation_split: Float in [0, 1). Share of the images; 0 is no
            validation data. Ignored where there is a folder of it. Defaults
            to `0.15`.
        test_split: The same for the test data. Defaults to `0.15`.
        group_by: Regular expression with one group, searched in the name of
            each file, or callable from the path in the folder to a group.
            Images of one group, of one patient for example, are never in two
            splits that are cut here. Defaults to `None`.
        seed: Integer. Seed of the splits and of the order of training.
            Defaults to `0`.
        batch_size: Integer, examples of a batch. Defaults to `32`.
        task: `"classification"`, `"multi_label"` or `"regression"`, where the
            labels do not tell. Defaults to `None`.
        classes: List of the names of the classes, in their order. Defaults to
            `None`, those found, sorted.
        balanced: Boolean, whether training draws as often from each class.
            Defaults to `False`.
        bad_files: `"skip"` leaves out what cannot be used, `"refuse"` raises.
            Defaults to `"skip"`.
        cache: `True` or `False`, whether pixels are kept in memory; `"auto"`
            where they fit in a third of the free memory. Defaults to `"auto"`.
        crop_to_aspect_ratio: Boolean, whether images are cut to the shape
            around their centre instead of squeezed. Defaults to `False`.
        verbose: 0 or 1, whether progress is shown. Defaults to `1`.

    Returns:
        `DataSplits`.

    Raises:
        ValueError: If there are no classes or no usable images, too few for
            the splits, or bad files that are refused.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft
    from PIL import Image
    from pathlib import Path

    for name in ("ants", "bees"):
        Path("insects", name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.randint(0, 255, (40, 50, 3), "uint8")
            Image.fromarray(pixels).save(f"insects/{name}/{i}.jpg")
    data = ft.image_folder("insects", image_size=32, verbose=0)
    print(data)
    ```
    """
    options = {
        "batch_size": batch_size,
        "task": task,
        "classes": classes,
        "balanced": balanced,
        "crop_to_aspect_ratio": crop_to_aspect_ratio,
    }
    fractions = check_fractions(validation_split, test_split)
    check_image_size(image_size)
    found = ClassFolder(folder)
    checks = check_images(found.path, found.files, verbose)
    bad = [(c.name, c.problem) for c in checks if c.problem]
    bad = [*found.problems, *bad]
    check_bad_files(bad, bad_files)
    good = [i for i, c in enumerate(checks) if not c.problem]
    examples = found.examples(good, bad, group_by)
    checks = [checks[i] for i in good]
    paths = list(examples.columns["path"])
    examples.x = ImageStore(paths, image_size, crop_to_aspect_ratio, cache)
    examples.kind, examples.image_size = "images", image_size
    examples.digests = [c.digest for c in checks]
    examples.sizes = [c.size for c in checks]
    examples.notes += [f"{c.name!r}: {c.note}" for c in checks if c.note]
    return DataSplits(examples, fractions, seed, options)


def text_folder(
    folder,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    batch_size=32,
    task=None,
    classes=None,
    balanced=False,
    bad_files="skip",
):
    """Reads texts from a folder with a subfolder for each class.

    One file is one example. Files must be UTF-8, or begin with the mark of
    another encoding of Unicode; empty ones and others are left out and named.

    Args:
        folder: String or path; holds the classes, or splits of them, as for
            `image_folder`.
        validation_split, test_split, group_by, seed, batch_size, task: As in
            `image_folder`.
        classes, balanced, bad_files: As in `image_folder`.

    Returns:
        `DataSplits`; `x` are strings.

    Raises:
        ValueError: As `image_folder`.

    Example:

    ```python
    import finetune_keras as ft
    from pathlib import Path

    for name in ("good", "bad"):
        Path("reviews", name).mkdir(parents=True)
        for i in range(10):
            Path("reviews", name, f"{i}.txt").write_text(f"{name} film {i}")
    print(ft.text_folder("reviews"))
    ```
    """
    options = {
        "batch_size": batch_size,
        "task": task,
        "classes": classes,
        "balanced": balanced,
    }
    fractions = check_fractions(validation_split, test_split)
    found = ClassFolder(folder)
    texts = [_read_text(path) for path in found.paths()]
    bad = [
        (file[0], problem)
        for file, (_, problem, _) in zip(found.files, texts, strict=True)
        if problem
    ]
    bad = [*found.problems, *bad]
    check_bad_files(bad, bad_files)
    good = [i for i, (_, problem, _) in enumerate(texts) if not problem]
    examples = found.examples(good, bad, group_by)
    examples.x = np.array([texts[i][0] for i in good], object)
    examples.digests = [texts[i][2] for i in good]
    examples.kind = "texts"
    return DataSplits(examples, fractions, seed, options)


class ClassFolder:
    """Files of a folder with their classes and given splits."""

    def __init__(self, folder):
        self.path = os.fspath(folder)
        if not os.path.isdir(self.path):
            raise ValueError(
                f"There is no such folder. Received: folder={self.path!r}"
            )
        files, folders, self.problems = list_folder(self.path)
        self.folders = [name.split("/") for name in folders]
        inner = [parts[0] for parts in self.folders if len(parts) == 1]
        self.splits = [n for n in inner if n.lower() in SPLIT_NAMES]
        # A class may be called "test"; a split has classes, and a train split.
        self.has_splits = any(
            SPLIT_NAMES[parts[0].lower()] == "train"
            for parts in self.folders
            if len(parts) == 2 and parts[0] in self.splits
        )
        self.depth = 2 if self.has_splits else 1
        listed = [(f, f[0].split("/")) for f in files]
        kept = [(f, parts) for f, parts in listed if self._is_example(parts)]
        self.files = [f for f, _ in kept]
        self.labels = [parts[self.depth - 1] for _, parts in kept]
        self.given = [
            SPLIT_NAMES[parts[0].lower()] if self.has_splits else "train"
            for _, parts in kept
        ]
        self.notes = [*self._notes(listed, kept)]
        if not self.files:
            raise ValueError(
                "The folder must hold a subfolder of files for each class, or "
                "`train` with such subfolders. "
                f"Received: folder={self.path!r} with {inner[:10]}"
            )

    def _is_example(self, parts):
        if len(parts) <= self.depth:
            return False
        return not self.has_splits or parts[0] in self.splits

    def _notes(self, listed, kept):
        outside = [f[0] for f, p in listed if not self._is_example(p)]
        if outside:
            yield (
                f"{len(outside)} files outside of the folders of classes are "
                f"not used, such as {outside[0]!r}."
            )
        filled = {"/".join(parts[: self.depth]) for _, parts in kept}
        told = {name for name, _ in self.problems}
        folders = [
            "/".join(parts)
            for parts in self.folders
            if len(parts) == self.depth
            and (parts[0] in self.splits or not self.has_splits)
        ]
        empty = [n for n in folders if n not in filled and n not in told]
        if empty:
            yield f"Folders without a file, left out: {empty}."

    def paths(self):
        return [os.path.join(self.path, file[0]) for file in self.files]

    def examples(self, good, bad, group_by):
        """`Examples` of the usable files, all but their content."""
        if not good:
            raise ValueError(
                f"None of the {len(self.files)} files can be used: {bad[:3]}. "
                f"Received: folder={self.path!r}"
            )
        names = [self.files[i][0] for i in good]
        labels = [self.labels[i] for i in good]
        lost = sorted(set(self.labels) - set(labels))
        groups = groups_of(names, group_by)
        paths = self.paths()
        columns = {"path": np.array([paths[i] for i in good], object)}
        if groups is not None:
            columns["group"] = np.array(groups, object)
        notes = [f"No usable file in the classes {lost}, left out."] * bool(
            lost
        )
        return Examples(
            x=None,
            names=names,
            labels=labels,
            digests=[],
            source=f"Folder {self.path!r}",
            columns=columns,
            given=[self.given[i] for i in good],
            groups=groups,
            bad_files=bad,
            notes=[*self.notes, *notes],
        )


def groups_of(names, group_by):
    if group_by is None:
        return None
    if callable(group_by):
        return [group_by(name) for name in names]
    if not isinstance(group_by, str) or re.compile(group_by).groups != 1:
        raise ValueError(
            "`group_by` must be a callable or a regular expression with one "
            f"group, such as r'patient(\\d+)'. Received: group_by={group_by!r}"
        )
    found = [re.search(group_by, name.rsplit("/", 1)[-1]) for name in names]
    lacking = [n for n, match in zip(names, found, strict=True) if not match]
    if lacking:
        raise ValueError(
            f"`group_by` does not match {len(lacking)} file names, such as "
            f"{lacking[0]!r}. Received: group_by={group_by!r}"
        )
    return [match.group(1) for match in found]


def _read_text(path):
    """Tuple of text, problem and digest."""
    try:
        data = read_file(path)
        encoding = marked_encoding(data)
        text = data.decode(encoding)
    except OSError as error:
        return None, f"cannot be read: {error.strerror}", ""
    except UnicodeDecodeError as error:
        return None, f"not {encoding.upper()} at byte {error.start}", ""
    problem = None if text.strip() else "empty"
    if "\0" in text:
        problem = "with bytes of 0, such as UTF-16 without its mark"
    return text, problem, digest(data)
