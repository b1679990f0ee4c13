"""What a person sees of an input."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

from finetune_keras.data import previews

RAMP = np.linspace(0, 1, 24).reshape(4, 2, 3)


@pytest.mark.parametrize(
    "image, expected",
    [
        (RAMP, np.rint(RAMP * 255)),
        (np.rint(RAMP * 200).astype("uint8"), np.rint(RAMP * 200)),
        (RAMP * 200, np.rint(RAMP * 200)),
        (RAMP * 2 - 1, np.rint(RAMP * 255)),
        (RAMP * 4095, np.rint(RAMP * 255)),
        (np.zeros((2, 2, 3)), np.zeros((2, 2, 3))),
        (np.full((2, 2, 3), np.nan), np.zeros((2, 2, 3))),
    ],
)
def test_pixels_by_their_range(image, expected):
    found = previews.image_of(image)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=1)


def test_channels():
    assert previews.image_of(np.zeros((4, 5, 1))).shape == (4, 5, 3)
    assert previews.image_of(np.zeros((4, 5, 4))).shape == (4, 5, 3)
    keras.config.set_image_data_format("channels_first")
    found = previews.image_of(np.moveaxis(RAMP, -1, 0))
    np.testing.assert_array_equal(found, np.rint(RAMP * 255))


@pytest.mark.parametrize(
    "value", [np.zeros((4, 5)), np.zeros((4, 5, 8)), np.zeros(3), "text", 4.0]
)
def test_no_image(value):
    assert previews.image_of(value) is None
    assert previews.thumbnail(value) is None


def test_thumbnails_keep_the_shape():
    stream = io.BytesIO(previews.thumbnail(np.zeros((320, 640, 3))))
    assert Image.open(stream).size == (160, 80)
    stream = io.BytesIO(previews.thumbnail(np.zeros((3, 5, 3))))
    assert Image.open(stream).size == (5, 3)


@pytest.mark.parametrize(
    "value, text",
    [
        ("a", "a"),
        (b"\xc3\xa9\xff", "é�"),
        (np.str_("a"), "a"),
        (np.array(["a", "b"]), "a | b"),
        (np.array([1.0, 2.34567]), "1 2.346"),
        (np.arange(60), None),
        ({"image": RAMP, "age": 3, "name": "x"}, "age: 3; name: x"),
        ([RAMP, "x"], "x"),
        (RAMP, ""),
        (np.zeros((0,)), ""),
    ],
)
def test_texts(value, text):
    found = previews.text_of(value)
    if text is None:
        assert found.startswith("0 1 2 ") and found.endswith("(60 numbers)")
    else:
        assert found == text


def test_a_long_text_says_its_length_once():
    short = previews.shorten("y" * 2_000_000)
    assert short == "y" * 1000 + " … (2,000,000 characters)"
    assert previews.shorten(short) == short


def test_packed_and_back():
    value = {"photo": RAMP, "note": "x"}
    again = previews.unpack(previews.pack(value))
    assert again["text"] == "note: x"
    assert again["image"].shape == (4, 2, 3)
    assert previews.unpack(previews.pack("x")) == "x"
    keras.config.set_image_data_format("channels_first")
    value = np.moveaxis(RAMP, -1, 0)
    assert previews.unpack(previews.pack(value)).shape == (3, 4, 2)
