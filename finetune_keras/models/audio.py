"""Models of sounds: a front end, a backbone and its head."""

import keras

from finetune_keras.data.audio import samples_of
from finetune_keras.data.labels import count_classes
from finetune_keras.data.sequence_augmentation import sequence_augmentation
from finetune_keras.data.task import Task
from finetune_keras.engine.graph import graph_of, speaks_for_its_layers
from finetune_keras.models.backbones import backbone as make_backbone
from finetune_keras.models.heads import replace_head
from finetune_keras.models.image_size import (
    sides,
    size_of_weights,
    with_sides,
)
from finetune_keras.models.inline import replay
from finetune_keras.models.model import keep_task
from finetune_keras.models.preprocessing import (
    channel_axis,
    preprocessing_mode,
    shape_axis,
)

_BINS = 64
# The spread of a sound, in pixels about their middle: nearly all are in range.
_SPREAD, _MIDDLE = 42.5, 127.5


def audio_classifier(
    backbone,
    num_classes,
    sampling_rate=16000,
    seconds=1.0,
    augmentation=None,
    pooling="avg",
    hidden_units=(),
    activation="relu",
    dropout=0.0,
    batch_norm=False,
    kernel_regularizer=None,
    task="classification",
    features=None,
):
    """Builds a model that takes waveforms and ends in a new head.

    What stands before the backbone follows from what it takes, is made of
    Keras's own layers, and is saved with the model:

    | the backbone takes | it gets |
    |---|---|
    | `(samples,)`, `(samples, 1)` | the waveform |
    | `(time, bins)` | the log-mel spectrogram with so many bins |
    | `(height, width, 1 or 3)` | the same as an image, time downwards |

    A spectrogram has windows of 25 ms, 10 ms apart, is in decibels, and is
    brought to mean 0 and variance 1 in each sound. Where the size of the
    image or the number of frames is fixed it is resized; a backbone that
    scales pixels gets pixels.

    Args:
        backbone: A `keras.Model` with one input; or the name of a model in
            `keras.applications`, which then comes with its ImageNet weights.
            A model of spectrograms of your own, computed elsewhere, or with a
            front end inside, needs `replace_head` alone.
        num_classes: Integer, number of classes, labels or regressed values;
            or the list of their names, which the model and its file keep.
        sampling_rate: Integer, samples a second. Defaults to `16000`.
        seconds: Float, length of the waveforms. Defaults to `1.0`.
        augmentation: `"light"`, `"medium"` or `"strong"`, noise, scale and,
            from medium on, hidden stretches of time and bands of frequencies,
            see `sequence_augmentation`; or a layer that keeps the shape
            `(time, bins)`, of a waveform `(samples, 1)`. It is part of the
            model and active in training only. Defaults to `None`.
        pooling, hidden_units, activation, dropout, batch_norm: As in
            `replace_head`.
        kernel_regularizer, task, features: As in `replace_head`.

    Returns:
        A functional `keras.Model`, all of it trainable, that maps waveforms
        `(sampling_rate * seconds,)` from -1 to 1, as `audio_folder` reads
        them, to float32 predictions.

    Raises:
        ValueError: If the backbone takes no such input, or an option is out
            of range.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((None, 32))
    x = keras.layers.Conv1D(8, 3, activation="relu", name="conv")(inputs)
    model = ft.audio_classifier(
        keras.Model(inputs, x), ["dog", "rain"], sampling_rate=8000,
        augmentation="medium",
    )
    waves = np.random.uniform(-1, 1, (2, 8000)).astype("float32")
    print(model.predict(waves, verbose=0).shape)  # (2, 2)
    ```

    Reference:
        - [Park et al., 2019](https://arxiv.org/abs/1904.08779), of masks
    """
    num_classes, names = count_classes(num_classes, "num_classes")
    samples = samples_of(sampling_rate, seconds)
    backbone, is_of_pixels = _built(backbone)
    model = replace_head(
        backbone,
        num_classes,
        pooling,
        hidden_units,
        activation,
        dropout,
        batch_norm,
        kernel_regularizer,
        task,
        features,
    )
    if isinstance(augmentation, str):
        augmentation = sequence_augmentation(augmentation)
    inputs = keras.Input((samples,), name="waveform")
    x = _front(inputs, model.inputs[0].shape[1:], sampling_rate, augmentation)
    x = _as_pixels(x) if is_of_pixels else x
    _, outputs = replay(model, x)
    whole = keras.Model(inputs, outputs, name=model.name)
    whole = speaks_for_its_layers(whole)
    if names is not None:
        keep_task(whole, Task.named(task, names, num_classes))
    return whole


def _built(backbone):
    """The backbone, and whether it takes pixels from 0 to 255."""
    if isinstance(backbone, str):
        size = size_of_weights(backbone)
        shape = [None] * 3
        shape[shape_axis()] = 3
        shape = with_sides(shape, size, size)
        return make_backbone(backbone, input_shape=shape), True
    if graph_of(backbone) is None or len(backbone.inputs) != 1:
        raise ValueError(
            "The backbone must be a functional or sequential model with one "
            "input: waveforms, spectrograms or images of these. "
            f"Received: backbone={backbone!r}"
        )
    if len(backbone.inputs[0].shape) != 4:
        return backbone, False
    is_of_pixels = preprocessing_mode(backbone) is not None
    return make_backbone(backbone), is_of_pixels


def _front(inputs, shape, sampling_rate, augmentation):
    """From waveforms to what a backbone takes, an input of this shape."""
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        return _waveform(inputs, shape, augmentation)
    bins = shape[1] if len(shape) == 2 else sides(shape)[1]
    x = _log_mel(inputs, sampling_rate, bins if len(shape) == 2 else _BINS)
    if augmentation is not None:
        x = augmentation(x)
    if len(shape) == 2 and shape[0] in (None, x.shape[1]):
        return x
    frames = shape[0] if len(shape) == 2 else sides(shape)[0]
    x = keras.layers.Reshape((*x.shape[1:], 1), name="spectrogram_image")(x)
    if (frames or x.shape[1], bins or x.shape[2]) != x.shape[1:3]:
        x = keras.layers.Resizing(
            frames or x.shape[1],
            bins or x.shape[2],
            data_format="channels_last",
            name="spectrogram_resizing",
        )(x)
    if len(shape) == 2:
        return keras.layers.Reshape(x.shape[1:3], name="spectrogram")(x)
    return _with_channels(x, shape[shape_axis()])


def _waveform(inputs, shape, augmentation):
    samples = inputs.shape[1]
    if shape[0] not in (None, samples):
        raise ValueError(
            f"The backbone takes {shape[0]} samples, and `sampling_rate * "
            f"seconds` are {samples}. Pass the rate and length that it was "
            f"made for. Received: a backbone with inputs of shape {shape}"
        )
    if augmentation is None and len(shape) == 1:
        return inputs
    x = keras.layers.Reshape((samples, 1), name="waveform_column")(inputs)
    x = x if augmentation is None else augmentation(x)
    if len(shape) == 1:
        x = keras.layers.Reshape((samples,), name="waveform_row")(x)
    return x


def _log_mel(inputs, sampling_rate, bins):
    """The log-mel spectrogram (time, bins), mean 0 and variance 1."""
    window = max(round(0.025 * sampling_rate), 2)
    x = keras.layers.MelSpectrogram(
        # Twice the window, so that no narrow band of low frequencies is empty.
        fft_length=2 ** (2 * window - 1).bit_length(),
        sequence_length=window,
        sequence_stride=max(round(0.01 * sampling_rate), 1),
        sampling_rate=sampling_rate,
        num_mel_bins=bins or _BINS,
        min_power=1e-5,
        # What Keras cuts is relative to the loudest of the batch: a sound
        # would depend on its neighbours.
        top_db=1000.0,
        dtype="float32",
        name="log_mel",
    )(inputs)
    x = keras.layers.Permute((2, 1), name="time_first")(x)
    return keras.layers.LayerNormalization(
        axis=(1, 2),
        center=False,
        scale=False,
        dtype="float32",
        name="spectrogram_scaling",
    )(x)


def _with_channels(x, channels):
    if channels not in (1, 3):
        raise ValueError(
            "A backbone of images must take 1 or 3 channels, or Keras's "
            f"`image_data_format` is another. Received: {channels} channels"
        )
    if channels == 3:
        x = keras.layers.Concatenate(name="spectrogram_channels")([x] * 3)
    if channel_axis() == 1:
        x = keras.layers.Permute((3, 1, 2), name="channels_first")(x)
    return x


def _as_pixels(x):
    return keras.layers.Rescaling(
        _SPREAD, _MIDDLE, dtype="float32", name="spectrogram_pixels"
    )(x)
