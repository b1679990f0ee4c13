"""A warning for pixels that are scaled twice."""

import functools
import warnings

import keras
import numpy as np

from finetune_keras.data.source import Source, kind_of
from finetune_keras.data.source_examples import Arrays


def looks_scaled(x):
    """Tells whether pixels look scaled already, instead of 0 to 255.

    Integers never do, nor does a constant batch, nor a few negative values
    such as interpolation leaves in raw pixels.
    """
    extremes = _extremes(x if hasattr(x, "dtype") else np.asarray(x))
    return extremes is not None and _are_scaled(*extremes)


def _extremes(x, rows=None):
    """Returns (minimum, maximum) of pixels, `None` where they tell nothing."""
    if "float" not in str(x.dtype):
        return None
    try:
        # Sliced after conversion: on a traced tensor it would add a step.
        x = keras.ops.convert_to_numpy(x)[:rows]
    except Exception:  # a traced tensor: each backend raises its own error
        return None
    if x.size == 0 or x.min() == x.max():
        return None
    return float(x.min()), float(x.max())


def _are_scaled(low, high):
    # Below -50 only a subtracted mean leads, above 20 no other scaling does.
    return high <= 1.5 or (low < 0 and (high <= 20 or low < -50))


# The methods that get data of any kind, and those that get a batch.
_WITH_DATA = ("fit", "evaluate", "predict")
_WITH_A_BATCH = ("train_on_batch", "test_on_batch", "predict_on_batch", "call")


def guard_pixels(model):
    """Has a model warn when its pixels look scaled already.

    Models of this library take raw pixels, 0 to 255, and scale them inside.
    Whoever scales them too gets a model that learns badly and says nothing,
    so `fit`, `evaluate`, `predict`, their batch versions and a plain call look
    at the first pixels that they see (at most 32 images) and warn, once for
    each model. Symbolic tensors and integer images pass unseen.

    The guard stands on the object and in memory only: class and file are
    those of the model, and load where this library is not installed.

    Args:
        model: A functional `keras.Model` whose first input is the images.

    Returns:
        `model` itself.
    """
    guard = _PixelGuard(model)
    members = vars(model)
    members["_pixel_guard"] = guard
    for name in _WITH_DATA:
        members[name] = _looking(model, name, guard.look_at)
    for name in _WITH_A_BATCH:
        members[name] = _looking(model, name, guard.look_once)
    return model


def guards_pixels(model):
    """Tells whether a model looks at its pixels."""
    return "_pixel_guard" in vars(model)


def guard_like(model, new):
    """Has a new model guard its pixels if another one does; returns it."""
    return guard_pixels(new) if guards_pixels(model) else new


def _looking(model, name, look):
    @functools.wraps(getattr(model, name))
    def method(*args, **kwargs):
        if args:
            args = (look(args[0]), *args[1:])
        elif "x" in kwargs:
            kwargs["x"] = look(kwargs["x"])
        # The class may have changed since.
        return getattr(type(model), name)(model, *args, **kwargs)

    return method


class _PixelGuard:
    def __init__(self, model):
        self.rank = len(model.inputs[0].shape)
        self.has_warned = False
        self.has_seen = False

    def look_at(self, x):
        """Looks at data of any kind; returns what to use in its place."""
        if self.has_warned:
            return x
        if kind_of(x) in (None, Arrays):
            images = self._images(x)
            self._look(None if images is None else images[:32])
            return x
        if self.has_seen:
            return x
        return Source.of(x).watched(self.look_once, self._of_batch, every=False)

    def look_once(self, x):
        """Looks at a batch, unless pixels were seen before; returns it."""
        if not (self.has_seen or self.has_warned):
            self._look(self._images(x))
        return x

    def _look(self, images):
        extremes = None if images is None else _extremes(images, 32)
        if extremes is None:
            return
        self.has_seen = True
        if _are_scaled(*extremes):
            self.has_warned = True
            warnings.warn(
                "Pixels look scaled already (minimum {:.3g}, maximum {:.3g}); "
                "this model scales raw 0..255 pixels itself. Pass raw pixels: "
                "leave out the division, the `Rescaling` layer or the "
                "`preprocess_input` before it.".format(*extremes),
                stacklevel=4,
            )

    def _images(self, x):
        """Finds the images in what a model is called with, if it can."""
        x = list(x.values()) if isinstance(x, dict) else x
        for leaf in x if isinstance(x, (list, tuple)) else [x]:
            shape = getattr(leaf, "shape", ())
            # The length of a shape of unknown rank is an error in TensorFlow.
            rank = shape.rank if hasattr(shape, "rank") else len(shape)
            if rank == self.rank and hasattr(leaf, "dtype"):
                return leaf
        return None

    def _of_batch(self, batch):
        """Finds the images in a batch of data."""
        x = batch[0] if isinstance(batch, (list, tuple)) else batch
        return self._images(x)
