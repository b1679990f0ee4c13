"""The weights of a model: all of them, by path; and non-trivial ones."""

import math

import keras
import numpy as np

from finetune_keras.engine import graph


def randomize(model, seed=0):
    """Gives a model fixed weights that are neither zero nor one.

    Zeros and ones hide defects: a LoRA whose B is zero adds nothing, whatever
    it does. Kernels keep the size of what flows through them, variances are
    positive. The same seed gives the same weights on every backend.

    Args:
        model: A `keras.Model` or `keras.layers.Layer`, built.
        seed: Integer. Defaults to `0`.

    Returns:
        `model` itself.

    Example:

    ```python
    import keras
    from finetune_keras import testing

    model = testing.randomize(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    )
    print(model.layers[0].bias)
    ```
    """
    rng = np.random.default_rng(seed)
    for layer in graph.leaf_layers(model):
        for variable in graph.own_variables(layer):
            if keras.backend.is_float_dtype(variable.dtype):
                variable.assign(_random_weight(rng, layer, variable))
    return model


def _random_weight(rng, layer, variable):
    noise = rng.standard_normal(variable.shape).astype("float32")
    if variable.name.endswith("variance"):
        return 0.5 + np.abs(noise)
    if variable.name in ("gamma", "scale"):
        return 1 + 0.1 * noise
    if noise.ndim < 2:
        return 0.1 * noise
    if isinstance(layer, keras.layers.Embedding):
        return noise
    depthwise = "Depthwise" in type(layer).__name__
    fan_in = math.prod(noise.shape[: -2 if depthwise else -1])
    return noise * math.sqrt(2 / fan_in)


def weights_snapshot(model):
    """Copies the weights of a model, metrics and random seeds left out.

    Args:
        model: A `keras.Model` or `keras.layers.Layer`, built.

    Returns:
        Dict from paths such as `"block1/conv/kernel"` to NumPy arrays.

    Example:

    ```python
    import keras
    from finetune_keras import testing

    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name="head")]
    )
    print(list(testing.weights_snapshot(model)))
    ```
    """
    return {path: _copy(v) for path, v in named_weights(model).items()}


def named_weights(model):
    """Dict from path to variable; a path that stands twice is numbered."""
    named = {}
    for layer, layer_path in graph.leaf_layers(model).items():
        for variable in graph.own_variables(layer):
            path = start = f"{layer_path}/{variable.name}"
            while path in named:
                path = f"{start}_{len(named)}"
            named[path] = variable
    return named


def _copy(variable):
    # On torch the array would otherwise share memory with the variable.
    return np.array(keras.ops.convert_to_numpy(variable.value), copy=True)


def live_statistics(model):
    """Set of the paths of BatchNorm statistics that training moves."""
    return {
        f"{path}/{variable.name}"
        for layer, path in graph.leaf_layers(model).items()
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in graph.own_variables(layer)
        if layer.trainable and "moving_" in variable.name
    }
