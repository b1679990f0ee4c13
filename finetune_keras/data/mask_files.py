"""Files of masks: their values, and the classes that these stand for."""

import concurrent.futures
import hashlib
import io
import numbers
import os

import numpy as np

from finetune_keras.data.image_check import (
    FORMATS,
    SIXTEEN_BIT,
    mode_problem,
    orientation,
    read_file,
)
from finetune_keras.data.labels import check_classes
from finetune_keras.data.segmentation import IGNORED
from finetune_keras.engine.packages import PIL

# Colours begin where no value of a pixel is.
_COLOR = 2**24
# Of more values than these a mask is likely no mask.
_MOST_FOUND = 32


def open_mask(path, by_color):
    """Values of a mask, integers (height, width).

    A palette's numbers are the values, unless `by_color`. Colours are numbers
    beyond all values, and gray ones with them only `by_color`.
    """
    image = PIL.Image.open(io.BytesIO(read_file(path)), formats=FORMATS)
    problem = mode_problem(image.mode)
    if problem and image.mode != "I":
        raise ValueError(problem)
    if image.format == "JPEG":
        raise ValueError("JPEG, which changes values; save masks as PNG")
    image.load()
    if orientation(image) != 1:
        image = PIL.ImageOps.exif_transpose(image)
    plain = image.mode in ("1", "L", "P", "I", *SIXTEEN_BIT)
    if plain and not by_color:
        return np.asarray(image).astype("int32")
    if image.mode in ("LA", "La") and not by_color:
        return np.asarray(image)[..., 0].astype("int32")
    pixels = np.asarray(image.convert("RGB")).astype("int32")
    red, green, blue = np.moveaxis(pixels, -1, 0)
    if not by_color and (red == green).all() and (green == blue).all():
        return red
    return _COLOR + (red << 16) + (green << 8) + blue


def looked_at(paths, by_color):
    """Lists `(values, pixels of each, shape, digest, problem)` of masks."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda path: _look(path, by_color), paths))


def _look(path, by_color):
    try:
        values = open_mask(path, by_color)
    except Exception as error:  # decoders raise errors of many types
        return (), (), (), "", f"mask {os.path.basename(path)!r}: {error}"
    digest = hashlib.sha256(values.tobytes()).hexdigest()[:32]
    return *np.unique(values, return_counts=True), values.shape, digest, None


class MaskClasses:
    """Which class each value of a mask stands for.

    `names` are the classes, `values` what each is in the files, as integers,
    and `ignored` the value of pixels of no class, or `None`.
    """

    def __init__(self, names, values, ignored=None):
        if len(names) > IGNORED:
            raise ValueError(
                f"Masks hold up to {IGNORED} classes. "
                f"Received: {len(names)} classes"
            )
        self.names = names
        self.values = np.array(values, "int64")
        self.ignored = ignored

    def ids(self, values):
        """Class ids of values, uint8; those of no class are 255."""
        order = np.argsort(self.values)
        places = np.searchsorted(self.values[order], values)
        places = np.minimum(places, len(order) - 1)
        known = self.values[order][places] == values
        return np.where(known, order[places], IGNORED).astype("uint8")

    def counts(self, values, pixels):
        """Pixels of each class, of the values of a mask."""
        ids = self.ids(np.asarray(values))
        found = np.bincount(ids, np.asarray(pixels), IGNORED + 1)
        return found[: len(self.names)]

    def unknown(self, values):
        """Lists values that are no class, and not ignored."""
        return [
            int(value)
            for value in values
            if value not in self.values and value != self.ignored
        ]


def tells_colors(classes, ignore_class):
    """Tells whether classes are told by colours."""
    told = list(classes.values()) if isinstance(classes, dict) else []
    return any(isinstance(x, (tuple, list)) for x in [*told, ignore_class])


def looked_at_alike(paths, by_color):
    """`(by_color, looks)`: all masks by their colours where one has some."""
    looks = looked_at(paths, by_color)
    if by_color or not any(np.any(np.array(x[0]) >= _COLOR) for x in looks):
        return by_color, looks
    return True, looked_at(paths, True)


def classes_of(classes, ignore_class, values):
    """The `MaskClasses` that are told, or else found among `values`."""
    ignored = None if ignore_class is None else as_value(ignore_class)
    if isinstance(classes, dict):
        names = check_classes(list(classes))
        numbers = [as_value(value) for value in classes.values()]
        if len(set(numbers)) < len(numbers) or ignored in numbers:
            raise ValueError(
                "Each class must have a value of its own in the masks, and "
                f"`ignore_class` another. Received: classes={classes}, "
                f"ignore_class={ignore_class}"
            )
        return MaskClasses(names, numbers, ignored)
    found = sorted(set(values) - {ignored})
    if classes is None:
        _check_found(found)
        return MaskClasses([_name(x) for x in found], found, ignored)
    names = check_classes(classes)
    binary = found == [0, 255] and len(names) == 2
    return MaskClasses(names, found if binary else range(len(names)), ignored)


def as_value(value):
    """A value of a mask as an integer, a colour as 0xRRGGBB."""
    if isinstance(value, numbers.Integral) and value >= 0:
        return int(value)
    parts = list(value) if isinstance(value, (tuple, list)) else []
    if len(parts) != 3 or not all(
        isinstance(x, numbers.Integral) and 0 <= x <= 255 for x in parts
    ):
        raise ValueError(
            "A class of a mask is told by an integer of at least 0, or by a "
            f"colour, three integers from 0 to 255. Received: {value!r}"
        )
    red, green, blue = map(int, parts)
    return _COLOR + (red << 16) + (green << 8) + blue


def _check_found(found):
    if not 2 <= len(found) <= _MOST_FOUND:
        raise ValueError(
            f"The masks have {len(found)} values, and the classes of masks "
            f"are found where they have 2 to {_MOST_FOUND}. Masks that were "
            "resized, smoothed or saved as JPEG have values between those of "
            "classes: make them again. Else tell the classes: "
            "`classes=[...]`, names for 0, 1, 2, ..., or a dict from names to "
            f"values or colours. Received: masks with {_few(found)}"
        )


def _few(found):
    return [_name(x) for x in found[:8]] + ["..."] * (len(found) > 8)


def _name(value):
    return str(value) if value < _COLOR else f"#{value - _COLOR:06x}"
