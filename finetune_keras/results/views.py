"""Test-time augmentation: one model on several views of each image."""

import itertools

import keras
import numpy as np

from finetune_keras.arguments import check, list_of, nearest
from finetune_keras.results.members import Members, losses, mean_loss
from finetune_keras.results.weighted_average import WeightedAverage

# Shares of the sides that centre crops keep; `None` is the mirror image.
_VIEWS = {"flip": None, "zoom": (0.85,), "scales": (0.9, 0.75)}


def test_time_augmentation(model, views=("flip", "zoom"), validation=None):
    """Has a model predict the mean over several views of each image.

    The views are fixed, nothing is random, and the model itself is not
    trained anew. Predicting takes as many times as long as there are views:
    each crop is taken as it is and, with `"flip"`, mirrored.

    Args:
        model: A `keras.Model` on images of a fixed size, with one output.
            Logits are made probabilities.
        views: List of names: `"flip"`, mirrored left to right, which does harm
            where left and right matter, such as for letters; `"zoom"`, the
            centre crop of 85 % of each side, resized; `"scales"`, those of
            90 % and 75 %. Defaults to `("flip", "zoom")`.
        validation: Data that the model was not trained on, as for
            `ft.evaluate`. Only those views are kept that lower the log loss
            (squared error) there by more than the standard error of the
            paired difference. Defaults to `None`: all are kept.

    Returns:
        A functional `keras.Model` that shares all weights with `model`; the
        last layer has `facts`. `model` itself where no view is kept.

    Raises:
        ValueError: If a view is unknown, the model takes no images of a fixed
            size, or it tells no task.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    backbone = ft.backbone("MobileNet", input_shape=(32, 32, 3), weights=None,
                           alpha=0.25)
    model = ft.image_classifier(backbone, ["cat", "dog"])
    steadier = ft.test_time_augmentation(model, views=["flip"])
    pixels = np.random.randint(0, 256, size=(2, 32, 32, 3))
    print(steadier.predict(pixels, verbose=0))
    ```

    Reference:

    - [Shanmugam et al., 2021](https://arxiv.org/abs/2011.11156)
    """
    _check(views)
    members = Members([model], "test_time_augmentation")
    size = _size(members.inputs, model)
    kept, facts = list(dict.fromkeys(views)), {}
    if validation is not None:
        kept, facts = _lowering(members, kept, size, validation)
    if not kept:
        return model
    shown = _predicted(members, _variants(kept), size)
    layer = WeightedAverage(
        [1 / len(shown)] * len(shown),
        members.task.output_activation,
        facts={"views": kept, **facts},
        name="views",
        dtype="float32",
    )
    return members.whole(layer(shown), model.name)


def _check(views):
    check(views=(views, list_of(str, "name of a view")))
    for name in views:
        if name not in _VIEWS:
            raise ValueError(
                f"`views` must be of {list(_VIEWS)}.{nearest(name, _VIEWS)} "
                f"Received: views={list(views)}"
            )


def _size(inputs, model):
    """Height and width of the images that a model takes."""
    shape = tuple(getattr(inputs, "shape", ()))
    first = keras.config.image_data_format() == "channels_first"
    size = shape[2:] if first else shape[1:-1]
    if len(shape) != 4 or None in size:
        raise ValueError(
            "Views are those of images of a fixed size. Give the backbone a "
            "full `input_shape`, and leave other inputs as they are. Received: "
            f"model={model.name!r} with inputs of shape {shape}"
        )
    return size


def _variants(names):
    """Lists `(crop, mirrored)`, the image as it is first."""
    crops = [None, *(x for name in names for x in _VIEWS[name] or ())]
    mirrored = [False, True] if "flip" in names else [False]
    return list(itertools.product(crops, mirrored))


def _predicted(members, variants, size):
    """Lists the symbolic predictions of these variants."""
    (layer,) = members.layers
    return [layer(_shown(members.inputs, *x, size)) for x in variants]


def _shown(images, crop, mirrored, size):
    if crop is not None:
        edges = [round(side * (1 - crop) / 2) for side in size]
        images = keras.layers.Cropping2D([(x, x) for x in edges])(images)
        images = keras.layers.Resizing(*size, dtype="float32")(images)
    if mirrored:
        first = keras.config.image_data_format() == "channels_first"
        images = keras.ops.flip(images, axis=3 if first else 2)
    return images


# === On validation ===


def _lowering(members, names, size, validation):
    """`(views, facts)`: the views that lower the loss, the best one first."""
    variants = _variants(names)
    outputs = _predicted(members, variants, size)
    found, labels, counts = members.predictions(outputs, validation)
    task, outputs = members.task, dict(zip(variants, found, strict=True))

    def mean(names):
        return np.mean([outputs[x] for x in _variants(names)], axis=0)

    def gain(names, more):
        """Loss before and after, its difference in standard errors."""
        before, after = (losses(task, labels, mean(x)) for x in (names, more))
        return _standard_errors(before - after, counts)

    kept = []
    while left := [name for name in names if name not in kept]:
        gains = {name: gain(kept, [*kept, name]) for name in left}
        best = max(gains, key=gains.get)
        if gains[best] <= 1:
            break
        kept.append(best)
    before, after = (
        mean_loss(task, labels, mean(x), counts) for x in ([], kept)
    )
    return kept, {"examples": len(labels), "before": before, "after": after}


def _standard_errors(differences, counts):
    """The mean of paired differences, in units of its standard error."""
    counts = np.ones(len(differences)) if counts is None else counts
    shares = counts / counts.sum()
    mean = np.sum(shares * differences)
    error = np.sqrt(np.sum(shares**2 * (differences - mean) ** 2))
    return mean / max(error, 1e-12)
