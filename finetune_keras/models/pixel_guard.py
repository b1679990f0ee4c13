"""A warning for pixels that are scaled twice."""

import functools
import warnings

import keras
import numpy as np


def looks_scaled(x):
    """Tells whether pixels look scaled already, instead of 0 to 255.

    Integers never do, nor does a constant batch, nor a few negative values
    such as interpolation leaves in raw pixels.

    Args:
        x: A batch of images, NumPy array or tensor.

    Returns:
        Boolean.
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


class LooksAtPixels:
    """What `PixelModel` does; other models may take its guard over.

    A model that `freeze` or `add_adapters` gives another class keeps its guard
    by `guards_pixels`.
    """

    guards_pixels = False
    _pixels_warned = False
    _pixels_seen = False

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, *args, **kwargs):
        return super().fit(self._look_at(x), *args, **kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x=None, *args, **kwargs):
        return super().evaluate(self._look_at(x), *args, **kwargs)

    @functools.wraps(keras.Model.predict)
    def predict(self, x, *args, **kwargs):
        return super().predict(self._look_at(x), *args, **kwargs)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, x, *args, **kwargs):
        self._look_once(x)
        return super().train_on_batch(x, *args, **kwargs)

    @functools.wraps(keras.Model.test_on_batch)
    def test_on_batch(self, x, *args, **kwargs):
        self._look_once(x)
        return super().test_on_batch(x, *args, **kwargs)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x):
        self._look_once(x)
        return super().predict_on_batch(x)

    def __call__(self, *args, **kwargs):
        if args:
            self._look_once(args[0])
        return super().__call__(*args, **kwargs)

    def _look_at(self, x):
        """Looks at data of any kind; returns what to use in its place."""
        if self._pixels_warned or not self.guards_pixels:
            return x
        if hasattr(x, "element_spec") and hasattr(x, "enumerate"):
            return self._look_at_dataset(x)
        if isinstance(x, keras.utils.PyDataset):
            images = None if self._pixels_seen else self._images(_first(x[0]))
        else:
            images = self._images(x)
        self._look(None if images is None else images[:32])
        return x

    def _look_once(self, x):
        done = self._pixels_seen or self._pixels_warned
        if self.guards_pixels and not done:
            self._look(self._images(x))

    def _look(self, images):
        extremes = None if images is None else _extremes(images, 32)
        if extremes is None:
            return
        self._pixels_seen = True
        if _are_scaled(*extremes):
            self._pixels_warned = True
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
            if rank == len(self.inputs[0].shape) and hasattr(leaf, "dtype"):
                return leaf
        return None

    def _look_at_dataset(self, dataset):
        """Has the first batch of a `tf.data.Dataset` looked at as it flows by.

        A batch taken beforehand would be drawn from the shuffling as well, and
        training would no longer be that of a plain model.
        """
        import tensorflow as tf

        spec = self._images(_first(dataset.element_spec))
        if self._pixels_seen or not isinstance(spec, tf.TensorSpec):
            return dataset
        if not spec.dtype.is_floating:
            return dataset

        def look(images):
            self._look_once(images)
            return True

        def pass_by(index, batch):
            images = self._images(_first(batch))[:32]
            tf.cond(
                index == 0,
                lambda: tf.numpy_function(look, [images], tf.bool),
                lambda: False,
            )
            return batch

        return dataset.enumerate().map(pass_by)


class PixelModel(LooksAtPixels, keras.Model):
    """A functional model that warns when its pixels look scaled already.

    Models of this library take raw pixels, 0 to 255, and scale them inside.
    Whoever scales them too gets a model that learns badly and says nothing,
    so `fit`, `evaluate`, `predict`, their batch versions and a plain call look
    at the first pixels that they see (at most 32 images) and warn, once for
    each model. Symbolic tensors, generators and integer images pass unseen.

    The guard lives in memory only: the model is saved as the plain functional
    model that it is, and so loads where this library is not installed.

    Args:
        inputs: A `keras.Input` of images, or a structure of inputs of which
            the first is the images.
        outputs: `KerasTensor`, or a structure of them.
        name: String, name of the model. Defaults to `None`.
        **kwargs: `trainable`, as for `keras.Model`.
    """

    guards_pixels = True

    def __init__(self, inputs, outputs, name=None, **kwargs):
        super().__init__(inputs, outputs, name=name, **kwargs)
        # Keras writes module and name of a model's class into the file, and
        # looks them up at loading. Under those of its own functional model
        # the file needs nothing but Keras; `Functional` became our base in
        # the line above.
        functional = PixelModel.__bases__[-1]
        PixelModel.__name__ = functional.__name__
        PixelModel.__module__ = functional.__module__

    def __reduce__(self):
        # Pickle checks that the class is what its name leads to.
        load, arguments = super().__reduce__()
        return getattr(keras.Model, load.__name__), arguments


def _first(batch):
    return batch[0] if isinstance(batch, (list, tuple)) else batch
