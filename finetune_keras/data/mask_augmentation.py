"""Images changed together with their masks or boxes, by one draw."""

import keras

from finetune_keras.data.augmentation import Augmentation
from finetune_keras.data.epochs import with_draws
from finetune_keras.engine.packages import tensorflow as tf


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


def augmented(batches, layers, seed):
    """Batches of images and masks or boxes, changed anew in each pass."""
    drawn, seeds = with_draws(batches, seed), _Seeds()

    # To rewrite all the code of the layers would take seconds.
    @tf.autograph.experimental.do_not_convert
    def change(batch, draw):
        return _change(layers, *batch, seeds.of(draw))

    return drawn.map(change, num_parallel_calls=tf.data.AUTOTUNE)


def _change(layers, images, labels, seeds):
    move = _move_boxes if isinstance(labels, dict) else _move_masks
    for layer in layers:
        # As the layer does itself where it is called in `tf.data`.
        layer.backend.set_backend("tensorflow")
        drawn = layer.get_random_transformation(
            images, training=True, seed=seeds
        )
        images = layer.transform_images(images, drawn, training=True)
        labels = move(layer, labels, drawn)
        layer.backend.reset()
    return tf.cast(images, tf.float32), labels


def _move_masks(layer, masks, drawn):
    found = layer.transform_segmentation_masks(
        tf.cast(masks, tf.float32)[..., None], drawn, training=True
    )
    return tf.cast(tf.round(found[..., 0]), masks.dtype)


def _move_boxes(layer, boxes, drawn):
    """Boxes that move along; what leaves its image is filled up with -1."""
    # The layers write into what they get.
    found = layer.transform_bounding_boxes(dict(boxes), drawn, training=True)
    labels = tf.cast(found["labels"], boxes["labels"].dtype)
    corners = tf.where(labels[..., None] < 0, -1.0, found["boxes"])
    return {"boxes": tf.cast(corners, tf.float32), "labels": labels}


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
