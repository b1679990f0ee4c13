"""What the random layers of this library share."""

import keras
from keras import ops

from finetune_keras.engine import backend


class RandomLayer(keras.layers.Layer):
    """A layer that changes its input while training, and keeps its shape."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def __call__(self, inputs, *args, **kwargs):
        is_tensorflow = type(inputs).__module__.startswith("tensorflow")
        if is_tensorflow and not backend.on("tensorflow"):
            raise ValueError(
                f"`{type(self).__name__}` runs in a `tf.data` pipeline on the "
                "TensorFlow backend only. Put it into the model instead. "
                f"Received: backend={backend.name()!r}"
            )
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=False):
        x = self.convert(inputs)
        return self.augment(x) if training else x

    def convert(self, inputs):
        """Gives inputs the type in which they leave, in training or not."""
        return ops.cast(inputs, self.compute_dtype)

    def augment(self, x):
        """Changes what `convert` returned."""
        raise NotImplementedError

    def uniform(self, shape):
        """Draws numbers from 0 to 1."""
        return keras.random.uniform(
            shape, dtype="float32", seed=self.seed_generator
        )

    def normal(self, shape):
        """Draws standard normal numbers."""
        return keras.random.normal(
            shape, dtype=self.compute_dtype, seed=self.seed_generator
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
