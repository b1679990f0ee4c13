"""Segmenters with another number of classes: the last convolution alone."""

import keras

from finetune_keras.data.outputs import activation_of, gives_maps, overlaps
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.engine.nodes import run_through
from finetune_keras.models.inline import opened, tail

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
_ENLARGING = (
    keras.layers.Conv2DTranspose,
    keras.layers.Resizing,
    keras.layers.UpSampling2D,
)
# Long sides, which a model halves some times without a rest.
_SIDE = 256


def is_segmenter(model):
    """Tells whether a model predicts a class for each pixel.

    It ends in a softmax or one sigmoid at each pixel, or is made or compiled
    for classes; or it ends in a convolution, and its maps are as large as the
    images or were made larger.
    """
    if graph.graph_of(model) is None or not gives_maps(model):
        return False
    task = Task.of(model)
    if task is not None:
        return task.is_dense
    steps = graph.walk(model)[0]
    heads = [step.operation for step in steps if _has_weights(step)]
    if activation_of(model) != "linear" or not heads:
        return False
    larger = any(isinstance(step.operation, _ENLARGING) for step in steps)
    if larger:
        return isinstance(heads[-1], _CONVOLUTIONS)
    return _is_pointwise(heads[-1]) and _keeps_size(model)


def refuse_overlapping(model):
    """Refuses models of masks that overlap, which are no image classifiers."""
    if overlaps(model):
        raise ValueError(
            "This model gives masks that overlap, a sigmoid for each class at "
            "each pixel, and their number is not changed here. Put a "
            "convolution of your own on the model; or make an image "
            'classifier of it by `task="classification"`. '
            f"Received: model={model.name!r}"
        )


def _has_weights(step):
    return bool(getattr(step.operation, "weights", ()))


def _is_pointwise(layer):
    if isinstance(layer, keras.layers.Conv2D):
        return tuple(layer.kernel_size) == (1, 1)
    return isinstance(layer, keras.layers.Dense)


def _keeps_size(model):
    shape = [size or _SIDE for size in model.inputs[0].shape[1:]]
    try:
        found = model.compute_output_shape((1, *shape))
    except Exception:  # a graph may take but one size
        return False
    return len(shape) == 3 and tuple(found[1:3]) == tuple(shape[:2])


def with_classes(model, num_classes, regularizer=None):
    """`(flat, outputs)` of a segmenter: opened, and with new classes."""
    flat = opened(model)
    steps, _, outputs = graph.walk(flat)
    place = max(i for i, step in enumerate(steps) if _has_weights(step))
    step, cuts = steps[place], graph.cut_points(steps, outputs)
    layer = step.operation
    kinds = (*_CONVOLUTIONS, keras.layers.Dense)
    alone = place in cuts and layer in graph.graph_of(flat).layers
    if not isinstance(layer, kinds) or not alone:
        raise ValueError(
            "The number of classes of this model cannot be changed: its maps "
            "do not come from one last convolution alone. Build it with as "
            "many classes as you want, and give it the weights that fit. "
            f"Received: model={model.name!r}, whose last layer with weights "
            f"is {layer.name!r} of type {type(layer).__name__}"
        )
    new = _resized(layer, num_classes, regularizer)
    (inputs,) = (x for x in step.arguments if isinstance(x, keras.KerasTensor))
    return flat, _behind(flat, step, new(inputs), num_classes)


def _resized(layer, num_classes, regularizer):
    """A layer like another, with new weights for so many classes."""
    config = {**layer.get_config(), "name": "head_predictions"}
    size = "units" if isinstance(layer, keras.layers.Dense) else "filters"
    config.update({size: int(num_classes), "trainable": True})
    if regularizer is not None:
        config["kernel_regularizer"] = regularizer
    new = type(layer).from_config(config)
    ending = getattr(new.activation, "__name__", None)
    if ending in _ENDINGS:
        new.activation = keras.activations.get(_ending(num_classes))
    return new


# What tells probabilities; logits stay logits.
_ENDINGS = ("softmax", "sigmoid")


def _ending(num_classes):
    return "sigmoid" if num_classes == 1 else "softmax"


def _behind(flat, step, tensor, num_classes):
    """What the model does behind its last convolution, done to another."""
    (old,), (end,) = step.tensors, graph.graph_of(flat).outputs
    if old is end:
        return tensor

    def call(operation, *args, **kwargs):
        if activation_of_layer(operation) in _ENDINGS:
            kind = _ending(num_classes)
            layer = keras.layers.Activation(
                kind, dtype="float32", name="head_probabilities"
            )
            return layer(args[0])
        return operation(*args, **kwargs)

    return run_through(tail([old], end), [tensor], call)


def activation_of_layer(operation):
    """Name of the activation that an operation is, or `None`."""
    if isinstance(operation, keras.layers.Activation):
        return getattr(operation.activation, "__name__", None)
    return type(operation).__name__.lower()
