"""Files that mark boxes in pictures: COCO, Pascal VOC and YOLO."""

import collections
import json
import os
import xml.etree.ElementTree as ElementTree

from finetune_keras.data.labels import check_classes

# Boxes of one picture: `boxes` lists four numbers each as the file has them,
# `size` is (width, height) or `None`, `file` what marks them, `problem` why
# it cannot be read, or `None`.
Marks = collections.namedtuple(
    "Marks", "name boxes labels size file areas problem", defaults=[None, None]
)
# All of them, the `form` of the numbers, the classes, and sentences.
Marked = collections.namedtuple("Marked", "pictures form classes notes")
_NAMES_OF_YOLO = "classes.txt"


def read_marks(annotations, classes=None):
    """Reads the `Marked` of a COCO file, or a folder of VOC or YOLO files."""
    path = os.fspath(annotations)
    names = None if classes is None else check_classes(classes)
    if os.path.isfile(path):
        return _read_coco(path, names)
    files = sorted(os.listdir(path)) if os.path.isdir(path) else []
    kinds = {
        end: [file for file in files if file.lower().endswith(end)]
        for end in (".xml", ".txt")
    }
    found = [end for end, some in kinds.items() if some]
    if len(found) != 1:
        raise ValueError(
            "`annotations` must be a COCO file, `instances.json`, a folder of "
            "Pascal VOC files, one `.xml` a picture, or a folder of YOLO "
            "files, one `.txt` a picture. "
            f"Received: annotations={path!r} with {len(files)} files, of "
            f"these {found}"
        )
    read = _read_voc if found == [".xml"] else _read_yolo
    return read(path, kinds[found[0]], names)


# === COCO ===


def _read_coco(path, names):
    content = _json(path)
    try:
        return _marked(content, path, names)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "Each image of a COCO file has `id` and `file_name`, each "
            "annotation `image_id`, `category_id` and `bbox`, each category "
            f"`id` and `name`. Received: {path!r}, {type(error).__name__}: "
            f"{error}"
        ) from error


def _marked(content, path, names):
    ids = {c["id"]: str(c["name"]) for c in content["categories"]}
    names = names or [ids[i] for i in sorted(ids)]
    marks = {image["id"]: [] for image in content["images"]}
    strays, crowds = [], 0
    for mark in content["annotations"]:
        if mark.get("iscrowd"):
            crowds += 1
        elif mark["image_id"] not in marks:
            strays.append(mark["image_id"])
        else:
            marks[mark["image_id"]].append(mark)
    if strays:
        raise ValueError(
            f"{path!r} marks boxes in pictures that its `images` do not list. "
            f"Received: image_id {strays[0]!r}, and {len(strays) - 1} more"
        )
    notes = [f"{crowds} crowds are no boxes, left out."] * bool(crowds)
    pictures = [
        _coco_picture(image, marks[image["id"]], ids, path)
        for image in content["images"]
    ]
    return Marked(pictures, "xywh", names, notes)


def _json(path):
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`annotations` must be a COCO file. Received: {path!r}, which "
            f"cannot be read: {error}"
        ) from error
    parts = ("images", "annotations", "categories")
    lists = [isinstance(content, dict) and content.get(p) for p in parts]
    if not all(isinstance(part, list) for part in lists):
        raise ValueError(
            f"A COCO file has lists of {', '.join(parts)}. Received: {path!r} "
            f"with {list(content)[:10] if isinstance(content, dict) else '[]'}"
        )
    return content


def _coco_picture(image, marks, ids, path):
    size = image.get("width"), image.get("height")
    # A mask has an area of its own.
    plain = marks and not any(mark.get("segmentation") for mark in marks)
    areas = [mark.get("area") for mark in marks] if plain else None
    return Marks(
        str(image["file_name"]).replace("\\", "/"),
        [mark.get("bbox") for mark in marks],
        [ids.get(m.get("category_id"), m.get("category_id")) for m in marks],
        None if None in size else size,
        os.path.basename(path),
        areas,
    )


# === Pascal VOC ===


def _read_voc(folder, files, names):
    pictures = [_voc_picture(folder, file) for file in files]
    found = {label for picture in pictures for label in picture.labels}
    return Marked(pictures, "xyxy", names or sorted(found), [])


def _voc_picture(folder, file):
    stem = os.path.splitext(file)[0]
    try:
        root = ElementTree.parse(os.path.join(folder, file)).getroot()
        objects = root.findall("object")
        boxes = [_voc_box(one.find("bndbox")) for one in objects]
        labels = [one.findtext("name", "").strip() for one in objects]
        size = root.find("size")
        if size is not None:
            sides = ("width", "height")
            size = tuple(int(float(size.findtext(side))) for side in sides)
    except (ElementTree.ParseError, TypeError, ValueError, OSError) as error:
        return Marks(stem, [], [], None, file, None, f"no VOC file: {error}")
    # Some tools write no size, and some a size of zero.
    size = size if size and all(size) else None
    return Marks(root.findtext("filename") or stem, boxes, labels, size, file)


def _voc_box(element):
    if element is None:
        raise ValueError("an object has no `bndbox`")
    return [
        float(element.findtext(side))
        for side in ("xmin", "ymin", "xmax", "ymax")
    ]


# === YOLO ===


def _read_yolo(folder, files, names):
    listed = _NAMES_OF_YOLO in files
    if names is None and listed:
        lines = _lines(os.path.join(folder, _NAMES_OF_YOLO))
        names = check_classes([line for line in lines if line])
    if names is None:
        raise ValueError(
            "YOLO files number the classes. Name them in their order, "
            '`classes=["cat", "dog"]`, or a line each in a file '
            f"`{_NAMES_OF_YOLO}` beside them. Received: {folder!r}"
        )
    files = [file for file in files if file != _NAMES_OF_YOLO]
    pictures = [_yolo_picture(folder, file, names) for file in files]
    return Marked(pictures, "rel_center_xywh", names, [])


def _yolo_picture(folder, file, names):
    stem, boxes, labels = os.path.splitext(file)[0], [], []
    for number, line in enumerate(_lines(os.path.join(folder, file)), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            place, *box = map(float, parts)
        except ValueError:
            place, box = -1, []
        if len(box) != 4 or place != int(place):
            problem = f"line {number} is no class and four numbers: {line!r}"
            return Marks(stem, [], [], None, file, None, problem)
        boxes.append(box)
        known = 0 <= place < len(names)
        labels.append(names[int(place)] if known else int(place))
    return Marks(stem, boxes, labels, None, file)


def _lines(path):
    with open(path, encoding="utf-8-sig") as file:
        return [line.strip() for line in file]
