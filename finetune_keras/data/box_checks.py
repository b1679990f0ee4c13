"""Boxes at the door: what cannot be a box in a picture, and why."""

import numpy as np

from finetune_keras.data.labels import check_class_ids

# Pixels that a box may stand out by, as tools round.
_SLACK = 1.0
_WORDS = {
    "xywh": "(left, top, width, height)",
    "xyxy": "(left, top, right, bottom)",
    "rel_center_xywh": "(middle x, middle y, width, height), shares of 1",
}
# What people write instead.
_MISTAKES = {
    "xywh": ("xyxy",),
    "xyxy": ("xywh",),
    "rel_center_xywh": ("center_xywh", "rel_xyxy", "rel_xywh"),
}
_WORDS_OF_MISTAKES = {
    **_WORDS,
    "center_xywh": "(middle x, middle y, width, height) in pixels",
    "rel_xyxy": "(left, top, right, bottom), shares of 1",
    "rel_xywh": "(left, top, width, height), shares of 1",
}


def as_corners(boxes, form, width, height):
    """Boxes as (left, top, right, bottom) in pixels, float64 (n, 4)."""
    boxes = np.asarray(boxes, "float64").reshape(-1, 4)
    if form.startswith("rel_"):
        boxes = boxes * [width, height, width, height]
        form = form.removeprefix("rel_")
    if form == "center_xywh":
        low, size = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]
    elif form == "xywh":
        low, size = boxes[:, :2], boxes[:, 2:]
    else:
        return boxes
    return np.concatenate([low, low + size], axis=1)


def problem_of(marks, form, classes, width, height):
    """Why the boxes of a picture cannot be, or `None`."""
    if marks.problem:
        return f"{marks.file!r}: {marks.problem}"
    if marks.size and tuple(marks.size) != (width, height):
        turned = tuple(marks.size) == (height, width)
        how = " upright: do its EXIF data turn it?" if turned else ""
        return (
            f"{marks.file!r} marks a picture of {marks.size[0]} x "
            f"{marks.size[1]} pixels, and this has {width} x {height}{how}"
        )
    pairs = zip(marks.boxes, marks.labels, strict=True)
    for i, (box, label) in enumerate(pairs, start=1):
        area = marks.areas and marks.areas[i - 1]
        problem = _problem(box, area, form, width, height)
        if problem is None and label not in classes:
            problem = f"unknown class {label!r}, known are {classes[:10]}"
        if problem:
            return f"box {i} of {marks.file!r}, {box}: {problem}"
    return None


def _problem(box, area, form, width, height):
    if not _are_numbers(box):
        return "it must be four numbers"
    corners = as_corners(box, form, width, height)[0]
    problem = wrong_corners(corners, width, height)
    if problem is None and _has_area_of_corners(box, area, form):
        problem = "its `area` is not its width times its height"
    if problem is None:
        return None
    for other in _MISTAKES[form]:
        if other == "center_xywh" and max(box) <= 1:
            continue
        corners = as_corners(box, other, width, height)[0]
        if wrong_corners(corners, width, height) is None:
            return (
                f"{problem}. Boxes here are {_WORDS[form]}; this one may be "
                f"{_WORDS_OF_MISTAKES[other]}"
            )
    return f"{problem}. Boxes here are {_WORDS[form]}"


def _are_numbers(box):
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    numbers = all(
        isinstance(x, (int, float)) and not isinstance(x, bool) for x in box
    )
    return numbers and bool(np.isfinite(box).all())


def wrong_corners(corners, width, height):
    """Why corners are no box in a picture, or `None`."""
    left, top, right, bottom = corners
    if right <= left or bottom <= top:
        return "the box is empty"
    limits = -_SLACK, width + _SLACK, -_SLACK, height + _SLACK
    inside = limits[0] <= left and right <= limits[1]
    if not (inside and limits[2] <= top and bottom <= limits[3]):
        return f"it leaves the picture of {width} x {height} pixels"
    return None


def _has_area_of_corners(box, area, form):
    """Tells corners that could be sizes by the area that COCO writes."""
    if form != "xywh" or not isinstance(area, (int, float)):
        return False
    given = box[2] * box[3]
    meant = (box[2] - box[0]) * (box[3] - box[1])
    slack = 0.01 * max(abs(area), 1.0)
    return abs(area - given) > slack and abs(area - meant) <= slack


# === Batches ===


def check_boxes(y, task, name):
    """Raises where the labels of a batch are no boxes of a detector.

    `task` is its `Detection`. Rows whose label is -1 fill up.
    """
    keys = sorted(y) if isinstance(y, dict) else type(y).__name__
    if keys != ["boxes", "labels"]:
        raise ValueError(
            f"The labels of `{name}` must be a dict of `boxes` and `labels`, "
            "as `ft.box_folder` gives them: arrays of shape (batch, boxes, 4) "
            f"and (batch, boxes). Received: {keys}"
        )
    if "Ragged" in type(y["boxes"]).__name__:
        raise ValueError(
            f"The boxes of `{name}` must be filled up with -1: "
            "`boxes.to_tensor(-1)`, and so the labels. Received: ragged ones"
        )
    boxes, labels = np.asarray(y["boxes"]), np.asarray(y["labels"])
    if boxes.shape != (*labels.shape, 4) or labels.ndim != 2:
        raise ValueError(
            f"`{name}` must come in batches of boxes (batch, boxes, 4) and "
            f"labels (batch, boxes). Received: shapes {boxes.shape} and "
            f"{labels.shape}"
        )
    boxes, labels = boxes[labels >= 0], labels[labels >= 0]
    check_class_ids(labels, task.outputs, name)
    form = task.bounding_box_format
    sizes = boxes[:, 2:] if "wh" in form else boxes[:, 2:] - boxes[:, :2]
    bad = ~((sizes > 0).all(axis=1) & np.isfinite(boxes).all(axis=1))
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(bad)} boxes of `{name}` are empty or no "
            f"numbers, read as {form!r}, the format of the detector. Make them "
            f"by `ft.box_folder(..., bounding_box_format={form!r})`. "
            f"Received: box {boxes[bad][0].tolist()}"
        )


def check_format(data, form, name):
    """Raises where data of `box_folder` have boxes in another format."""
    given = getattr(data, "bounding_box_format", form)
    if given != form:
        raise ValueError(
            f"The boxes of `{name}` are in the format {given!r}, and the "
            f"detector takes {form!r}. Make them by "
            f"`ft.box_folder(..., bounding_box_format={form!r})`. "
            f"Received: bounding_box_format={given!r}"
        )
