"""Whole models for a task: a backbone and its head."""

from finetune_keras.models.backbones import backbone as make_backbone
from finetune_keras.models.heads import replace_head


def image_classifier(backbone, num_classes, **head):
    """Builds an image model that takes raw pixels and ends in a new head.

    Args:
        backbone: A `keras.Model` from `ft.backbone` or of your own, or the
            name of a model in `keras.applications`, which then comes with its
            ImageNet weights. Pixels are scaled inside, once, as it needs.
        num_classes: Integer, number of classes, labels or regressed values.
        **head: Options of the head, see `replace_head`: `pooling`,
            `hidden_units`, `activation`, `dropout`, `batch_norm`,
            `kernel_regularizer` and `task`.

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
    model = ft.image_classifier(backbone, num_classes=5, dropout=0.2)
    pixels = np.random.randint(0, 256, size=(2, 32, 32, 3))
    print(model.predict(pixels, verbose=0).shape)  # (2, 5)
    ```
    """
    weights = {"weights": "imagenet"} if isinstance(backbone, str) else {}
    return replace_head(
        make_backbone(backbone, **weights), num_classes, **head
    )
