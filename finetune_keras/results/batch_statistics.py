"""Statistics of batch normalisation, computed anew where weights changed."""

import contextlib

import keras
import numpy as np

from finetune_keras.data.source import Source
from finetune_keras.models.model import encoder_of
from finetune_keras.models.outside_graph import prepares_inputs
from finetune_keras.models.text_encoder import is_raw

_MOST_BATCHES = 100


def renew_statistics(model, layers, data):
    """Sets the moving statistics of some layers to the means over batches.

    Only these layers see each batch as in training; dropout, augmentation and
    the statistics of others stay as they predict. The batches are those of the
    data, the first hundred.
    """
    with contextlib.ExitStack() as stack:
        seen = {layer: [] for layer in layers}
        for layer, found in seen.items():
            stack.enter_context(_recording(layer, found))
        for number, batch in enumerate(Source.of(data, 32, "data").batches()):
            if number == _MOST_BATCHES:
                break
            model(_inputs(model, batch), training=False)
    for layer, found in seen.items():
        if not found:
            raise ValueError(
                "`data` is empty, or never reaches a layer whose statistics "
                f"are to be renewed. Received: layer={layer.name!r}"
            )
        means, variances, counts = zip(*found, strict=True)
        layer.moving_mean.assign(np.average(means, 0, counts))
        layer.moving_variance.assign(np.average(variances, 0, counts))


def _inputs(model, batch):
    x = batch[0] if isinstance(batch, (tuple, list)) else batch
    if encoder_of(model) is not None and is_raw(x):
        return model.arrays(x)
    if prepares_inputs(model):
        x = model.preprocess_samples(x)
    return keras.tree.map_structure(keras.ops.convert_to_tensor, x)


@contextlib.contextmanager
def _recording(layer, found):
    """Has a layer normalise by the batch, and write down its statistics."""

    def call(inputs, training=None, mask=None):
        x = keras.ops.cast(inputs, "float32")
        axes = [
            i for i in range(len(x.shape)) if i != layer.axis % len(x.shape)
        ]
        mean, variance = keras.ops.moments(x, axes)
        found.append((*map(_numpy, (mean, variance)), len(x)))
        x = keras.ops.batch_normalization(
            x,
            mean,
            variance,
            layer.axis,
            layer.beta,
            layer.gamma,
            layer.epsilon,
        )
        return keras.ops.cast(x, layer.compute_dtype)

    vars(layer)["call"] = call
    try:
        yield
    finally:
        del vars(layer)["call"]


def _numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)
