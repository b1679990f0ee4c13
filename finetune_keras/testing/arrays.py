"""Arrays that go into layers and models, and what comes out."""

import inspect

import keras
import numpy as np


def random_arrays(shape, dtype):
    """Makes fixed random arrays in the structure of a shape."""
    if isinstance(shape, dict):
        return {k: random_arrays(s, dtype) for k, s in shape.items()}
    if not all(isinstance(size, int) for size in shape):
        return [random_arrays(s, dtype) for s in shape]
    rng = np.random.default_rng(1)
    if "int" in dtype:
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def random_targets(model, x):
    """Makes fixed random targets in the shapes of a model's outputs."""
    rng = np.random.default_rng(2)
    targets = [rng.random(y.shape, "float32") for y in predict(model, x)]
    return targets[0] if len(targets) == 1 else targets


def symbols_like(x):
    """Makes an `Input` for each array, of any batch size."""
    return keras.tree.map_structure(
        lambda array: keras.Input(array.shape[1:], dtype=str(array.dtype)), x
    )


def call(layer, x):
    """Calls a layer on arrays, eagerly and outside of training."""
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    if "training" in inspect.signature(layer.call).parameters:
        return layer(x, training=False)
    return layer(x)


def predict(model, inputs):
    """Lists the predictions of a model as NumPy arrays."""
    outputs = model.predict(inputs, verbose=0)
    return [to_numpy(y) for y in keras.tree.flatten(outputs)]


def to_numpy(tensor):
    """Gives a NumPy array, whose files and comparisons know no bfloat16."""
    array = keras.ops.convert_to_numpy(tensor)
    is_float = "float" in keras.backend.standardize_dtype(tensor.dtype)
    return array.astype("float32") if is_float else array
