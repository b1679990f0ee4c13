"""What a bundle knows beside its model: facts of data, task and packages."""

import importlib.metadata
import platform

from finetune_keras.data.labels import check_classes
from finetune_keras.data.outputs import columns_of, is_detector
from finetune_keras.data.several import Several, outputs_by_name
from finetune_keras.data.task import Task
from finetune_keras.data.task_checks import refuse_unclear
from finetune_keras.data.task_kinds import Regression
from finetune_keras.engine import backend
from finetune_keras.models.detectors import image_size_of
from finetune_keras.results.bundle_file import (
    FORMAT,
    check_predicts,
    is_size_of,
)
from finetune_keras.results.each_output import judges_each

_PACKAGES = ("finetune_keras", "keras", "tensorflow", "jax", "torch", "numpy")


def facts_of(model, data=None, classes=None, plan=None):
    """What a bundle knows beside its model; raises if it cannot predict."""
    kinds = getattr(data, "kinds", None)
    check_predicts(model, getattr(data, "task", None), kinds)
    task = told_task(model, data, classes)
    outputs = task.get_config()["parts"] if task == "several" else None
    size = getattr(data, "image_size", None) or _size_of(model)
    _check_size(model, size)
    return {
        "outputs": outputs,
        "format": FORMAT,
        "classes": task.classes,
        "task": str(task),
        "from_logits": task.logits,
        "image_size": size,
        "crop_to_aspect_ratio": getattr(data, "crop_to_aspect_ratio", False),
        "sampling_rate": getattr(data, "sampling_rate", None),
        "seconds": getattr(data, "seconds", None),
        "features": getattr(data, "features", None),
        "kinds": kinds,
        "data": data and {"fingerprint": data.fingerprint, "sizes": data.sizes},
        "plan": plan and plan.to_dict(),
        "environment": describe_environment(),
    }


def _size_of(model):
    """What a detector resizes to; other models take images of their input."""
    return image_size_of(model) if is_detector(model) else None


def _check_size(model, size):
    if size is not None and not is_size_of(size, model):
        raise ValueError(
            "The data have images of another size than the model takes. Pass "
            "the data that it was trained on. Received: data with image_size="
            f"{size}, and a model of inputs {tuple(model.inputs[0].shape)}"
        )


def told_task(model, data=None, classes=None):
    """What a model predicts: a single value where nothing tells it."""
    if judges_each(model):
        return _told_of_each(model, classes)
    if classes is None:
        classes = getattr(data, "classes", None)
    if classes is not None:
        classes = check_classes(classes)
    task = Task.of(model, getattr(data, "task", None), classes)
    if task is None and columns_of(model) == 1:
        task = Regression()
    if task is None or task.logits is None:
        refuse_unclear(model)
    if task.classes is not None:
        task.names()
    return task


def _told_of_each(model, classes):
    task = Several.of_model(model, classes)
    parts = task.parts.values() if task else ()
    if any(one.logits is None for one in parts):
        task = None
    for one in parts:
        if one.has_chances or one.classes is not None:
            one.classes = one.names()
    if task is None:
        raise ValueError(
            "Each output of a model with several is to tell what it is: a "
            "softmax or a sigmoid, or the loss that the model is compiled "
            "with for it. Compile it with `loss={name: ...}`, or add "
            "activations as last layers; or keep it with `model.save(path)`. "
            "Received: model="
            f"{model.name!r} with outputs {list(outputs_by_name(model))}"
        )
    return task


def describe_environment():
    """Returns versions of what a result depends on, as plain data."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": backend.name(),
        "packages": versions,
    }
