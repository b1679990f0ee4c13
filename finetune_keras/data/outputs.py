"""What the end of a model and its loss tell of what it predicts."""

import functools
import re
import sys

import keras
import numpy as np

from finetune_keras.engine.nodes import maker_of, place_of

# What leaves the meaning of its input as it is.
_PASSES_ON = (
    "activity_regularization",
    "cast",
    "dropout",
    "flatten",
    "identity",
    "input_layer",
    "linear",
    "permute",
    "reshape",
    "resizing",
    "squeeze",
    "up_sampling2d",
)
_REGRESSION_LOSSES = (
    "mean_",
    "huber",
    "log_cosh",
    "poisson",
    "tweedie",
    "cosine_similarity",
)


def activation_of(model):
    """Name of the last activation, such as `"softmax"` or `"linear"`.

    It is the name of the last layer where that has no activation, and `None`
    where the model has no graph or several outputs.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1:
        return None
    return _ending(outputs[0])


def _ending(tensor):
    while True:
        operation, inputs = maker_of(tensor)
        name = _activation_name(operation)
        if hasattr(operation, "layers"):
            outputs = getattr(operation, "outputs", None)
            name = _ending(outputs[place_of(tensor)]) if outputs else None
        passes_on = name in _PASSES_ON and not getattr(operation, "weights", ())
        if not passes_on or len(inputs) != 1:
            return name
        tensor = inputs[0]


def _activation_name(operation):
    activation = getattr(operation, "activation", None)
    if activation is None:
        activation = type(operation).__name__
    if not isinstance(activation, str):
        kind = type(activation).__name__
        activation = getattr(activation, "__name__", kind)
    return snake_case(activation)


def columns_of(model):
    """How many outputs an input has, or `None` where no graph tells it."""
    outputs = getattr(model, "outputs", None)
    return outputs[0].shape[-1] if outputs and outputs[0].shape else None


def class_names_of(model):
    """Names of the classes that people or an encoder gave, or `None`."""
    return getattr(model, "class_names", None)


def loss_of(model):
    """The only loss that a model is compiled with, or `None`."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, dict):
        loss = list(loss.values())
    if isinstance(loss, (list, tuple)):
        loss = loss[0] if len(loss) == 1 else None
    return loss


def loss_name(loss):
    """Name of a loss, such as `"binary_crossentropy"`, empty for `None`.

    It is the same for a string, an alias, a function, an object.
    """
    if loss is None:
        return ""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, functools.partial):
        loss = loss.func
    name = getattr(loss, "__name__", None)
    return snake_case(name or type(loss).__name__)


def kind_of(model):
    """Name of the task that a model is made for, or `None`: nothing tells."""
    if is_detector(model):
        return "detection"
    loss, activation = loss_name(loss_of(model)), activation_of(model)
    several = columns_of(model) not in (None, 1)
    if gives_maps(model):
        return _kind_of_maps(model, loss, activation)
    if "crossentropy" in loss:
        by_label = "binary" in loss and activation != "softmax"
        return "multi_label" if by_label and several else "classification"
    if loss.startswith(_REGRESSION_LOSSES) and activation != "softmax":
        return "regression"
    if activation == "sigmoid":
        return "multi_label" if several else "classification"
    if activation == "softmax" or _is_of_hub(model, _HUB_CLASSIFIERS):
        return "classification"
    return None


def gives_maps(model):
    """Tells whether a model predicts something at each place of an image."""
    outputs = getattr(model, "outputs", None) or ()
    shape = tuple(outputs[0].shape or ()) if len(outputs) == 1 else ()
    return len(shape) == 4 and shape[1:3] != (1, 1)


def overlaps(model):
    """Tells whether a model gives several labels for each pixel."""
    loss, activation = loss_name(loss_of(model)), activation_of(model)
    return (
        gives_maps(model)
        and columns_of(model) not in (None, 1)
        and (activation == "sigmoid" or "binary" in loss)
        and not loss.startswith(_REGRESSION_LOSSES)
    )


def _kind_of_maps(model, loss, activation):
    if loss.startswith(_REGRESSION_LOSSES) and activation != "softmax":
        return "regression"
    if overlaps(model):
        return None
    told = activation in ("softmax", "sigmoid") or "crossentropy" in loss
    segmenter = told or _is_of_hub(model, ("ImageSegmenter",))
    return "segmentation" if segmenter else None


def ends_in_logits(model):
    """Whether the outputs of a classifier are logits.

    `None` where the model does not tell: it ends in neither softmax nor
    sigmoid, and no loss of it says `from_logits=True`.
    """
    activation = activation_of(model)
    if activation in ("softmax", "sigmoid"):
        return False
    loss = loss_of(model)
    told = getattr(loss, "keywords", None) or {}
    if getattr(loss, "from_logits", False) or told.get("from_logits"):
        return True
    if "crossentropy" in loss_name(loss) and activation not in (None, "linear"):
        return False
    return True if _is_of_hub(model, _HUB_CLASSIFIERS) else None


# They end in logits by default.
_HUB_CLASSIFIERS = ("ImageClassifier", "TextClassifier")


def is_detector(model):
    """Tells detectors of KerasHub, which predict boxes."""
    return _is_of_hub(model, ("ObjectDetector",))


def predicts_a_set(model):
    """Tells a D-FINE: each of its queries becomes one true box, or none."""
    return _is_of_hub(model, ("DFineObjectDetector",))


def _is_of_hub(model, kinds):
    """Tells tasks of KerasHub of some kinds."""
    hub = sys.modules.get("keras_hub")
    kinds = [getattr(hub.models, kind, ()) for kind in kinds] if hub else []
    return any(isinstance(model, kind) for kind in kinds)


def writes_text(model):
    """Tells KerasHub's models that write text, token by token."""
    hub = sys.modules.get("keras_hub")
    return hub is not None and isinstance(model, hub.models.CausalLM)


def snake_case(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def as_columns(outputs):
    """Outputs of shape (batch,) or (batch, columns) as columns."""
    check_shape(outputs, "evaluate")
    # Half precision of TensorFlow and JAX is no dtype of NumPy's own.
    outputs = np.asarray(outputs).astype("float32")
    return outputs.reshape(len(outputs), -1)


def check_shape(outputs, verb):
    """Raises where outputs are not one prediction for each input."""
    shape = getattr(outputs, "shape", None)
    if shape is not None and len(shape) in (1, 2):
        return
    if shape is None:
        found = type(outputs).__name__
        how = (
            "Of several outputs make a model of the one that you want: "
            "`keras.Model(model.inputs, model.outputs[0])`; lists of tags are "
            "for `ft.entity_scores`, and answers for `ft.answer_scores`."
        )
    else:
        found = f"shape {tuple(shape)}"
        how = (
            "Masks, of a softmax at each pixel, are judged by `ft.evaluate`; "
            "other predictions for each pixel or step by Keras: "
            "`model.evaluate`. "
            "Where one prediction is meant pool or flatten it first."
        )
    raise ValueError(
        f"`{verb}` takes a model with one output of shape (batch,) or (batch, "
        f"classes). {how} Received: outputs of {found}"
    )
