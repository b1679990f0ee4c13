"""Backbones: the pretrained part of an image model, on raw pixels."""

import difflib
import numbers
import warnings

import keras

from finetune_keras.arguments import check_model
from finetune_keras.engine.graph import graph_of, speaks_for_its_layers
from finetune_keras.models.channels import with_channels
from finetune_keras.models.image_size import too_small
from finetune_keras.models.inline import inline_models, replay
from finetune_keras.models.pixel_guard import guard_pixels
from finetune_keras.models.preprocessing import (
    MODES,
    application_mode,
    applications,
    preprocessing_mode,
    scale_pixels,
    shape_axis,
)
from finetune_keras.models.pretrained import build, check_weights, load_weights
from finetune_keras.models.readable import in_one_piece


def backbone(model, input_shape=None, weights="imagenet", **kwargs):
    """Makes a backbone that takes raw pixels: scaling, layers, no head.

    The graph is flat: an `Input`, the scaling that this backbone was trained
    with (unless it scales inside), and the layers of the application under
    their own names. Images of other than 3 channels are taken by the first
    convolution, whose pretrained filters are kept: summed over the channels
    for 1 channel, repeated and rescaled for others.

    Args:
        model: Name of a model in `keras.applications`, such as `"MobileNet"`;
            or a callable that makes one from `input_shape`, `weights` and
            `include_top`; or a built `keras.Model`, whose layers and weights
            are shared.
        input_shape: Tuple of 3 integers, (height, width, channels), or
            (channels, height, width) where Keras is configured so. Height and
            width may be `None`. Defaults to any size with 3 channels, for a
            built model to its own shape.
        weights: `"imagenet"`; or path of a weights file (`.h5`, `.weights.h5`
            or `.keras`); or `None` for random weights. A built model keeps
            its weights unless a path is given. Defaults to `"imagenet"`.
        **kwargs: Further arguments of the application, such as `alpha`.

    Returns:
        A functional `keras.Model` under the name that the application gave
        it. It warns, once, when its pixels look scaled already. A model of
        which nobody knows how it wants its pixels is neither scaled nor
        guarded. Images smaller than those that the ImageNet weights are for
        are warned of here.

    Raises:
        ValueError: If there is no such model or weights file, the weights do
            not fit or cannot be downloaded, or the arguments do not fit the
            model.

    Example:

    ```python
    import keras
    import finetune_keras as ft

    backbone = ft.backbone(
        "MobileNet", input_shape=(64, 64, 1), weights=None, alpha=0.25
    )
    print(backbone.name, backbone.output_shape)
    ```
    """
    _check_shape(input_shape)
    shape = None if input_shape is None else tuple(input_shape)
    weights = check_weights(weights)
    if isinstance(model, keras.Model):
        built = _adopt(model, shape, weights, kwargs)
    else:
        built = _build(_find_function(model), shape, weights, kwargs)
        if weights == "imagenet":
            _warn_if_small(built, model if isinstance(model, str) else None)
    if preprocessing_mode(built) == "inside":
        name = built.name
        built = keras.Model(built.inputs[0], built.output, name=name)
        built = guard_pixels(built)
    return speaks_for_its_layers(built)


def _warn_if_small(model, name):
    found = too_small(model, name)
    if found is not None:
        warnings.warn(
            f"The ImageNet weights of {model.name!r} are for images of "
            f"{found[1]} pixels on a side. On {found[0]} its features are "
            "weaker. Enlarge the images, or leave that to "
            "`ft.image_classifier` by passing it the name.",
            stacklevel=3,
        )


# === Arguments ===


def _check_shape(shape):
    def is_size(size):
        return isinstance(size, numbers.Integral) and size >= 1

    if shape is None:
        return
    valid = isinstance(shape, (list, tuple)) and len(shape) == 3
    valid = valid and is_size(shape[shape_axis()])
    if not valid or not all(size is None or is_size(size) for size in shape):
        raise ValueError(
            "`input_shape` must be a tuple of height, width and channels "
            "without the batch, with at least 1 channel, such as "
            f"(160, 160, 3). Received: input_shape={shape!r}"
        )


def _of_channels(shape, channels):
    shape = list(shape)
    shape[shape_axis()] = channels
    return tuple(shape)


def _find_function(model):
    if not isinstance(model, str):
        check_model(model)
    functions = applications()
    if callable(model) and not isinstance(model, keras.layers.Layer):
        return model
    if isinstance(model, str) and model in functions:
        return functions[model]
    lower = {name.lower(): name for name in functions}
    near = difflib.get_close_matches(str(model).lower(), lower, n=5, cutoff=0.4)
    raise ValueError(
        "`model` must be the name of a model in `keras.applications`, a "
        "callable that makes a model, or a `keras.Model`. Nearest names: "
        f"{[lower[name] for name in near] or sorted(functions)}. "
        f"Received: model={model!r}"
    )


def _check_kwargs(kwargs):
    if kwargs.get("pooling") is not None:
        raise ValueError(
            "A backbone ends in feature maps. Leave out `pooling`, and choose "
            "the pooling of the head instead. "
            f"Received: pooling={kwargs['pooling']!r}"
        )
    refused = {"input_tensor", "include_preprocessing"} & set(kwargs)
    if kwargs.get("include_top") or refused:
        raise ValueError(
            "A backbone has no head, makes its own input and scales its "
            "pixels, so it takes neither `include_top=True` nor `input_tensor` "
            "nor `include_preprocessing`. For those build the model with "
            f"`keras.applications` and pass it as `model`. Received: {kwargs!r}"
        )


# === A name or a callable ===


def _build(function, shape, weights, kwargs):
    _check_kwargs(kwargs)
    rgb = None if shape is None else _of_channels(shape, 3)
    model = _build_rgb(function, rgb, weights, kwargs)
    mode = preprocessing_mode(model)
    if mode in MODES:
        model = _fresh(_run_again(model, rgb, mode))
    if shape != rgb:
        model = _fresh(with_channels(model, shape))
    return model


def _build_rgb(function, shape, weights, kwargs):
    kwargs = {**kwargs, "include_top": False, "input_shape": shape}
    mode = application_mode(function)
    if mode in MODES:
        # Layers built on the scaled pixels, instead of run again on them
        # later, have one place in one graph, and `layer.output` means it.
        inputs = keras.Input(shape or _of_channels([None] * 3, 3))
        kwargs["input_tensor"] = scale_pixels(inputs, mode)
    if weights in ("imagenet", None):
        return _check_model(build(function, weights, **kwargs))
    model = _check_model(build(function, None, **kwargs))
    load_weights(model, weights)
    if function.__module__.endswith("applications.efficientnet"):
        model = _fresh(_with_second_rescaling(model))
    return model


def _with_second_rescaling(model):
    """Adds the layer that EfficientNet has for `weights="imagenet"` only.

    Its official files hold deviations where Keras reads variances. Keras makes
    up for it by one more layer, but not when it gets the same file by a path.
    """

    def call(operation, *args, **kwargs):
        x = operation(*args, **kwargs)
        if isinstance(operation, keras.layers.Normalization):
            variance = keras.ops.convert_to_numpy(operation.weights[1])
            x = keras.layers.Rescaling((variance**-0.5).tolist())(x)
        return x

    inputs, outputs = replay(model, call=call)
    return keras.Model(inputs, outputs, name=model.name)


def _fresh(model):
    """Copies a model of our own, so that its layers stand in one graph only."""
    old = model.inputs[0]
    # Keras would give the new input layer the name of a tensor.
    inputs = keras.Input(batch_shape=old.shape, dtype=old.dtype)
    copy = keras.models.clone_model(model, input_tensors=inputs)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return copy


# === A built model ===


def _adopt(model, shape, weights, kwargs):
    if kwargs:
        raise ValueError(
            "A built model takes no further arguments; they are for a name or "
            f"a callable. Received: model={model.name!r}, {kwargs!r}"
        )
    _check_model(model)
    if weights not in ("imagenet", None):
        load_weights(model, weights)
    # Asked before the names of inner models are gone.
    mode = preprocessing_mode(model)
    model = inline_models(in_one_piece(model))
    old = model.inputs[0].shape[1:]
    shape = shape or old
    rgb = _of_channels(shape, old[shape_axis()])
    if rgb != old or mode in MODES:
        model = _run_again(model, rgb, mode)
    if shape != rgb:
        model = with_channels(model, shape)
    graph = graph_of(model)
    return keras.Model(graph.inputs[0], graph.output, name=model.name)


def _check_model(model):
    if graph_of(model) is None:
        raise ValueError(
            "A backbone must be a functional or sequential `keras.Model` that "
            "has been built, so that scaling can be put before its layers. "
            f"Received: {model!r} of type {type(model).__name__}"
        )
    shapes = [tensor.shape for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            "A backbone must have one input, a batch of images. "
            f"Received: model={model.name!r} with inputs of shapes {shapes}"
        )
    return model


def _run_again(model, shape, mode):
    """Runs a model on images of another size, scaled as it wants them."""
    old = model.inputs[0]
    inputs = keras.Input(shape or old.shape[1:], dtype=old.dtype)
    try:
        outputs = replay(model, [scale_pixels(inputs, mode)])[1]
    except ValueError as error:
        raise ValueError(
            f"The model {model.name!r} was built for images of shape "
            f"{old.shape[1:]} and cannot take others: {error} "
            f"Received: input_shape={shape}"
        ) from error
    return keras.Model(inputs, outputs, name=model.name)
