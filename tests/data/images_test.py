import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune_keras.data.images import load_image
from finetune_keras.data.pipeline import ImageStore

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype("uint8")


def test_sources_of_the_same_pixels_are_one(tmp_path):
    image = Image.fromarray(PIXELS)
    path = tmp_path / "a.png"
    image.save(path)
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 7, "uint8")])
    sources = [path, str(path), path.read_bytes(), image, PIXELS, alpha]
    sources += [PIXELS.astype("float32"), PIXELS.astype("int64")]
    expected = np.asarray(image.resize((32, 24), Image.Resampling.BILINEAR))
    for source in sources:
        got = load_image(source, (24, 32))
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected)


def test_the_size_of_the_image_changes_nothing():
    np.testing.assert_array_equal(load_image(PIXELS, (40, 60)), PIXELS)


def test_gray_palette_and_sixteen_bits(tmp_path):
    gray = PIXELS[..., 0]
    sixteen = gray.astype("uint16") * 256 + 99
    for name, source in (("gray", gray), ("sixteen", sixteen)):
        Image.fromarray(source).save(tmp_path / f"{name}.png")
    palette = Image.fromarray(PIXELS).quantize(16)
    palette.info["transparency"] = 3
    palette.save(tmp_path / "palette.png")
    expected = np.dstack([gray] * 3)
    size = gray.shape
    for source in (
        gray,
        gray[..., None],
        sixteen,
        tmp_path / "gray.png",
        tmp_path / "sixteen.png",
    ):
        np.testing.assert_array_equal(load_image(source, size), expected)
    np.testing.assert_array_equal(
        load_image(tmp_path / "palette.png", size),
        np.asarray(palette.convert("RGBA").convert("RGB")),
    )


def test_cmyk_has_its_colours(tmp_path):
    """A photo saved as CMYK, read back, is close to itself."""
    smooth = Image.fromarray(PIXELS[:4, :6]).resize((60, 40))
    smooth.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    got = load_image(tmp_path / "a.jpg", (40, 60)).astype(int)
    assert np.abs(got - np.asarray(smooth)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation, tmp_path):
    image = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.webp", "a.tif"):
        image.save(tmp_path / name, exif=exif, lossless=True)
        opened = Image.open(tmp_path / name)
        expected = ImageOps.exif_transpose(opened)
        got = load_image(tmp_path / name, (expected.height, expected.width))
        np.testing.assert_array_equal(got, np.asarray(expected)[..., :3])
    assert expected.size == ((60, 40) if orientation < 5 else (40, 60))


def test_crop_takes_the_centre():
    got = load_image(PIXELS, 40, crop_to_aspect_ratio=True)
    np.testing.assert_array_equal(got, PIXELS[:, 10:50])
    tall = load_image(PIXELS, (40, 20), crop_to_aspect_ratio=True)
    np.testing.assert_array_equal(tall, PIXELS[:, 20:40])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PIXELS / 255.0, "Multiply values"),
        (PIXELS.astype("float32") * 2, "0 to 255"),
        (-PIXELS.astype("int32"), "0 to 255"),
        (np.zeros((4, 4, 2)), "1, 3 or 4 channels"),
        (np.zeros((1, 4, 4, 3)), "1, 3 or 4 channels"),
        (np.zeros((0, 4)), "1, 3 or 4 channels"),
        (b"no image", "could not be read.*8 bytes"),
        ("nowhere.jpg", "nowhere.jpg"),
    ],
)
def test_bad_sources(source, message):
    with pytest.raises(ValueError, match=message):
        load_image(source, 8)


@pytest.mark.parametrize("size", [0, -3, 2.5, (4,), (4, 0), "8", None])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="image_size="):
        load_image(PIXELS, size)


@pytest.mark.parametrize("cache", [True, False, "auto"])
def test_the_store_gives_what_load_image_gives(cache, tmp_path):
    paths = []
    for i in range(5):
        paths.append(str(tmp_path / f"{i}.jpg"))
        Image.fromarray(np.roll(PIXELS, i * 7, 1)).save(paths[-1])
    store = ImageStore(paths, 24, True, cache)
    expected = np.stack([load_image(p, 24, True) for p in paths])
    for order in ([3, 1], [1, 4, 3, 0, 2], [2, 2]):
        got = store.batch(np.array(order))
        np.testing.assert_array_equal(got, expected[order])


def test_a_jpeg_in_memory_is_the_file(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(
        load_image(buffer.getvalue(), 16), load_image(tmp_path / "a.jpg", 16)
    )
