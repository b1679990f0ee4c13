"""Folders of images and masks: what values mean, what is refused, one draw."""

import keras
import numpy as np
import pytest
from PIL import Image

import finetune_keras as ft

RNG = np.random.default_rng(0)
# Of 12 pairs: ids 0, 1, 2 in blocks, another place in each.
IDS = np.stack([np.roll(np.arange(4).repeat(2) % 3, i) for i in range(12)])
IDS = np.broadcast_to(IDS[:, :, None], (12, 8, 6)).astype("uint8")
PALETTE = [0, 0, 0, 255, 0, 0, 0, 0, 255]
COLORS = {"sky": (0, 0, 0), "cat": (255, 0, 0), "dog": (0, 0, 255)}


def paletted(ids):
    image = Image.fromarray(ids)
    image.putpalette(PALETTE)
    return image


def in_colors(ids):
    return Image.fromarray(np.array(PALETTE, "uint8").reshape(3, 3)[ids])


FORMS = {
    "ids": Image.fromarray,
    "palette": paletted,
    "colors": in_colors,
    "two": lambda ids: Image.fromarray(np.uint8(ids > 0) * 255),
    "bits": lambda ids: Image.fromarray(ids > 0),
    "sevens": lambda ids: Image.fromarray(ids * 7),
    "gray as colors": lambda ids: Image.fromarray(ids).convert("RGB"),
}


@pytest.fixture
def write(tmp_path):
    """Writes pairs, the masks in a form; gives both folders."""

    def made(form="ids", ending=".png", ids=IDS):
        for name in ("images", "masks"):
            (tmp_path / name / "a").mkdir(parents=True)
        for i, one in enumerate(ids):
            pixels = RNG.integers(0, 99, (*one.shape, 3)).astype("uint8")
            pixels[..., 0] = 80 * one
            Image.fromarray(pixels).save(tmp_path / f"images/a/{i:02}.png")
            FORMS[form](one).save(tmp_path / f"masks/a/{i:02}{ending}")
        return tmp_path / "images", tmp_path / "masks"

    return made


def read(folders, **options):
    return ft.mask_folder(*folders, (8, 6), **{"verbose": 0, **options})


def all_masks(data):
    return data.examples(np.arange(len(data.names)))[1]


@pytest.mark.parametrize(
    ("form", "classes", "expected"),
    [
        ("ids", None, ["0", "1", "2"]),
        ("ids", ["sky", "cat", "dog"], ["sky", "cat", "dog"]),
        ("palette", ["sky", "cat", "dog"], ["sky", "cat", "dog"]),
        ("palette", COLORS, ["sky", "cat", "dog"]),
        ("colors", COLORS, ["sky", "cat", "dog"]),
        ("colors", None, ["#000000", "#0000ff", "#ff0000"]),
        ("gray as colors", None, ["0", "1", "2"]),
        ("sevens", {"sky": 0, "dog": 14, "cat": 7}, ["sky", "dog", "cat"]),
        ("two", ["no", "yes"], ["no", "yes"]),
        ("bits", None, ["0", "1"]),
    ],
)
def test_values_are_read_as_the_classes_that_they_are(
    write, form, classes, expected
):
    data = read(write(form, "_mask.png"), classes=classes)
    assert data.task == "segmentation" and data.classes == expected
    swapped = expected[1] == "dog" or form == "colors" and classes is None
    table = [0, 2, 1] if swapped else [0, 1, 1] if len(expected) == 2 else None
    wanted = IDS if table is None else np.array(table)[IDS]
    np.testing.assert_array_equal(all_masks(data), wanted)
    assert data.counts["train"][expected[0]] == data.sizes["train"]
    x, y = next(iter(data.train))
    assert x.dtype == "float32" and y.shape == (8, 8, 6) and y.dtype == "uint8"


def test_what_is_of_no_class_is_255_and_weighs_nothing(write):
    data = read(write("sevens"), ignore_class=14, classes={"a": 0, "b": 7})
    assert set(np.unique(all_masks(data))) == {0, 1, 255}
    assert data.train.ignore_class == 255
    y = data.arrays("train")[1]
    shares = np.array([(y == 0).mean(), (y == 1).mean()])
    expected = shares.sum() / 2 / shares
    assert list(data.class_weight.values()) == pytest.approx(expected)


def test_pairs_that_do_not_fit_are_named(write, tmp_path):
    images, masks = write()
    (masks / "a/00.png").unlink()
    (images / "a/01.png").unlink()
    Image.fromarray(IDS[2][:, :4]).save(masks / "a/02.png")
    Image.fromarray(IDS[3]).save(masks / "a/03_mask.png")
    Image.fromarray(IDS[4]).save(masks / "a/04.jpg")
    (masks / "a/04.png").unlink()
    (masks / "a/05.png").write_bytes(b"no picture")
    data = read((images, masks))
    found = dict(data.bad_files)
    assert found["a/00.png"] == "no mask of its name"
    assert found["a/01.png"] == "a mask without an image"
    assert found["a/02.png"] == "6 x 8 pixels, and its mask has 4 x 8"
    assert "several masks" in found["a/03.png"]
    assert "JPEG" in found["a/04.png"]
    assert "05.png" in found["a/05.png"] and len(found) == 6
    assert sum(data.sizes.values()) == 6
    with pytest.raises(ValueError, match="6 files cannot be used"):
        read((images, masks), bad_files="refuse")


@pytest.mark.parametrize("name", ["a/{}_{}.png", "a/{}/{}.png"])
def test_a_mask_of_each_thing_is_told_from_one_of_all(write, tmp_path, name):
    images, _ = write()
    for i in range(3):
        path = tmp_path / "things" / name.format("00", i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IDS[0]).save(path)
    with pytest.raises(ValueError, match="(?s)seems to have several.*overlap"):
        read((images, tmp_path / "things"))


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        ("sevens", {"classes": ["a", "b"]}, r"ignore_class=255.*\[7, 14\]"),
        ("ids", {"classes": {"a": 0, "b": 0}}, "a value of its own"),
        ("ids", {"classes": {"a": 0, "b": "red"}}, "three integers"),
        ("ids", {"augmentation": "wild"}, "strength"),
        ("ids", {"augmentation": keras.layers.RandomFlip()}, "ft.Augmentation"),
    ],
)
def test_what_cannot_be_meant_is_refused(write, form, options, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        read(write(form), **options)


def test_masks_that_were_smoothed_are_refused(write):
    smooth = np.arange(48, dtype="uint8").reshape(8, 6)
    with pytest.raises(ValueError, match="48 values.*resized, smoothed"):
        read(write(ids=[smooth] * 4))


def test_folders_of_splits_are_kept(write):
    images, masks = write()
    for folder in (images, masks):
        (folder / "train").mkdir(), (folder / "test").mkdir()
        for i, path in enumerate(sorted((folder / "a").iterdir())):
            path.rename(folder / ("test" if i < 3 else "train") / path.name)
    data = read((images, masks), validation_split=0)
    assert data.sizes == {"train": 9, "validation": 0, "test": 3}


def test_one_draw_moves_an_image_and_its_mask(write):
    ids = RNG.integers(0, 3, (6, 16, 16)).repeat(4, 1).repeat(4, 2)
    folders = write(ids=ids.astype("uint8"))
    options = {"verbose": 0, "validation_split": 0, "test_split": 0}
    flips = keras.layers.RandomFlip(), keras.layers.RandomTranslation(0.2, 0.2)
    layers = ft.Augmentation([*flips, keras.layers.RandomZoom(0.0)])
    plain = ft.mask_folder(*folders, 64, **options)
    moved = [
        ft.mask_folder(*folders, 64, augmentation=layers, **options)
        for _ in range(2)
    ]
    passes = [[next(iter(data.train)) for _ in range(2)] for data in moved]
    for x, y in (*passes[0], *passes[1]):
        # Red tells the class of each pixel, but between two of them.
        red = np.rint(np.asarray(x)[..., 0] / 80)
        assert (red == np.asarray(y)).mean() > 0.9
    one, other = (np.asarray(y) for _, y in passes[0])
    assert (one != other).any()
    np.testing.assert_array_equal(one, passes[1][0][1])
    assert (np.sort(one, 0) != np.sort(plain.arrays("train")[1], 0)).any()


def test_verbs_on_one_label_of_each_image_refuse_masks(write):
    data = read(write())
    backbone = keras.Sequential([keras.Input((8, 6, 3)), keras.layers.ReLU()])
    for call in (
        lambda: ft.advise([backbone], data),
        lambda: ft.best_model(data, [backbone]),
        lambda: ft.rank_backbones([backbone], data),
        lambda: ft.inspect(data, backbone),
    ):
        with pytest.raises(ValueError, match="one label of each example"):
            call()


@pytest.mark.usefixtures("op_by_op")
def test_pixels_of_no_class_are_left_out_in_each_fold(write):
    classes, plan = {"a": 0, "b": 7}, ft.plans.full(epochs=1)
    data = read(write("sevens"), ignore_class=14, classes=classes)

    def build():
        inputs = keras.Input((8, 6, 3))
        outputs = keras.layers.Conv2D(2, 1, activation="softmax")(inputs)
        return keras.Model(inputs, outputs)

    found = ft.cross_validate(build, plan, data, folds=2, verbose=0)
    pixels = sum(report.confusion.sum() for report in found.reports)
    y = np.concatenate([data.arrays(n)[1] for n in ("train", "validation")])
    assert pixels == (y != 255).sum()
