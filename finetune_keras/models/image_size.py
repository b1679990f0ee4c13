"""The size of the images that pretrained weights were made for."""

import keras

from finetune_keras.engine.graph import (
    graph_of,
    speaks_for_its_layers,
    walk,
)
from finetune_keras.models.inline import replay
from finetune_keras.models.pixel_guard import guard_like
from finetune_keras.models.preprocessing import (
    applications,
    channel_axis,
    find_application,
    has_kernel,
    shape_axis,
)

# Pixels on a side of what is not made for 224.
_SIZES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2L": 480,
    "EfficientNetV2M": 480,
    "EfficientNetV2S": 384,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}
# These have weights of their own for smaller images.
_MORE_SIZES = {
    "MobileNet": (128, 160, 192),
    "MobileNetV2": (96, 128, 160, 192),
}


def size_of_weights(name, pixels=None):
    """Pixels on a side that the ImageNet weights of an application are for.

    Of an application with weights for several sizes those for images of
    `pixels` are meant, if there are any.
    """
    if pixels in _MORE_SIZES.get(name, ()):
        return pixels
    return _SIZES.get(name, 224)


def resized(backbone, given):
    """A backbone that takes photos of the shape `given`, and resizes them."""
    inputs = keras.Input(given, name="photos")
    wanted = sides(graph_of(backbone).inputs[0].shape[1:])
    # As photos are read from their files, and as exactly.
    resizing = keras.layers.Resizing(*wanted, antialias=True)
    _, outputs = replay(backbone, resizing(inputs))
    new = keras.Model(inputs, outputs, name=backbone.name)
    return speaks_for_its_layers(guard_like(backbone, new))


def sides(shape):
    """Height and width in the shape of an image."""
    first = shape_axis() == 0
    return tuple(shape[first : first + 2])


def with_sides(shape, height, width):
    first = shape_axis() == 0
    return (*shape[:first], height, width, *shape[first + 2 :])


def too_small(model, name=None):
    """`(pixels, expected)` of a model whose images are smaller than expected.

    `name` is that of the application, whose weights Keras chose by the size;
    a built model may have those for full size. `None` where images are large
    enough, or nobody knows.
    """
    found, pixels = name or _application(model), _pixels(model)
    if found is None or pixels is None:
        return None
    expected = size_of_weights(found, pixels if name else None)
    return (pixels, expected) if pixels < expected else None


def _application(model):
    """Name of the application that a model is, or `None`."""
    function = find_application(model.name)
    names = [n for n, f in applications().items() if f is function]
    return names[0] if names else None


def _pixels(model):
    """The shorter side of what the first kernel sees, or `None`."""
    for step in walk(model)[0] if graph_of(model) is not None else []:
        if has_kernel(step.operation):
            shape = list(step.input_shapes[0][1:])
            if len(shape) == 3:
                shape.pop(-1 if channel_axis() == -1 else 0)
                return None if None in shape else min(shape)
    return None
