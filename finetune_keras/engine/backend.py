"""Which backend Keras runs on: asked here, and nowhere else."""

import keras


def name():
    """Returns `"tensorflow"`, `"jax"`, `"torch"` or another name."""
    return keras.backend.backend()


def on(*names):
    """Tells whether the backend is one of those that are named."""
    return name() in names
