"""Pictures with boxes: three kinds of files, doors, splits, augmentation."""

import json

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.source import Source

PIL = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.usefixtures("op_by_op")
# Left, top, right, bottom of a bright box in pictures of 60 x 40 pixels.
BOXES = [(4 + i, 2 + 2 * i, 24 + i, 17 + 2 * i) for i in range(8)]
NAMES = ["disc", "square"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, (left, top, right, bottom) in enumerate(BOXES):
        pixels = np.zeros((40, 60, 3), "uint8")
        pixels[top:bottom, left:right] = 255
        PIL.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path


def coco():
    boxes = [
        {
            "image_id": i,
            "category_id": 3 + 4 * (i % 2),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
        }
        for i, (left, top, right, bottom) in enumerate(BOXES)
    ]
    # A second one in the first picture.
    boxes.append({"image_id": 0, "category_id": 7, "bbox": [30, 20, 10, 10]})
    sizes = {"width": 60, "height": 40}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", **sizes} for i in range(8)
        ],
        "annotations": boxes,
        "categories": [
            {"id": 7, "name": NAMES[1]},
            {"id": 3, "name": NAMES[0]},
        ],
    }


def write_coco(folder, content):
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


def write_voc(folder):
    (folder / "voc").mkdir()
    for i, box in enumerate(BOXES):
        sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in sides)
        (folder / "voc" / f"{i}.xml").write_text(
            f"<annotation><filename>{i}.jpg</filename><size><width>60</width>"
            "<height>40</height></size><object><name>"
            f"{NAMES[i % 2]}</name><bndbox>{corners}</bndbox></object>"
            "</annotation>"
        )
    return folder / "voc"


def write_yolo(folder):
    (folder / "yolo").mkdir()
    (folder / "yolo" / "classes.txt").write_text("disc\nsquare\n")
    for i, (left, top, right, bottom) in enumerate(BOXES):
        middle = (left + right) / 120, (top + bottom) / 80
        line = i % 2, *middle, (right - left) / 60, (bottom - top) / 40
        text = " ".join(map(str, line))
        (folder / "yolo" / f"{i}.txt").write_text(text + "\n")
    return folder / "yolo"


def read(folder, annotations, **options):
    options = {"image_size": (80, 60), "verbose": 0, **options}
    return ft.box_folder(folder / "photos", annotations, **options)


def all_of(data):
    x, y = data.examples(range(8))
    return x, y["boxes"], y["labels"]


@pytest.mark.parametrize("write", [write_voc, write_yolo])
def test_three_kinds_of_files_say_the_same(folder, write):
    data = read(folder, write(folder))
    other = read(folder, write_coco(folder, coco()))
    assert data.classes == other.classes == NAMES
    assert data.task == "detection"
    x, boxes, labels = all_of(data)
    assert x.shape == (8, 80, 60, 3)
    wanted = [[2 * t, left, 2 * b, r] for left, t, r, b in BOXES]
    np.testing.assert_allclose(boxes[:, 0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(labels[:, 0], [0, 1] * 4)
    x, boxes, labels = all_of(other)
    np.testing.assert_allclose(boxes[:, 0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(boxes[0, 1], [40, 30, 60, 40])
    np.testing.assert_array_equal(labels[:, 1], [1] + [-1] * 7)
    np.testing.assert_array_equal(boxes[1, 1], [-1] * 4)


@pytest.mark.parametrize(
    ("form", "box"),
    [
        ("xyxy", [4, 4, 24, 34]),
        ("xywh", [4, 4, 20, 30]),
        ("center_xywh", [14, 19, 20, 30]),
    ],
)
def test_boxes_come_in_the_format_that_is_asked_for(folder, form, box):
    data = read(folder, write_yolo(folder), bounding_box_format=form)
    np.testing.assert_allclose(all_of(data)[1][0, 0], box, rtol=1e-5)


def test_splits_hold_all_boxes_and_print(folder):
    content = coco()
    content["annotations"].append(
        {"image_id": 3, "category_id": 3, "bbox": [1, 1, 9, 9], "iscrowd": 1}
    )
    data = read(folder, write_coco(folder, content), seed=1)
    counts = data.counts.values()
    assert sum(split["square"] for split in counts) == 5
    assert "images" in str(data) and "1 crowds" in str(data)
    picture, caption = data._sheet()[0]
    assert (
        picture[:2] == b"\xff\xd8" and "disc" in caption + data._sheet()[1][1]
    )
    x, y = data.arrays("train")
    assert len(x) == len(y["boxes"]) == data.sizes["train"]


def change_box(*numbers, area=None):
    def change(content):
        content["annotations"][1] = {
            **{"image_id": 1, "category_id": 3, "bbox": list(numbers)},
            **({} if area is None else {"area": area}),
        }

    return change


def miss(content):
    content["images"][1]["file_name"] = "1.jpeg.png"


def turn(content):
    content["images"][1].update(width=40, height=60)


def unknown(content):
    content["annotations"][1]["category_id"] = 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_box(30, 20, 33, 5), "leaves the picture of 60 x 40"),
        (change_box(30, 20, 50, 38), "may be .left, top, right, bottom"),
        (change_box(3, 2, 14, 16, area=11 * 14), "`area` is not its width"),
        (change_box(3, 2, 0, 16), "the box is empty"),
        (change_box(3, 2, float("nan"), 16), "must be four numbers"),
        (unknown, "unknown class 5"),
        (turn, "40 x 60 pixels, and this has 60 x 40"),
    ],
)
def test_wrong_boxes_are_refused_by_name(folder, change, message):
    content = coco()
    change(content)
    path = write_coco(folder, content)
    with pytest.raises(ValueError, match=f"(?s)'1.png'.*{message}"):
        read(folder, path)
    data = read(folder, path, bad_files="skip")
    assert [name for name, _ in data.bad_files] == ["1.png"]
    assert sum(data.sizes.values()) == 7


def test_a_missing_picture_is_refused_by_name(folder):
    content = coco()
    miss(content)
    with pytest.raises(ValueError, match="'1.jpeg.png': picture missing"):
        read(folder, write_coco(folder, content))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 30 20 20 10", "may be .middle x.* in pixels"),
        ("0 0.5 0.5 0.9 0.9 0.1", "no class and four numbers"),
        ("2 0.5 0.5 0.2 0.2", "unknown class 2"),
        ("0 0.7 0.6 0.9 0.9", "may be .left, top, right, bottom., shares"),
    ],
)
def test_wrong_lines_of_yolo(folder, line, message):
    path = write_yolo(folder)
    (path / "1.txt").write_text(line)
    with pytest.raises(ValueError, match=f"(?s)'1.png'.*{message}"):
        read(folder, path)


def test_sizes_in_place_of_corners_are_met_in_voc(folder):
    path = write_voc(folder)
    text = (path / "1.xml").read_text().replace("<xmax>25", "<xmax>4")
    (path / "1.xml").write_text(text)
    with pytest.raises(ValueError, match="may be .left, top, width, height"):
        read(folder, path)


def test_what_marks_no_boxes_is_refused(folder):
    with pytest.raises(ValueError, match="must be a COCO file"):
        read(folder, folder / "photos")
    (folder / "boxes.json").write_text("[]")
    with pytest.raises(ValueError, match="has lists of images, annotations"):
        read(folder, folder / "boxes.json")
    (write_yolo(folder) / "classes.txt").unlink()
    with pytest.raises(ValueError, match="Name them in their order"):
        read(folder, folder / "yolo")
    assert read(folder, folder / "yolo", classes=NAMES).classes == NAMES


def test_augmentation_moves_boxes_with_their_pictures(folder):
    path = write_yolo(folder)
    data = read(folder, path, augmentation="medium", bounding_box_format="xyxy")
    first, second = _pass(data), _pass(data)
    for x, boxes, labels in (first, second):
        seen = 0
        for pixels, box, label in zip(
            x, boxes[:, 0], labels[:, 0], strict=True
        ):
            if label < 0:
                np.testing.assert_array_equal(box, [-1] * 4)
                continue
            rows, columns = np.nonzero(pixels.mean(axis=-1) > 165)
            ends = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(box, ends, atol=2)
            seen += 1
        assert seen >= 4
    # Each pass has draws of its own, and one that goes on the same again.
    assert not np.array_equal(first[1], second[1])
    Source.of(data.train).held(1)
    again = _pass(data)
    for one, other in zip(second, again, strict=True):
        np.testing.assert_array_equal(one, other)


def _pass(data):
    batches = [(x, y["boxes"], y["labels"]) for x, y in data.train]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def test_layers_that_move_no_boxes_are_refused(folder):
    layers = [keras.layers.RandomFlip(bounding_box_format="xyxy")]
    with pytest.raises(ValueError, match="must move boxes in the format"):
        read(folder, write_yolo(folder), augmentation=ft.Augmentation(layers))


@pytest.mark.backends
def test_boxes_follow_a_turn_and_leave():
    from finetune_keras.data.image_augmentation import RandomAffine

    layer = RandomAffine(
        (0.25, 0.25), 0.0, 0.0, None, bounding_box_format="yxyx", seed=0
    )
    y, x = np.mgrid[:20, :20]
    inside = (y >= 2) & (y < 6) & (x >= 3) & (x < 12)
    images = (255.0 * inside)[None, ..., None].astype("float32")
    boxes = np.array([[[2, 3, 6, 12], [-1, -1, -1, -1]]], "float32")
    data = {"boxes": boxes, "labels": np.array([[1, -1]])}
    moved = layer({"images": images, "bounding_boxes": data}, training=True)
    pixels = keras.ops.convert_to_numpy(moved["images"])[0, ..., 0] > 127
    rows, columns = np.nonzero(pixels)
    ends = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    found = keras.tree.map_structure(
        keras.ops.convert_to_numpy, moved["bounding_boxes"]
    )
    np.testing.assert_allclose(found["boxes"][0, 0], ends, atol=1e-3)
    np.testing.assert_array_equal(found["labels"], [[1, -1]])
    np.testing.assert_array_equal(found["boxes"][0, 1], [-1] * 4)
    layer.factor, layer.translation = (0.0, 0.0), 1.0
    layer.get_random_transformation = _shifted(layer, 12.0)
    data = {"boxes": boxes, "labels": np.array([[1, -1]])}
    moved = layer({"images": images, "bounding_boxes": data}, training=True)
    labels = keras.ops.convert_to_numpy(moved["bounding_boxes"]["labels"])
    # Of the box nothing is left in the picture.
    np.testing.assert_array_equal(labels, [[-1, -1]])


def _shifted(layer, columns):
    matrix = np.array([[1, 0, columns, 0, 1, 0, 0, 0]], "float32")
    size = keras.ops.convert_to_tensor(20.0), keras.ops.convert_to_tensor(20.0)
    return lambda *args, **kwargs: {
        "rotation_matrix": keras.ops.convert_to_tensor(matrix),
        "back": keras.ops.convert_to_tensor(matrix),
        "size": size,
    }
