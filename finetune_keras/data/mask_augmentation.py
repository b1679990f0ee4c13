"""Images changed together with their masks, by one draw."""

import keras

from finetune_keras.data.augmentation import Augmentation
from finetune_keras.data.epochs import Epochs, random_of
from finetune_keras.engine.packages import tensorflow as tf

# Beside the seed of the order, so that draws do not hang together with it.
_DRAWS = 1


def layers_of(augmentation):
    """The layers of an `Augmentation`, or of a strength by its name.

    Raises:
        ValueError: If a layer cannot move masks.
    """
    if augmentation is None:
        return None
    if isinstance(augmentation, str):
        from finetune_keras.data.image_augmentation import image_augmentation

        augmentation = image_augmentation(augmentation)
    if not isinstance(augmentation, Augmentation):
        raise ValueError(
            '`augmentation` must be "light", "medium" or "strong", or an '
            "`ft.Augmentation` of layers. "
            f"Received: augmentation={augmentation!r}"
        )
    layers = list(augmentation.layers)
    for layer in layers:
        mixes = isinstance(layer, getattr(keras.layers, "MixUp", ()))
        if mixes or not hasattr(layer, "transform_segmentation_masks"):
            raise ValueError(
                "Each layer must move masks along with their images, as the "
                "random layers of Keras on images do. "
                f"Received: {layer.name!r} of type {type(layer).__name__}"
            )
    return layers


def with_draws(batches, layers, seed):
    """Batches of images and masks, changed anew in each pass.

    The draws hang on the seed and the number of the pass alone.
    """
    count = int(batches.cardinality())
    draws = Epochs().dataset(
        lambda epoch: random_of(seed + _DRAWS, epoch).integers(
            2**31, size=count
        ),
        [count],
    )
    changed, seeds = tf.data.Dataset.zip((batches, draws)), _Seeds()

    # To rewrite all the code of the layers would take seconds.
    @tf.autograph.experimental.do_not_convert
    def change(batch, draw):
        return _change(layers, *batch, seeds.of(draw))

    return changed.map(change, num_parallel_calls=tf.data.AUTOTUNE)


def _change(layers, images, masks, seeds):
    kind = masks.dtype
    masks = tf.cast(masks, tf.float32)[..., None]
    for layer in layers:
        # As the layer does itself where it is called in `tf.data`.
        layer.backend.set_backend("tensorflow")
        drawn = layer.get_random_transformation(
            images, training=True, seed=seeds
        )
        images = layer.transform_images(images, drawn, training=True)
        masks = layer.transform_segmentation_masks(masks, drawn, training=True)
        layer.backend.reset()
    masks = tf.cast(tf.round(masks[..., 0]), kind)
    return tf.cast(images, tf.float32), masks


class _Seeds(keras.random.SeedGenerator):
    """Seeds that hang on a number drawn for the batch."""

    def __init__(self):
        super().__init__(0, name="draws")

    def of(self, draw):
        """The same, from a number on."""
        self.draw, self.drawn = tf.cast(draw, tf.int32), 0
        return self

    def next(self, ordered=True):
        self.drawn += 1
        return tf.stack([self.draw, self.drawn])
