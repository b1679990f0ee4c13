"""Copies that are not equal: what is found, and what is not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune_keras.data.near_copies import (
    LEAST_TEXT,
    fingerprints,
    has_detail,
    photo_copies,
    plain_text,
    text_copies,
)


def photos(count=24, size=(120, 90)):
    """Clouds of colors, all different."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(count, 9, 12, 3)).astype("uint8")
    return [Image.fromarray(x).resize(size, Image.BICUBIC) for x in pixels]


def prints(images, size=(64, 48)):
    x = [np.asarray(one.resize(size, Image.BILINEAR)) for one in images]
    return fingerprints(np.stack(x).astype("float32"))


def recompressed(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image.resize((61, 47)),
        recompressed,
        ImageOps.mirror,
        lambda image: recompressed(ImageOps.mirror(image.resize((80, 60)))),
        lambda image: image.point(lambda value: 0.6 * value + 40),
    ],
    ids=["equal", "resized", "compressed", "mirrored", "all", "faded"],
)
def test_copies_of_photos(change):
    images = photos()
    found = photo_copies(prints([*images, *map(change, images[:5])]))
    pairs = [(int(i), int(j)) for i, j, share in found if 0.95 <= share <= 1]
    assert pairs == [(24 + i, i) for i in range(5)]


def test_a_copy_is_of_the_first_of_its_kind(monkeypatch):
    # Across the borders of blocks.
    monkeypatch.setattr("finetune_keras.data.near_copies._BLOCK", 2)
    images = photos(5)
    images = [images[0], images[1], images[0], images[2], images[0]]
    found = [(int(i), int(j)) for i, j, _ in photo_copies(prints(images))]
    assert found == [(2, 0), (4, 0)]


def test_what_is_flat_is_no_copy():
    rng = np.random.default_rng(0)
    flat = 200 + rng.normal(0, 0.5, size=(1, 40, 40, 1))
    # Of the same noise, and of pixels from 0 to 1.
    for x in (flat, flat / 255):
        assert not list(photo_copies(fingerprints(np.repeat(x, 2, axis=0))))


def test_the_cells_are_means_of_their_pixels():
    x = np.random.default_rng(1).uniform(0, 255, size=(2, 48, 64, 3))
    cells = x.mean(-1).reshape(2, 16, 3, 16, 4).mean((2, 4))
    around = np.zeros_like(cells)
    for row, column in np.ndindex(16, 16):
        rows = np.clip([row - 1, row, row + 1], 0, 15)
        columns = np.clip([column - 1, column, column + 1], 0, 15)
        around[:, row, column] = cells[:, rows][:, :, columns].mean((1, 2))
    expected = (cells - around).reshape(2, -1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(fingerprints(x)[:, 0], expected, atol=1e-5)
    mirrored = fingerprints(x[:, :, ::-1])
    np.testing.assert_allclose(fingerprints(x)[:, 1], mirrored[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 32, 40, 3), True),
        ((2, 32, 40, 1), True),
        ((2, 8, 8, 1), False),
        ((2, 3, 32, 32), False),
        ((2, 32), False),
    ],
)
def test_what_has_detail(shape, expected):
    assert has_detail(np.zeros(shape)) == expected


def test_copies_of_texts():
    texts = [
        "What is the speed of the Mississippi River?",
        "What is the speed of the Hudson River?",
        "what is the speed  of the Mississippi river",
        "What is the spead of the Mississippi River?",
        "?!",
        "!?",
        "?!",
    ]
    # All are alike to this model, and only what they say tells them apart.
    features = np.outer([1, 1, 1, 1, 1, -9, 1], [1, 2])
    found = list(text_copies(texts, features))
    assert [(int(i), int(j)) for i, j, _ in found] == [(2, 0), (6, 4), (3, 0)]
    shares = [share for _, _, share in found]
    assert shares[:2] == [1, 1] and LEAST_TEXT <= shares[2] < 1


def test_texts_with_other_features_are_not_compared():
    texts = ["a rather long sentence on A", "a rather long sentence on B", "x"]
    near = np.array([[1.0, 0], [1, 0.1], [-3, 2]])
    far = np.array([[1.0, 0], [-1, 0], [0, 1]])
    assert len(list(text_copies(texts, near))) == 1
    assert not list(text_copies(texts, far))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  PANIC!\n", "don t panic"),
        ("ＦＵＬＬ width", "full width"),
        (" :-) ", ":-)"),
        ("日本語。", "日本語"),
    ],
)
def test_plain_text(text, expected):
    assert plain_text(text) == expected
