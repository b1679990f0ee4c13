"""One way to read an image, for training and for prediction."""

import io
import os

import numpy as np

from finetune_keras.data.image_check import (
    FORMATS,
    SIXTEEN_BIT,
    mode_problem,
    orientation,
    read_file,
)
from finetune_keras.engine.packages import PIL


def load_image(source, image_size, crop_to_aspect_ratio=False):
    """Reads an image as RGB pixels, uint8 (height, width, 3), of a given size.

    Training and prediction both go through this function, so that a model sees
    the same pixels in both. The orientation in the EXIF data is obeyed. Gray
    images are repeated over three channels, transparency is dropped, CMYK is
    converted, 16-bit values are scaled to 8 bits. The resize is bilinear with
    antialiasing; `crop_to_aspect_ratio` cuts the centre out first.

    The source is a path or the bytes of a file, in JPEG, PNG, WebP, TIFF, BMP,
    GIF or PPM; a `PIL.Image.Image`; or an array with values from 0 to 255
    (uint16: to 65535).
    """
    height, width = check_image_size(image_size)
    image = open_image(source)
    return np.asarray(_resize(image, width, height, crop_to_aspect_ratio))


def size_of(source):
    """`(height, width)` of what `load_image` takes, upright."""
    image = _open(source)
    width, height = image.size
    turned = orientation(image) > 4
    return (width, height) if turned else (height, width)


def open_image(source):
    """An image of Pillow, upright and in RGB, of what `load_image` takes."""
    return to_rgb(_open(source))


def check_image_size(image_size):
    """Returns `(height, width)`, or raises where there is no such size."""
    size = image_size
    if isinstance(size, (int, np.integer)):
        size = (size, size)
    good = isinstance(size, (tuple, list)) and len(size) == 2
    if not good or not all(
        isinstance(n, (int, np.integer)) and n > 0 for n in size
    ):
        raise ValueError(
            "`image_size` must be a positive integer, or a tuple `(height, "
            f"width)` of such. Received: image_size={image_size!r}"
        )
    return int(size[0]), int(size[1])


def to_rgb(image):
    """Turns an image of Pillow upright and into 8-bit RGB."""
    problem = mode_problem(image.mode)
    if problem:
        raise ValueError(
            f"The image has the unsupported {problem}. Save it with 8 bits a "
            f"channel. Received: source={image!r}"
        )
    if image.mode in SIXTEEN_BIT:
        exif = image.getexif()
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
        image.getexif().update(exif)
    elif image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns and takes the transparent colour.
        image = image.convert("RGBA")
    if orientation(image) != 1:
        image = PIL.ImageOps.exif_transpose(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _open(source):
    if isinstance(source, PIL.Image.Image):
        return source
    if not isinstance(source, (str, os.PathLike, bytes, bytearray)):
        return PIL.Image.fromarray(_pixels(source))
    try:
        if isinstance(source, (str, os.PathLike)):
            data = read_file(source)
        else:
            data = source
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except Exception as error:
        # Decoders raise errors of many types, none with the name of the file.
        raise ValueError(
            f"The image could not be read: {error}. Pass a file of "
            f"{', '.join(FORMATS)}. Received: source={_short(source)}"
        ) from error
    return image


def _pixels(array):
    """Array of uint8, `(height, width)` or `(height, width, 3)`."""
    array = np.asarray(array)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ValueError(
            "An array of an image must have the shape (height, width) or "
            "(height, width, channels) with 1, 3 or 4 channels. Received: "
            f"source of shape {array.shape}"
        )
    if array.ndim == 3:
        array = array[..., 0] if channels == 1 else array[..., :3]
    if array.dtype == bool:
        return array.astype("uint8") * 255
    if array.dtype == np.uint16:
        return (array >> 8).astype("uint8")
    _check_range(array)
    return np.rint(array).astype("uint8")


def _check_range(array):
    if array.dtype == np.uint8:
        return
    low, high = float(array.min()), float(array.max())
    fraction = high <= 1 and bool((array != np.rint(array)).any())
    if not (low >= 0 and high <= 255) or fraction:
        raise ValueError(
            "Pixels must go from 0 to 255; the model scales them itself. "
            "Multiply values between 0 and 1 by 255. Received: source with "
            f"values from {low:g} to {high:g}"
        )


def _resize(image, width, height, crop):
    box = None
    if crop:
        # The same box as `keras.preprocessing.image.smart_resize`.
        cut_width = min(image.width, int(image.height * width / height)) or 1
        cut_height = min(image.height, int(image.width * height / width)) or 1
        left = (image.width - cut_width) // 2
        top = (image.height - cut_height) // 2
        box = (left, top, left + cut_width, top + cut_height)
    if box is None and image.size == (width, height):
        return image
    return image.resize((width, height), PIL.Image.Resampling.BILINEAR, box)


def _short(source):
    if isinstance(source, (bytes, bytearray)):
        return f"{len(source)} bytes"
    return repr(source)
