"""Input scaling that matches the backbone, once and only once."""

import inspect
import re

import keras
import numpy as np

from finetune_keras.engine.graph import graph_of, walk
from finetune_keras.models.outside_graph import prepares_inputs

MODES = ("tf", "torch", "caffe")
# Red, green, blue, on the scale of raw pixels.
MEAN = {
    "torch": [255 * 0.485, 255 * 0.456, 255 * 0.406],
    "caffe": [123.68, 116.779, 103.939],
}
STD = {
    "torch": [255 * 0.229, 255 * 0.224, 255 * 0.225],
    "caffe": [1.0, 1.0, 1.0],
}
ARITHMETIC = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide"}


def preprocessing_mode(model):
    """Tells how a backbone wants its pixels.

    First the graph is asked: a model that rescales or normalises before its
    first kernel takes raw pixels. Then the name: Keras's own
    `preprocess_input` of that application is tried on a few pixels. It is
    `"tf"` (-1 to 1), `"torch"` (0 to 1, then the mean and deviation of
    ImageNet), `"caffe"` (blue, green, red, minus that mean), `"inside"` (raw
    pixels) or `None` (unknown).
    """
    names = [model.name]
    if prepares_inputs(model):
        return "inside"
    for step in walk(model)[0] if graph_of(model) is not None else []:
        if _scales(step.operation):
            return "inside"
        if has_kernel(step.operation):
            # The application may stand inside a model of another name.
            names += step.path.split("/")[:-1]
            break
    modes = [application_mode(find_application(name)) for name in names]
    # "inside" would contradict the graph, as it does for an application that
    # was built with `include_preprocessing=False`: then we do not know.
    return next((mode for mode in modes[::-1] if mode in MODES), None)


def _scales(operation):
    if isinstance(operation, keras.layers.Layer):
        scaling = (
            keras.layers.Rescaling,
            keras.layers.Normalization,
            keras.layers.Lambda,
        )
        # The second is what a preprocessor of KerasHub scales with.
        return isinstance(operation, scaling) or hasattr(
            operation, "image_converter"
        )
    return type(operation).__name__ in ARITHMETIC


def has_kernel(operation):
    """Tells whether an operation is a layer with a kernel, built or not."""
    weights = getattr(operation, "weights", ())
    return any(len(weight.shape) > 1 for weight in weights)


def applications():
    """Lists the models of `keras.applications`: a dict, name to function."""
    found = vars(keras.applications).items()
    return {name: f for name, f in sorted(found) if inspect.isfunction(f)}


def _squash(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_application(name):
    """Finds the function of `keras.applications` that made a model.

    The one with the longest name that `name` begins with, whatever the case
    and the punctuation, or `None`.
    """
    functions = {_squash(n): f for n, f in applications().items()}
    name = _squash(name)
    prefixes = [n for n in functions if name.startswith(n)]
    prefix = max(prefixes, key=len, default="")
    # `mobilenet` must claim neither a later version nor a KerasHub backbone.
    if re.match(r"v\d|.*backbone", name[len(prefix) :]):
        return None
    return functions.get(prefix)


def application_mode(function):
    """Learns the scaling of an application from Keras, by trying it."""
    package, _, module = getattr(function, "__module__", "").rpartition(".")
    module = getattr(keras.applications, module, None)
    if package.split(".")[0] != "keras" or module is None:
        return None
    pixels = np.array([[[[10.0, 100.0, 200.0]]]], "float32")
    scaled = module.preprocess_input(pixels.copy(), "channels_last")
    if np.array_equal(scaled, pixels):
        return "inside"
    formula = keras.applications.imagenet_utils.preprocess_input
    for mode in MODES:
        if np.allclose(scaled, formula(pixels.copy(), "channels_last", mode)):
            return mode
    return None


def scale_pixels(x, mode):
    """Scales raw pixels as a backbone wants them, with built-in layers only.

    The result is that of the `preprocess_input` of `keras.applications`, in
    float32 whatever the dtype policy. With one channel, the mean and the
    deviation of red, green and blue are averaged; with others than 1 and 3,
    they are repeated, and the order of the channels is kept.
    """
    if mode in (None, "inside"):
        return x
    if mode not in MODES:
        raise ValueError(
            'There is no such scaling. Pass "tf", "torch", "caffe", "inside" '
            f"or `None`. Received: mode={mode!r}"
        )
    how = {"dtype": "float32", "name": "pixel_scaling"}
    if mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, **how)(x)
    axis = channel_axis()
    channels = x.shape[axis]
    x = keras.layers.Normalization(
        axis=axis,
        mean=fit_channels(MEAN[mode], channels),
        variance=[s**2 for s in fit_channels(STD[mode], channels)],
        **how,
    )(x)
    if mode == "caffe" and channels == 3:
        x = keras.ops.flip(x, axis=axis)
    return x


def channel_axis():
    """Returns the axis of the channels in a batch of images."""
    first = keras.config.image_data_format() == "channels_first"
    return 1 if first else -1


def shape_axis():
    """Returns the axis of the channels in the shape of one image."""
    return -1 if channel_axis() == -1 else 0


def fit_channels(values, channels):
    """Averages per-channel values for one channel, repeats them for others."""
    values = np.asarray(values)
    if channels == 1:
        values = values.mean(keepdims=True)
    return np.resize(values, channels).tolist()
