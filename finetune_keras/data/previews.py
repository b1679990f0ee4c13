"""What a person sees of an input: a small image, a short text."""

import base64
import io

import keras
import numpy as np

from finetune_keras.data.labels import as_text
from finetune_keras.engine.packages import PIL

MOST_CHARACTERS = 1000
_SIZE, _IN_A_STRIP = 160, 3


def image_of(value):
    """The first image in an input, as uint8 (height, width, 3), or `None`.

    An array of three axes with 1, 3 or 4 channels is an image. Floats within
    [0, 1] are stretched to 255, and others that leave [0, 255] from their
    least to their greatest value.
    """
    for leaf in keras.tree.flatten(value):
        array = np.asarray(leaf)
        if array.ndim != 3 or array.dtype.kind not in "uif" or not array.size:
            continue
        if keras.config.image_data_format() == "channels_first":
            array = np.moveaxis(array, 0, -1)
        if array.shape[-1] in (1, 3, 4):
            return _to_pixels(array)
    return None


def text_of(value):
    """The texts and numbers of an input, without its images, cut short."""
    if isinstance(value, dict):
        parts = [
            f"{key}: {text_of(part)}"
            for key, part in value.items()
            if image_of(part) is None
        ]
        return shorten("; ".join(parts))
    if isinstance(value, (list, tuple)):
        parts = [text_of(part) for part in value if image_of(part) is None]
        return shorten("; ".join(parts))
    array = np.asarray(value)
    if array.dtype.kind in "OSU" and array.ndim == 0:
        return shorten(as_text(array.item()))
    if array.dtype.kind in "OSU":
        return shorten(" | ".join(as_text(item) for item in array.ravel()))
    if image_of(value) is not None:
        return ""
    numbers = " ".join(f"{item:.4g}" for item in array.ravel()[:50])
    more = f" … ({array.size:,} numbers)" if array.size > 50 else ""
    return numbers + more


def shorten(text, most=MOST_CHARACTERS):
    """Cuts a text, and says how long it was."""
    # The slack leaves alone what was cut here before.
    if len(text) <= most + 60:
        return text
    return f"{text[:most]} … ({len(text):,} characters)"


def thumbnail(value):
    """JPEG bytes of the image in an input, made small, or `None`."""
    pixels = image_of(value)
    if pixels is None:
        return None
    image = PIL.Image.fromarray(pixels)
    # Three pictures side by side are as large as one each.
    strip = 2.2 <= image.width / image.height <= 4
    image.thumbnail((_SIZE * _IN_A_STRIP if strip else _SIZE, _SIZE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def pack(value):
    """Plain data for JSON: a thumbnail and a short text."""
    jpeg = thumbnail(value)
    return {
        "image": None if jpeg is None else base64.b64encode(jpeg).decode(),
        "text": text_of(value),
    }


def unpack(packed):
    """An input again from `pack`, as small as it became."""
    if packed["image"] is None:
        return packed["text"]
    stream = io.BytesIO(base64.b64decode(packed["image"]))
    try:
        opened = PIL.Image.open(stream, formats=["JPEG"])
        if opened.width > _SIZE * _IN_A_STRIP or opened.height > _SIZE:
            raise ValueError(f"a thumbnail has {opened.size} pixels")
        # A copy, laid out as the images of this process are.
        image = np.array(opened)
    except OSError as error:
        raise ValueError(f"a thumbnail is no JPEG: {error}") from error
    if keras.config.image_data_format() == "channels_first":
        image = np.moveaxis(image, -1, 0)
    text = packed["text"]
    return {"image": image, "text": text} if text else image


def _to_pixels(array):
    array = np.nan_to_num(array.astype("float32"))
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        array = (array - low) / max(high - low, 1e-12) * 255.0
    elif high <= 1.0:
        array = array * 255.0
    array = np.rint(array).astype("uint8")
    if array.shape[-1] == 1:
        return np.repeat(array, 3, axis=-1)
    return array[..., :3]
