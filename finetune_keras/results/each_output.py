"""Models of several outputs, judged output by output."""

import functools

import keras

from finetune_keras.data.several import (
    Several,
    has_several,
    loss_by_name,
    outputs_by_name,
    values_by_name,
)
from finetune_keras.data.source import Source
from finetune_keras.data.source_batches import Dataset
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.models.heads import rebuild
from finetune_keras.models.model import encoder_of, keep_task


def by_output(judge, model, data, told):
    """Calls `judge(model, data, **told)` for each output of a model.

    `told` are arguments that are the same for all, or a dict by the names of
    the outputs. Returns a dict of what comes back.
    """
    names = list(outputs_by_name(model))
    for argument, value in told.items():
        if isinstance(value, dict) and not set(value) <= set(names):
            raise ValueError(
                f"`{argument}` names an output that is none of {names}. "
                f"Received: {argument}={value!r}"
            )
    kept = Task.kept_with(model)
    kept = kept.parts if isinstance(kept, Several) else {}
    found = {}
    for name in names:
        own = {key: _own(value, name) for key, value in told.items()}
        if own.get("classes") is None and name in kept:
            own["classes"] = kept[name].classes
        part = one_output(model, name, kept.get(name))
        found[name] = judge(part, _labels_of(model, data, name), **own)
    return found


def _own(value, name):
    return value.get(name) if isinstance(value, dict) else value


def one_output(model, name, task=None):
    """The model of one output of another one, compiled with its loss."""
    tensor = outputs_by_name(model)[name]
    if encoder_of(model) is not None:
        part = rebuild(model, tensor)
    else:
        inputs = graph.graph_of(model).input
        part = keras.Model(inputs, tensor, name=f"{model.name}_{name}")
    loss = loss_by_name(model, name)
    if loss is not None:
        part.compile("sgd", loss)
    if isinstance(task, Task) and task.classes is not None:
        keep_task(part, task)
    return part


def _labels_of(model, data, name):
    """The data with the labels of one output alone."""
    take = functools.partial(_take, model, name)
    if isinstance(data, (tuple, list)):
        return take(*data)
    if isinstance(Source.of(data), Dataset):
        return data.map(take)
    if isinstance(data, keras.utils.PyDataset):
        return _Part(data, take)
    raise ValueError(
        "The data of a model with several outputs are read once for each of "
        "them: pass a tuple of arrays, a `tf.data.Dataset` or a "
        f"`keras.utils.PyDataset`. Received: data={type(data).__name__}"
    )


def _take(model, name, *batch):
    if len(batch) not in (2, 3):
        raise ValueError(
            "`data` must hold labels: tuples (x, y) or (x, y, sample_weight). "
            f"Received: {len(batch)} parts"
        )
    x, y, *weight = batch
    labels = values_by_name(model, y)
    if labels is None or name not in labels:
        raise ValueError(
            "The labels of a model with several outputs are a dict by their "
            f"names, or a list in their order: {list(outputs_by_name(model))}. "
            f"Received: labels in a {type(y).__name__}"
            f"{' of ' + str(list(labels)) if labels else ''}"
        )
    if weight and isinstance(weight[0], (dict, list, tuple)):
        weight = [(values_by_name(model, weight[0]) or {}).get(name)]
    weight = [w for w in weight if w is not None]
    return x, labels[name], *weight


class _Part(keras.utils.PyDataset):
    """Batches of a `PyDataset` with the labels of one output."""

    def __init__(self, data, take):
        super().__init__()
        self.data, self.take = data, take

    def __len__(self):
        return len(self.data)

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return self.take(*self.data[index])


def judges_each(model):
    """Tells whether a model is judged output by output."""
    task = Task.of(model) if has_several(model) else None
    return has_several(model) and (task is None or task == Several.name)
