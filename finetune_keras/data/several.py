"""Several outputs, each with a task of its own."""

import types

import keras

from finetune_keras.data.task import Task
from finetune_keras.data.task_kinds import Regression


class Several(Task):
    """What a model of several outputs predicts: a task for each, by name.

    Args:
        parts: Dict from the names of the outputs to their tasks, or to what
            `get_config` of these gives.
    """

    name, noun = "several", "outputs"
    # `evaluate` judges each output for itself.
    is_judged = has_chances = False

    def __init__(self, parts, classes=None, outputs=None, logits=False):
        super().__init__(classes, outputs, logits)
        self.parts = {
            name: part if isinstance(part, Task) else _restored(part)
            for name, part in parts.items()
        }

    def get_config(self):
        parts = {
            name: {**part.get_config(), "logits": part.logits}
            for name, part in self.parts.items()
        }
        return {"kind": self.name, "parts": parts}

    @classmethod
    def of_model(cls, model, classes=None, told=None):
        """The tasks of all outputs, as far as each tells its own.

        Args:
            model: A `keras.Model` of several outputs.
            classes: Dict from some of the outputs to lists of strings, or
                `None`.
            told: Dict from some of the outputs to names of tasks, or `None`.

        Returns:
            A `Several`, or `None` where an output does not tell its task.
        """
        kept = Task.kept_with(model)
        kept = kept.parts if isinstance(kept, Several) else {}
        classes, told = classes or {}, told or {}
        _check_names(model, classes, "classes")
        _check_names(model, told, "task")
        parts = {}
        for name, output in outputs_by_name(model).items():
            part = _part(model, name, output, told.get(name), classes)
            parts[name] = part if part is not None else kept.get(name)
            if parts[name] is None and output.shape[-1] == 1:
                parts[name] = Regression(outputs=1)
            if classes.get(name) is None and name in kept:
                parts[name].classes = kept[name].classes
        return None if None in parts.values() else cls(parts)

    def compile_arguments(self, one_hot=False):
        """What `compile` takes for it: losses and metrics by output."""
        each = {
            name: part.compile_arguments(one_hot)
            for name, part in self.parts.items()
        }
        return {
            key: {name: found[key] for name, found in each.items()}
            for key in ("loss", "metrics")
        }


def _restored(config):
    config = dict(config)
    logits = config.pop("logits", False)
    task = Task.from_config(config)
    task.logits = logits
    return task


def _part(model, name, output, told, classes):
    loss = loss_by_name(model, name)
    view = types.SimpleNamespace(outputs=[output], loss=loss)
    return Task.of(view, told, classes.get(name))


def _check_names(model, parts, argument):
    names = list(outputs_by_name(model))
    if not isinstance(parts, dict) or not set(parts) <= set(names):
        raise ValueError(
            f"Of a model with several outputs `{argument}` is a dict by the "
            f"names of the outputs, {names}. Received: {argument}={parts!r}"
        )


def has_several(model):
    """Tells whether a model has a graph with several outputs."""
    return len(getattr(model, "outputs", None) or ()) > 1


def outputs_by_name(model):
    """Dict from the names of the outputs of a model to their tensors."""
    structure = getattr(model, "output", None)
    if isinstance(structure, dict) and all(
        isinstance(x, keras.KerasTensor) for x in structure.values()
    ):
        return dict(structure)
    return dict(zip(model.output_names, model.outputs, strict=True))


def inputs_by_name(model):
    """Dict from the names of the inputs of a model to their tensors.

    In the order of `model.inputs`. Two of one name are one.
    """
    structure = getattr(model, "input", None)
    names = {id(tensor): tensor.name for tensor in model.inputs}
    if isinstance(structure, dict):
        names.update((id(tensor), key) for key, tensor in structure.items())
    return {names[id(tensor)]: tensor for tensor in model.inputs}


def values_by_name(model, values):
    """What goes with the outputs of a model, in its structure, by name.

    `None` where it is in no such structure.
    """
    names = list(outputs_by_name(model))
    if isinstance(values, dict):
        return values
    if isinstance(values, (list, tuple)) and len(values) == len(names):
        return dict(zip(names, values, strict=True))
    return None


def loss_by_name(model, name):
    """The loss that a model is compiled with for one output, or `None`."""
    losses = getattr(model, "loss", None)
    if isinstance(losses, (dict, list, tuple)):
        return (values_by_name(model, losses) or {}).get(name)
    return losses
