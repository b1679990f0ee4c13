"""Augmentation of images: one affine map, colours, a rectangle cut out."""

import math

import keras

from finetune_keras.arguments import check, share
from finetune_keras.data.augmentation import STRENGTH, Augmentation
from finetune_keras.engine import backend
from finetune_keras.engine.layers import seeds_of

# What must be left of a box.
_LEAST = 0.25
_FLIPS = ("horizontal", "vertical", "both", None)


def image_augmentation(
    strength="medium", flip="horizontal", seed=None, bounding_box_format=None
):
    """Makes a layer that augments images while training.

    For batches `(batch, height, width, channels)` of raw pixels, 0 to 255,
    uint8 or float; it also takes single images. `"light"` flips and shifts a
    little. `"medium"` also turns (by up to 18 degrees), zooms (by up to 15 %)
    and changes contrast and brightness: a good start for few photos. `"strong"`
    moves more and cuts out rectangles: for long training. All moves are one
    affine map, which costs as much as one of them.

    Args:
        strength: String, `"light"`, `"medium"` or `"strong"`. Defaults to
            `"medium"`.
        flip: String, `"horizontal"`, `"vertical"` or `"both"`, or `None` where
            a mirror image means something else, as for letters. Defaults to
            `"horizontal"`.
        seed: Integer, or `None` for a random one. Defaults to `None`.
        bounding_box_format: String, `"yxyx"` or another format of Keras. The
            layer then takes a dict of `images` and `bounding_boxes`, and moves
            both alike. It turns nothing, as a turned box is none, fills what
            comes in with grey, and gives boxes of which less than a quarter
            is left the label -1. Defaults to `None`.

    Returns:
        An `Augmentation`.

    Raises:
        ValueError: If `strength` or `flip` is unknown.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    pixels = np.random.randint(0, 256, (4, 32, 32, 3), "uint8")
    augmentation = ft.image_augmentation("medium", seed=0)
    augmented = augmentation(pixels, training=True)
    print(augmented.shape, augmented.dtype)
    ```
    """
    check(strength=(strength, STRENGTH))
    moves = {
        "light": (0.0, 0.0, 0.05),
        "medium": (0.05, 0.15, 0.05),
        "strong": (0.08, 0.25, 0.1),
    }[strength]
    options, fill = {"dtype": "float32"}, {}
    if bounding_box_format is not None:
        options["bounding_box_format"] = bounding_box_format
        # What is mirrored in would be things without boxes.
        fill = {"fill_mode": "constant", "fill_value": 127.5}
        moves = (0.0, *moves[1:])
    layers = [RandomAffine(*moves, flip, **options, **fill)]
    if strength != "light":
        layers += [
            keras.layers.RandomContrast(0.2, **options),
            keras.layers.RandomBrightness(0.1, **options),
        ]
    if strength == "strong":
        layers.append(RandomCutout(0.5, scale=(0.02, 0.15), **options))
    return Augmentation(layers, seed=seed)


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomAffine(keras.layers.RandomRotation):
    """Turns, zooms, shifts and mirrors each image by one affine map.

    Turns by up to `factor` full turns, sizes by `1 - zoom` to `1 + zoom`,
    shifts by up to `translation` of each side, and mirrors as `flip` says with
    probability 1/2. Pixels beyond the border are mirrored in. Unlike the
    layers of Keras, it is active with `training=True` only. Bounding boxes
    move along; less than a quarter of one left, its label becomes -1.
    """

    def __init__(
        self,
        factor=0.05,
        zoom=0.15,
        translation=0.05,
        flip="horizontal",
        seed=None,
        **kwargs,
    ):
        check(zoom=(zoom, share), translation=(translation, share))
        if flip not in _FLIPS or zoom == 1:
            raise ValueError(
                '`flip` must be "horizontal", "vertical", "both" or `None`, '
                "and `zoom` less than 1. "
                f"Received: flip={flip!r}, zoom={zoom!r}"
            )
        super().__init__(factor, seed=seed, **kwargs)
        self.zoom = zoom
        self.translation = translation
        self.flip = flip
        # XLA lacks the operation of TensorFlow; that of jax compiles.
        self.supports_jit = not backend.on("tensorflow")

    def call(self, data, training=False):
        return super().call(data, training=training)

    def get_random_transformation(self, data, training=True, seed=None):
        if not training:
            return None
        images = data["images"] if isinstance(data, dict) else data
        shape = self.backend.core.shape(images)
        size = shape[0] if len(shape) == 4 else 1
        axes = (-2, -1) if self.data_format == "channels_first" else (-3, -2)
        height, width = (
            self.backend.cast(shape[axis], "float32") for axis in axes
        )
        seed = seed or seeds_of(self)

        def draw(low, high):
            return self.backend.random.uniform((size,), low, high, seed=seed)

        angle = draw(*self.factor) * (2 * math.pi)
        scale = draw(1 - self.zoom, 1 + self.zoom)
        cos = scale * self.backend.numpy.cos(angle)
        sin = scale * self.backend.numpy.sin(angle)
        across = self._side(draw, "horizontal")
        down = self._side(draw, "vertical")
        # Where each pixel comes from, seen from the middle of the image.
        x_row, y_row = (across * cos, -across * sin), (down * sin, down * cos)
        shifts = [draw(-self.translation, self.translation) for _ in range(2)]
        matrix = self._matrix(
            (*x_row, shifts[0] * width),
            (*y_row, shifts[1] * height),
            (width - 1) / 2,
            (height - 1) / 2,
        )
        # On torch, Keras writes into the matrix that it moves images by.
        back = self.backend.numpy.copy(matrix)
        size = (height, width)
        return {"rotation_matrix": matrix, "back": back, "size": size}

    def _side(self, draw, direction):
        """Draws 1, or -1 for images that are mirrored."""
        if self.flip not in (direction, "both"):
            return 1.0
        return self.backend.numpy.sign(draw(-1.0, 1.0))

    def _matrix(self, x_row, y_row, x_middle, y_middle):
        numpy = self.backend.numpy
        columns = []
        for row, middle in ((x_row, x_middle), (y_row, y_middle)):
            offset = middle + row[2] - row[0] * x_middle - row[1] * y_middle
            columns += [row[0], row[1], offset]
        zeros = numpy.zeros_like(columns[0])
        return numpy.stack([*columns, zeros, zeros], axis=1)

    def transform_bounding_boxes(
        self, bounding_boxes, transformation, training=True
    ):
        if not training:
            return bounding_boxes
        height, width = transformation["size"]
        form, labels = self.bounding_box_format, bounding_boxes["labels"]
        convert = keras.utils.bounding_boxes.convert_format
        sides = {"height": height, "width": width}
        boxes = convert(bounding_boxes["boxes"], form, "xyxy", **sides)
        boxes = self._moved(boxes, transformation["back"])
        numpy, limits = self.backend.numpy, (width, height, width, height)
        inside = numpy.clip(boxes, 0.0, numpy.stack(limits))
        kept = (labels >= 0) & (_area(inside) > _LEAST * _area(boxes))
        boxes = convert(inside, "xyxy", form, **sides)
        return {
            "boxes": numpy.where(kept[..., None], boxes, -1.0),
            "labels": numpy.where(kept, labels, -numpy.ones_like(labels)),
        }

    def _moved(self, boxes, matrix):
        """Where boxes go, as (left, top, right, bottom)."""
        numpy = self.backend.numpy
        # The matrix leads back, from the middle of a pixel to that of another.
        a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
        x = numpy.take(boxes, [0, 2, 0, 2], axis=-1) - 0.5 - c
        y = numpy.take(boxes, [1, 1, 3, 3], axis=-1) - 0.5 - f
        scale = a * e - b * d
        points = (e * x - b * y) / scale, (a * y - d * x) / scale
        ends = [
            reach(one, axis=-1) + 0.5
            for reach in (numpy.amin, numpy.amax)
            for one in points
        ]
        return numpy.stack(ends, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "zoom": self.zoom,
            "translation": self.translation,
            "flip": self.flip,
        }


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@keras.saving.register_keras_serializable(package="finetune_keras")
class RandomCutout(keras.layers.RandomContrast):
    """Fills a rectangle of some images with `fill_value`, by default grey.

    What `keras.layers.RandomErasing` does, in a quarter of its time, and with
    `rate` as the plain probability. Active with `training=True` only. (Zhong
    et al., 2017, https://arxiv.org/abs/1708.04896) Of contrast it keeps that
    pixels change and do not move: Keras 3.8 has no `RandomErasing`.
    """

    def __init__(
        self, rate=0.5, scale=(0.02, 0.2), fill_value=127.5, seed=None, **kwargs
    ):
        for size in scale:
            check(rate=(rate, share), scale=(size, share))
        kwargs["factor"] = (rate, rate)
        super().__init__(seed=seed, **kwargs)
        self.rate = rate
        self.scale = tuple(scale)
        self.fill_value = fill_value
        last = self.data_format == "channels_last"
        self.height_axis, self.width_axis = (-3, -2) if last else (-2, -1)

    def call(self, data, training=False):
        return super().call(data, training=training)

    def get_random_transformation(self, data, training=True, seed=None):
        if not training:
            return None
        images = data["images"] if isinstance(data, dict) else data
        shape = self.backend.core.shape(images)
        size = shape[0] if len(shape) == 4 else 1
        seed = seed or seeds_of(self)

        def draw(low=0.0, high=1.0):
            uniform = self.backend.random.uniform((size,), low, high, seed=seed)
            return self.backend.numpy.reshape(uniform, (-1, 1, 1, 1))

        side = self.backend.numpy.sqrt(draw(*self.scale))
        stretch = self.backend.numpy.exp(draw(-0.5, 0.5))
        sides = {self.height_axis: stretch, self.width_axis: 1 / stretch}
        inside = self.backend.cast(draw() < self.rate, "float32")
        for axis, factor in sides.items():
            length = self.backend.numpy.minimum(side * factor, 1.0)
            # Not in place: torch would refuse the larger shape.
            stripe = self._stripe(axis, shape[axis], draw(), length)
            inside = inside * stripe
        return {"inside": inside}

    def _stripe(self, axis, size, position, length):
        """Marks the pixels along one axis that a stripe covers."""
        outline = [1, 1, 1, 1]
        outline[axis] = -1
        pixels = self.backend.numpy.arange(size, dtype="float32") + 0.5
        pixels = self.backend.numpy.reshape(pixels, outline)
        size = self.backend.cast(size, "float32")
        start = position * (1.0 - length) * size
        covered = (pixels >= start) & (pixels < start + length * size)
        return self.backend.cast(covered, "float32")

    def transform_images(self, images, transformation=None, training=True):
        images = self.backend.cast(images, self.compute_dtype)
        if not training:
            return images
        inside = self.backend.cast(transformation["inside"], images.dtype)
        return images + (self.fill_value - images) * inside

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "scale": self.scale,
            "fill_value": self.fill_value,
        }
