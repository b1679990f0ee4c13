"""Augmentation that is active in training only, and is saved with the model."""

import keras
import numpy as np
from keras import ops

from finetune_keras.arguments import check, integer, list_of, one_of
from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf

STRENGTH = one_of("light", "medium", "strong")


@keras.saving.register_keras_serializable(package="finetune_keras")
class Augmentation(keras.layers.Pipeline):
    """Applies its layers while training, and passes its input otherwise.

    The random layers of Keras are active by default: in a plain call of a
    model, and in an exported one. Inside this layer they are active with
    `training=True` only, that is in `fit`, or where you pass it yourself:

    ```py
    dataset.map(lambda x, y: (augmentation(x, training=True), y))
    ```

    The layers must keep the shape of what they get. What comes out has the
    floating type of this layer (pixels of type uint8 too), in training and
    outside. Where a layer has an integer or string `dtype`, as those on token
    ids and texts, the type stays as it is.

    The random numbers start afresh where the layer is made, from a config or
    from a file: after loading, the same seed gives the same first batch.

    Args:
        layers: List of `keras.layers.Layer`s, applied in this order.
        seed: Integer, from which each layer inside gets a seed of its own; the
            layers are then copies of `layers`. Defaults to `None`: the layers
            keep the seeds that they have.
        **kwargs: `name` and `dtype`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `layers` is not a list of layers, or if one of them
            changes the shape.

    Example:

    ```python
    import keras
    import numpy as np
    import finetune_keras as ft

    augmentation = ft.Augmentation(
        [keras.layers.RandomFlip(), keras.layers.RandomContrast(0.2)], seed=0
    )
    pixels = np.random.uniform(0, 255, (4, 8, 8, 3)).astype("float32")
    assert np.array_equal(augmentation(pixels), pixels)
    assert not np.array_equal(augmentation(pixels, training=True), pixels)
    ```
    """

    def __init__(self, layers, seed=None, **kwargs):
        layers = list(layers) if isinstance(layers, (list, tuple)) else layers
        check(layers=(layers, list_of(keras.layers.Layer, "layer")))
        if seed is not None:
            layers = _with_seeds(layers, seed)
        super().__init__(layers, name=kwargs.pop("name", None))
        self.trainable = kwargs.pop("trainable", True)
        self.dtype_policy = kwargs.pop("dtype", None) or self.dtype_policy
        if kwargs:
            raise ValueError(
                "`Augmentation` takes `layers`, `seed`, `name` and `dtype`. "
                f"Received: {sorted(kwargs)}"
            )
        self.seed = seed
        self.supports_masking = True
        # Layers inside see pixels as they are, also under mixed precision.
        self.autocast = False
        self._is_float = all("float" in x.compute_dtype for x in layers)

    def call(self, inputs, training=False):
        if isinstance(inputs, dict):
            return self._call_on_dict(inputs, training)
        if not hasattr(inputs, "dtype"):
            inputs = ops.convert_to_tensor(inputs)
        if not training:
            return self._cast(inputs)
        outputs = super().call(inputs, training=True)
        self._check_shapes(inputs, outputs)
        return self._cast(outputs)

    def _call_on_dict(self, inputs, training):
        """Moves `images` and `bounding_boxes` by one draw."""
        outputs = keras.tree.map_structure(lambda part: part, inputs)
        if training:
            # The layers write into what they get.
            outputs = super().call(outputs, training=True)
            self._check_shapes(inputs["images"], outputs["images"])
        return {**outputs, "images": self._cast(outputs["images"])}

    def build(self, input_shape):
        for layer in self.layers:
            if not layer.built:
                layer.build(input_shape)

    def _cast(self, x):
        if not _is_foreign(x):
            x = ops.convert_to_tensor(x)
            return ops.cast(x, self.compute_dtype) if self._is_float else x
        return tf.cast(x, self.compute_dtype) if self._is_float else x

    def _check_shapes(self, inputs, outputs):
        sizes = zip(inputs.shape, outputs.shape, strict=False)
        changed = any(a != b and None not in (a, b) for a, b in sizes)
        if changed or len(inputs.shape) != len(outputs.shape):
            names = [layer.name for layer in self.layers]
            raise ValueError(
                "Layers of an `Augmentation` must keep the shape, because "
                "outside of training the input passes as it is. Put layers "
                "that crop or resize before it. Received: inputs of shape "
                f"{tuple(inputs.shape)}, outputs of {tuple(outputs.shape)}, "
                f"layers {names}"
            )

    def compute_output_spec(self, inputs, training=False):
        # The spec of training, so that a change of shape is met at once.
        return super().compute_output_spec(inputs, training=True)

    def get_config(self):
        return {
            **keras.layers.Layer.get_config(self),
            **super().get_config(),
            "seed": self.seed,
        }


def _is_foreign(x):
    """Tells a tensor of tf.data from one of the backend in use."""
    is_tensorflow = type(x).__module__.startswith("tensorflow")
    return is_tensorflow and not backend.on("tensorflow")


def _with_seeds(layers, seed):
    """Copies layers, each with a seed of its own."""
    check(seed=(seed, integer()))
    # Seeds are signed 32-bit integers on torch.
    draws = np.random.default_rng(abs(int(seed)))
    copies = []
    for layer in layers:
        config = layer.get_config()
        _put_seeds(config, lambda: int(draws.integers(2**31)))
        copies.append(type(layer).from_config(config))
    return copies


def _put_seeds(config, draw):
    for key, value in config.items():
        if key == "seed" and (value is None or isinstance(value, int)):
            config[key] = draw()
        elif isinstance(value, dict):
            _put_seeds(value, draw)
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, dict):
                    _put_seeds(item, draw)
