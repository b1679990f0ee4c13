"""Weights of classes as weights of pixels: Keras weighs examples alone."""

import numpy as np

from finetune_keras.data.label_checks import mask_ids
from finetune_keras.data.source import kind_of
from finetune_keras.data.source_batches import Dataset
from finetune_keras.data.source_examples import Arrays
from finetune_keras.data.task import Task
from finetune_keras.engine.packages import tensorflow as tf


def with_pixel_weights(model, train, fit):
    """`(train, fit)` of a model of masks without class weights in `fit`.

    They become sample weights of the shape of the masks.
    """
    weights, task = fit.get("class_weight"), Task.of(model)
    if weights is None or task is None or not task.is_dense:
        return train, fit
    table = np.zeros(256, "float32")
    for label, weight in weights.items():
        table[int(label)] = weight
    fit = {name: x for name, x in fit.items() if name != "class_weight"}
    kind = kind_of(train)
    if kind is Arrays:
        x, y = train[:2]
        return (x, y, table[mask_ids(np.asarray(y), task.count)]), fit
    if kind is not Dataset or len(train.element_spec) != 2:
        raise ValueError(
            "`class_weight` of masks becomes weights of pixels, which goes "
            "with arrays (x, y) or a `tf.data.Dataset` of such. Let other data "
            "give tuples (x, y, sample_weight), the weights in the shape of y. "
            f"Received: train of type {type(train).__name__}"
        )
    weigh = tf.autograph.experimental.do_not_convert(_weigh(table))
    weighed = train.map(weigh, num_parallel_calls=tf.data.AUTOTUNE)
    # A run that goes on must know them.
    weighed.fingerprint = f"class_weight={table[: task.count].tolist()}"
    return weighed, fit


def _weigh(table):
    table = tf.constant(table)

    def weigh(x, y):
        ids = y
        if y.shape.rank == 4:
            ids = y[..., 0] if y.shape[-1] == 1 else tf.argmax(y, -1)
        return x, y, tf.gather(table, tf.cast(ids, tf.int32))

    return weigh
