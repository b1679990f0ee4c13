"""Raw labels to what a model is trained on, and the task that they make."""

import typing

import numpy as np

from finetune_keras.data.labels import all_are, as_rows, check_missing, is_whole
from finetune_keras.data.task import Task
from finetune_keras.data.task_kinds import (
    Classification,
    MultiLabel,
    Regression,
)

_FEW = 20


class Targets(typing.NamedTuple):
    """Encoded labels: int32 ids, float32 multi-hot rows or float32 values."""

    task: Task
    y: np.ndarray


def encode(labels, task=None, classes=None):
    """Turns raw labels into `Targets`, and finds the task.

    Strings, booleans and integers of at most 20 values make a
    classification; lists of labels, or rows of zeros and ones, a multi-label
    task; floats a regression. Other integers are not guessed at. `classes`
    name the integers 0, 1, ...; of strings they are the order. A `Task` is
    one whose labels are encoded.
    """
    if isinstance(task, Task):
        return Targets(task, labels)
    kind = None if task is None else type(Task.named(task))
    labels = as_rows(labels)
    check_missing(labels)
    kind = kind or _kind_of_labels(labels)
    return Targets(*kind.encode(labels, classes))


def _kind_of_labels(labels):
    if labels.ndim == 2:
        return MultiLabel if np.isin(labels, (0, 1)).all() else Regression
    if len(labels) and isinstance(labels[0], list):
        return MultiLabel
    if labels.dtype.kind == "f" or all_are(labels, (float, np.floating)):
        return Regression
    if not is_whole(labels):
        return Classification
    values = np.unique(labels)
    if len(values) <= _FEW:
        return Classification
    raise ValueError(
        f"The labels are integers with {len(values)} different values: classes "
        'or amounts? Pass task="classification" or task="regression". '
        f"Received: labels from {values[0]} to {values[-1]}"
    )
