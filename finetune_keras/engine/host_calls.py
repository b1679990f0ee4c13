"""Functions of NumPy amid tensors, by each backend in its own way."""

import keras
import numpy as np

from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf


def on_host(function, *tensors):
    """What a function of NumPy makes of tensors, of the form of the first.

    It has no gradient, and on TensorFlow XLA cannot compile it.
    """
    first = tensors[0]
    dtype = keras.backend.standardize_dtype(first.dtype)

    def call(*arrays):
        return function(*map(np.asarray, arrays)).astype(dtype)

    if backend.on("tensorflow"):
        result = tf.numpy_function(call, tensors, first.dtype)
        return tf.ensure_shape(result, first.shape)
    if backend.on("jax"):
        import jax

        form = jax.ShapeDtypeStruct(first.shape, first.dtype)
        return jax.pure_callback(call, form, *tensors)
    arrays = map(keras.ops.convert_to_numpy, tensors)
    return keras.ops.convert_to_tensor(call(*arrays))
