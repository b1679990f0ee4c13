"""Whole models for a task: a backbone and its head."""

import keras

from finetune_keras.data.labels import count_classes
from finetune_keras.data.task import Task
from finetune_keras.data.vectors import Vectors
from finetune_keras.engine.graph import speaks_for_its_layers
from finetune_keras.models.backbones import backbone as make_backbone
from finetune_keras.models.head_split import split_head
from finetune_keras.models.heads import (
    build_vectors,
    rebuild,
    refuse_dense,
    replace_head,
)
from finetune_keras.models.image_size import (
    resized,
    size_of_weights,
    with_sides,
)
from finetune_keras.models.inline import replay
from finetune_keras.models.model import keep_task
from finetune_keras.models.pixel_guard import guard_like
from finetune_keras.models.pooling import padding_mask
from finetune_keras.models.preprocessing import shape_axis


def image_classifier(
    backbone,
    num_classes,
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
    """Builds an image model that takes raw pixels and ends in a new head.

    Args:
        backbone: A `keras.Model` from `ft.backbone` or of your own, or the
            name of a model in `keras.applications`, which then comes with its
            ImageNet weights, takes images of any size, and resizes them to
            that which these weights are for. Pixels are scaled inside, once,
            as it needs.
        num_classes: Integer, number of classes, labels or regressed values;
            or the list of their names, which the model and its file keep.
        augmentation: `"light"`, `"medium"` or `"strong"`, see
            `image_augmentation`, or a layer that keeps the shape of raw
            pixels. It is part of the model and active in training only.
            Defaults to `None`.
        pooling, hidden_units, activation, dropout, batch_norm: As in
            `replace_head`.
        kernel_regularizer, task, features: As in `replace_head`.

    Returns:
        A functional `keras.Model`, all of it trainable, that maps images of
        raw pixels from 0 to 255 to float32 predictions.

    Raises:
        ValueError: If the backbone is unknown, or an option is out of range.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    backbone = ft.backbone("MobileNet", input_shape=(32, 32, 3), weights=None,
                           alpha=0.25)
    model = ft.image_classifier(
        backbone, ["cat", "dog"], augmentation="light", dropout=0.2
    )
    pixels = np.random.randint(0, 256, size=(2, 32, 32, 3))
    print(model.predict(pixels, verbose=0).shape)  # (2, 2)
    ```
    """
    num_classes, names = count_classes(num_classes, "num_classes")
    # Its augmentation would move images and leave masks where they are.
    refuse_dense(Task.named(task))
    model = replace_head(
        _on_photos(backbone),
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
    if augmentation is not None:
        model = _augmented(model, augmentation)
    if names is not None:
        keep_task(model, Task.named(task, names, num_classes))
    return model


def image_embedder(
    backbone, units=None, augmentation=None, pooling="avg", normalize=True
):
    """Builds a model that makes a vector of each image, near to its like.

    Trained by `fine_tune` on pairs or on labelled images it puts those that
    belong together next to each other; see `ContrastiveLoss`, which it is
    compiled with. `predict` gives the vectors, `evaluate` judges what a search
    with them finds.

    Args:
        backbone: As in `image_classifier`.
        units: Integer, width of a dense layer that makes the vectors, the
            head of the model. Defaults to `None`: none, and vectors as wide
            as the features of the backbone.
        augmentation: As in `image_classifier`. Defaults to `None`.
        pooling: `"avg"`, `"max"`, or `"token"`, the first token of a
            transformer. Defaults to `"avg"`.
        normalize: Boolean, whether vectors have the length one. Defaults to
            `True`.

    Returns:
        A functional `keras.Model`, all of it trainable, that maps images of
        raw pixels to vectors.

    Raises:
        ValueError: If the backbone is unknown, or an option is out of range.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    backbone = ft.backbone("MobileNet", input_shape=(32, 32, 3), weights=None,
                           alpha=0.25)
    encoder = ft.image_embedder(backbone, units=16)
    pixels = np.random.randint(0, 256, size=(8, 32, 32, 3))
    data = pixels, ["cat", "dog"] * 4
    plan = ft.plans.linear_probe(epochs=1)
    ft.fine_tune(encoder, plan, data, verbose=0)
    print(encoder.predict(pixels, verbose=0).shape)  # (8, 16)
    ```

    Reference:

    - [Musgrave et al., 2020](https://arxiv.org/abs/2003.08505)
    """
    whole = _on_photos(backbone)
    flat, features = split_head(whole)
    outputs = build_vectors(
        features, padding_mask(flat), pooling, normalize, units
    )
    model = rebuild(flat, outputs, whole=whole)
    if augmentation is not None:
        model = _augmented(model, augmentation)
    keep_task(model, Vectors(outputs=model.output_shape[-1]))
    return model


def _on_photos(backbone):
    if not isinstance(backbone, str):
        return make_backbone(backbone)
    pixels, any_size = size_of_weights(backbone), [None] * 3
    any_size[shape_axis()] = 3
    shape = with_sides(any_size, pixels, pixels)
    return resized(make_backbone(backbone, input_shape=shape), any_size)


def _augmented(model, augmentation):
    """Puts a layer between the input of a model and all the rest."""
    if isinstance(augmentation, str):
        from finetune_keras.data.image_augmentation import image_augmentation

        augmentation = image_augmentation(augmentation)
    first = model.inputs[0]
    inputs = keras.Input(first.shape[1:], dtype=first.dtype, name=first.name)
    _, outputs = replay(model, augmentation(inputs))
    new = keras.Model(inputs, outputs, name=model.name)
    return speaks_for_its_layers(guard_like(model, new))
