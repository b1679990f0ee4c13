"""Pretrained filters for images of other than three channels."""

import keras
import numpy as np

from finetune_keras.engine.graph import walk
from finetune_keras.models.inline import replay
from finetune_keras.models.preprocessing import (
    channel_axis,
    fit_channels,
    has_kernel,
    shape_axis,
)


def with_channels(model, shape):
    """Makes a model that takes images of another number of channels.

    The first convolution is made anew and keeps the pretrained filters: summed
    over the channels for one channel, otherwise repeated in turn and rescaled,
    so that the sum over the channels stays. Scaling layers before it are made
    anew too; every other layer is shared.
    """
    steps = [step.operation for step in walk(model)[0]]
    position = next((i for i, s in enumerate(steps) if has_kernel(s)), None)
    stem = steps[: position + 1] if position is not None else []
    channels = model.inputs[0].shape[channel_axis()]
    _check_stem(model, stem, channels)
    renewed = {}

    def call(operation, *args, **kwargs):
        if operation in stem and _is_flip(operation):
            return args[0]
        if operation in stem and _holds_channels(operation):
            if operation not in renewed:
                renewed[operation] = _renew(operation, shape)
            operation = renewed[operation]
        return operation(*args, **kwargs)

    old = model.inputs[0]
    inputs = keras.Input(shape, dtype=old.dtype)
    try:
        outputs = replay(model, [inputs], call)[1]
    except ValueError as error:
        raise ValueError(
            f"The model {model.name!r} cannot take images of other than "
            f"{channels} channels: {error} Received: input_shape={shape}"
        ) from error
    flipped = sum(map(_is_flip, stem)) % 2 == 1
    for old, new in renewed.items():
        _copy_weights(old, new, flipped)
    _check_stem(model, [renewed[stem[-1]]], shape[shape_axis()])
    return keras.Model(inputs, outputs, name=model.name)


def _check_stem(model, stem, channels):
    conv = stem[-1] if stem else None
    fits = isinstance(conv, keras.layers.Conv2D)
    if not fits or conv.kernel.shape[-2] != channels:
        raise ValueError(
            "The number of channels can be changed only where a `Conv2D` is "
            "the first layer with a kernel, and takes all channels of the "
            f"image (here {channels}). Found first: {conv!r}. Bring the images "
            f"to the shape {model.inputs[0].shape[1:]} instead. "
            f"Received: model={model.name!r}"
        )


def _is_flip(operation):
    # The order of the channels that "caffe" asks for. It makes no sense for
    # other channels, so the filters are turned in place of the pixels.
    return type(operation).__name__ == "Flip"


def _holds_channels(operation):
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    return isinstance(operation, scaling) or bool(
        getattr(operation, "weights", ())
    )


def _renew(layer, shape):
    """Makes a layer of the same configuration for other channels."""
    channels = shape[shape_axis()]
    config = layer.get_config()
    for key in ("mean", "variance", "scale", "offset"):
        values = np.asarray(config.get(key, 0.0))
        if values.dtype != object and values.ndim == 1:
            # Deviations are averaged, not their squares.
            power = 0.5 if key == "variance" else 1
            fitted = fit_channels(values**power, channels)
            config[key] = [value ** (1 / power) for value in fitted]
    return type(layer).from_config(config)


def _copy_weights(old, new, flipped):
    for weight, target in zip(old.weights, new.weights, strict=True):
        value = keras.ops.convert_to_numpy(weight)
        if value.shape != target.shape and value.ndim == 1:
            value = fit_channels(value, target.shape[0])
        elif value.ndim == 4:
            value = _fit_kernel(value, target.shape[-2], flipped)
        target.assign(value)
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()


def _fit_kernel(kernel, channels, flipped):
    """Fits a kernel of shape (height, width, channels, filters)."""
    kernel = kernel[:, :, ::-1] if flipped else kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    turns = np.arange(channels) % kernel.shape[2]
    return kernel[:, :, turns] * (kernel.shape[2] / channels)
