"""Pictures with boxes: `box_folder`."""

import dataclasses
import os

import numpy as np

from finetune_keras.arguments import check, maybe, one_of
from finetune_keras.data.augmentation import STRENGTH, Augmentation
from finetune_keras.data.box_checks import as_corners, problem_of
from finetune_keras.data.box_files import read_marks
from finetune_keras.data.box_formats import FORMATS
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.detection import TRUE, padded
from finetune_keras.data.examples import Examples
from finetune_keras.data.files import check_bad_files, check_images
from finetune_keras.data.folders import groups_of
from finetune_keras.data.image_augmentation import image_augmentation
from finetune_keras.data.images import check_image_size
from finetune_keras.data.pipeline import ImageStore
from finetune_keras.data.splits import check_fractions
from finetune_keras.data.walk import list_folder


def box_folder(
    images,
    annotations,
    image_size=512,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    batch_size=8,
    classes=None,
    bounding_box_format="yxyx",
    augmentation=None,
    bad_files="refuse",
    cache="auto",
    verbose=1,
):
    """Reads pictures and the boxes of what stands in them.

    Every picture is decoded and every box is looked at before training: one
    that leaves its picture, is empty, has an unknown class, or whose numbers
    are in another order than the file says, is named with the picture. Up to
    a pixel beyond the border is cut off. Pictures are squeezed to
    `image_size`, and the boxes with them. Pictures without annotations are
    left out; annotated with no box, they are background.

    Args:
        images: String or path, the folder of the pictures.
        annotations: String or path: a COCO file, such as `instances.json`; a
            folder of Pascal VOC files, one `.xml` a picture; or a folder of
            YOLO files, one `.txt` a picture, with `classes.txt` or `classes`.
        image_size: Integer, or tuple `(height, width)`, in pixels. Defaults
            to `512`.
        validation_split: Float in [0, 1). Share of the pictures; 0 is no
            validation data. Defaults to `0.15`.
        test_split: The same for the test data. Defaults to `0.15`.
        group_by: As in `image_folder`. Defaults to `None`.
        seed: Integer. Seed of the splits, the order of training and the
            augmentation. Defaults to `0`.
        batch_size: Integer, pictures of a batch. Defaults to `8`.
        classes: List of the names of the classes, in their order. Defaults to
            `None`: those of the file by their ids, of VOC those found, sorted.
        bounding_box_format: String, the order of the numbers of a box in the
            batches, in pixels: `"yxyx"`, `"xyxy"`, `"xywh"` or
            `"center_xywh"`, that of the detector. Defaults to `"yxyx"`, as
            that of KerasHub's.
        augmentation: `"light"`, `"medium"` or `"strong"`, see
            `image_augmentation`, or an `Augmentation` of layers that move
            boxes, in `bounding_box_format`. It varies the training data, and
            an epoch is the same in a run that is resumed. Defaults to `None`.
        bad_files: `"refuse"` raises where a picture or its boxes cannot be
            used, `"skip"` leaves the picture out. Defaults to `"refuse"`.
        cache: As in `image_folder`. Defaults to `"auto"`.
        verbose: 0 or 1, whether progress is shown. Defaults to `1`.

    Returns:
        `DataSplits` with batches `(x, y)`: `x` are float32 pixels from 0 to
        255, `y` a dict of `"boxes"`, float32 of shape (batch, boxes, 4), and
        `"labels"`, int32 of shape (batch, boxes), the ids of the classes;
        both are filled up with -1. `counts` are numbers of boxes.

    Raises:
        ValueError: If pictures or boxes cannot be used, with their names; if
            there are none, or too few for the splits.

    Example:

    ```python
    import json
    import numpy as np
    import finetune_keras as ft
    from PIL import Image
    from pathlib import Path

    Path("photos").mkdir()
    images, boxes = [], []
    for i in range(8):
        pixels = np.random.randint(0, 255, (40, 60, 3), "uint8")
        Image.fromarray(pixels).save(f"photos/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
        boxes.append({"image_id": i, "category_id": 1 + i % 2,
                      "bbox": [5, 10, 20, 15]})
    classes = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    coco = {"images": images, "annotations": boxes, "categories": classes}
    Path("boxes.json").write_text(json.dumps(coco))
    data = ft.box_folder("photos", "boxes.json", image_size=64, verbose=0)
    print(data)
    print(next(iter(data.train))[1]["boxes"].shape)
    ```
    """
    check(bounding_box_format=(bounding_box_format, one_of(*FORMATS)))
    fractions = check_fractions(validation_split, test_split)
    height, width = check_image_size(image_size)
    options = {
        "batch_size": batch_size,
        "task": "detection",
        "balanced": False,
        "bounding_box_format": bounding_box_format,
        "augmentation": _layers(augmentation, bounding_box_format),
    }
    marked = read_marks(annotations, classes)
    options["classes"] = marked.classes
    found = _match(os.fspath(images), marked, verbose)
    check_bad_files(found.bad, bad_files)
    if not found.checks:
        raise ValueError(
            f"None of the pictures can be used: {found.bad[:3]}. "
            f"Received: images={os.fspath(images)!r}"
        )
    names = [file.name for file in found.checks]
    paths = [os.path.join(os.fspath(images), name) for name in names]
    groups = groups_of(names, group_by)
    examples = Examples(
        x=ImageStore(paths, image_size, False, cache),
        names=names,
        labels=_rows(found, marked, height, width),
        digests=[file.digest for file in found.checks],
        source=f"Folder {os.fspath(images)!r}",
        kind="images",
        image_size=image_size,
        columns={"path": np.array(paths, object)},
        groups=groups,
        bad_files=found.bad,
        sizes=[(file.width, file.height) for file in found.checks],
        notes=[*marked.notes, *found.notes],
    )
    return DataSplits(examples, fractions, seed, options)


def _layers(augmentation, bounding_box_format):
    form = bounding_box_format
    if not isinstance(augmentation, Augmentation):
        check(augmentation=(augmentation, maybe(STRENGTH)))
        if augmentation is None:
            return None
        augmentation = image_augmentation(
            augmentation, bounding_box_format=form
        )
    formats = {
        getattr(layer, "bounding_box_format", None)
        for layer in augmentation.layers
    }
    if formats != {form}:
        raise ValueError(
            "The layers of `augmentation` must move boxes in the format of "
            f"the data: make each with `bounding_box_format={form!r}`. "
            f"Received: layers of {formats}"
        )
    return augmentation.layers


@dataclasses.dataclass
class _Found:
    """Pictures that can be used, with their marks, and what cannot be."""

    checks: list
    marks: list
    bad: list
    notes: list


def _match(folder, marked, verbose):
    """Looks for the picture of each of the marks."""
    if not os.path.isdir(folder):
        raise ValueError(
            f"There is no such folder. Received: images={folder!r}"
        )
    listed = {file[0]: file for file in list_folder(folder).files}
    stems = {}
    for name in listed:
        for stem in {name, *_shorter(name)}:
            stems.setdefault(stem, []).append(name)
    marks, bad, taken = [], [], {}
    for one in marked.pictures:
        names = _candidates(one, listed, stems)
        if len(names) != 1:
            why = f"two pictures, {names[:2]}" if names else "picture missing"
            bad.append((one.name, f"{why}, which {one.file!r} marks"))
        elif names[0] in taken:
            first = taken[names[0]]
            bad.append((names[0], f"marked twice: {first!r}, {one.file!r}"))
        else:
            taken[names[0]] = one.file
            marks.append((names[0], one))
    files = [listed[name] for name, _ in marks]
    checks = check_images(folder, files, verbose)
    found = _Found([], [], bad, _notes(listed, taken))
    for file, (name, one) in zip(checks, marks, strict=True):
        problem = file.problem or problem_of(
            one, marked.form, marked.classes, file.width, file.height
        )
        if problem:
            found.bad.append((name, problem))
            continue
        found.checks.append(file)
        found.marks.append(one)
        if file.note:
            found.notes.append(f"{name!r}: {file.note}")
    return found


def _shorter(name):
    """What else marks may call a picture: no folder, no ending."""
    base = name.rsplit("/", 1)[-1]
    return os.path.splitext(name)[0], base, os.path.splitext(base)[0]


def _candidates(marks, listed, stems):
    """Names of pictures that marks may mean, the whole name before parts."""
    base = marks.name.rsplit("/", 1)[-1]
    stem = os.path.splitext(marks.file)[0]
    for name in (marks.name, base, os.path.splitext(base)[0], stem):
        if name in listed:
            return [name]
        if name in stems:
            return stems[name]
    return []


def _notes(listed, taken):
    left = [name for name in listed if name not in taken]
    if not left:
        return []
    return [
        f"{len(left)} files without annotations are not used, such as "
        f"{left[0]!r}."
    ]


def _rows(found, marked, height, width):
    """Boxes of all pictures, squeezed with them: (pictures, boxes, 5)."""
    places = {name: i for i, name in enumerate(marked.classes)}
    rows = []
    for file, one in zip(found.checks, found.marks, strict=True):
        corners = as_corners(one.boxes, marked.form, file.width, file.height)
        size = np.array([file.width, file.height] * 2, "float64")
        corners = np.clip(corners, 0.0, size) / size
        corners = corners * [width, height, width, height]
        ids = [places[label] for label in one.labels]
        rows.append(np.concatenate([corners, np.reshape(ids, (-1, 1))], 1))
    return padded(rows, TRUE)
