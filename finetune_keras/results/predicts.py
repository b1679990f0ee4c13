"""What a model predicts from raw input, as a bundle has to know it."""

from finetune_keras.data.labels import check_classes
from finetune_keras.models.outputs import (
    activation_of,
    ends_in_logits,
    loss_name,
    loss_of,
    task_of,
)
from finetune_keras.models.text_model import TextModel

# Whose outputs are rows of tags or places, which the model itself reads.
_READ_BY_MODEL = ("tags", "answers")


def check_predicts(model):
    """Raises where a bundle could not predict from raw input.

    Args:
        model: A `keras.Model`.

    Raises:
        ValueError: If the model has no graph, several inputs or outputs, or
            predictions for each pixel or step.
    """
    inputs = getattr(model, "inputs", None)
    outputs = getattr(model, "outputs", None)
    if not inputs or not outputs:
        _refuse(model, "it has no graph that tells its input and output")
    if len(inputs) > 1 and not _reads_texts(model):
        _refuse(model, f"it has {len(inputs)} inputs")
    if len(outputs) > 1:
        _refuse(model, f"it has {len(outputs)} outputs")
    shape = outputs[0].shape
    told = getattr(getattr(model, "encoder", None), "task", None)
    if len(shape) not in (1, 2) and told not in _READ_BY_MODEL:
        _refuse(model, f"it has outputs of shape {tuple(shape)} for an input")


def classes_of(model, data, classes):
    """Names of the classes in the order of the outputs, or `None`."""
    if classes is None:
        classes = getattr(data, "classes", None)
    if classes is None:
        encoder = getattr(model, "encoder", None)
        classes = getattr(encoder, "classes", None)
    if classes is None:
        return None
    classes = check_classes(classes)
    outputs = model.outputs[0].shape[-1]
    # One sigmoid tells two classes apart.
    if len(classes) != outputs and (len(classes), outputs) != (2, 1):
        raise ValueError(
            f"The model has {outputs} outputs. Name a class for each. "
            f"Received: {len(classes)} classes {classes[:5]}"
        )
    return classes


def predicted_task(model, data, classes):
    """The task: told by encoder or data, else by loss, activation, classes."""
    encoder = getattr(model, "encoder", None)
    told = getattr(encoder, "task", None) or getattr(data, "task", None)
    told = told or task_of(model)
    if classes is None or told not in ("regression", None):
        return told or "regression"
    sigmoid = activation_of(model) == "sigmoid"
    several = sigmoid and model.outputs[0].shape[-1] > 1
    return "multi_label" if several else "classification"


def predicts_logits(model, task):
    """Whether the outputs of a classifier are logits.

    Args:
        model: A `keras.Model`.
        task: String, from `predicted_task`.

    Returns:
        Boolean.

    Raises:
        ValueError: If the model does not tell.
    """
    if task not in ("classification", "multi_label"):
        return False
    logits, activation = ends_in_logits(model), activation_of(model)
    crossentropy = "crossentropy" in loss_name(loss_of(model))
    if logits is None and (activation == "linear" or not crossentropy):
        raise ValueError(
            "The model has classes and ends in no softmax or sigmoid, and no "
            "loss of it says that its outputs are logits. Compile it with its "
            "loss, such as `keras.losses.SparseCategoricalCrossentropy("
            "from_logits=True)`, or add `keras.layers.Softmax()` as the last "
            f"layer. Received: model={model.name!r} that ends in "
            f"{activation!r}, with loss {loss_name(loss_of(model))!r}"
        )
    return bool(logits)


def _reads_texts(model):
    """Tells models that make their inputs of raw texts themselves."""
    preprocessor = getattr(model, "preprocessor", None)
    return isinstance(model, TextModel) or hasattr(preprocessor, "tokenizer")


def _refuse(model, reason):
    raise ValueError(
        "A bundle predicts one thing for each raw input, a class, labels or "
        f"numbers, and this model does not: {reason}. Keep it with "
        "`model.save(path)`, and read its inputs and outputs in your own "
        f"code. Received: model={model.name!r} of type {type(model).__name__}"
    )
