"""The table of groups: what trains, what is frozen, what it costs."""

import collections
import functools
import math

import keras
import numpy as np

from finetune_keras.data.layout import Shown, Table
from finetune_keras.engine.private import inner_optimizer, optimizer_of
from finetune_keras.engine.versions import get_optimizer
from finetune_keras.models.freezing import is_recompile_due
from finetune_keras.models.layer_groups import as_groups
from finetune_keras.models.selection import is_batch_norm

_COLUMNS = ("group", "layers", "parameters", "trainable", "batch norm")


def trainable_summary(model, optimizer=None):
    """Summarises what trains in a model, group by group.

    Args:
        model: A `keras.Model`, built, or its `LayerGroups`.
        optimizer: A `keras.optimizers.Optimizer` or its name, for the bytes
            of its state. Defaults to the one that `model` is compiled with.

    Returns:
        A `TrainableSummary`, which prints as a table and shows as HTML in a
        notebook.

    Raises:
        ValueError: If `model` has no weights yet.

    Example:

    ```python
    import keras, finetune_keras as ft

    backbone = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(6),
    ])
    model = ft.replace_head(backbone, 2)
    ft.freeze(model, "backbone")
    print(ft.trainable_summary(model, optimizer="adam"))
    ```
    """
    return TrainableSummary(model, optimizer)


class TrainableSummary(Shown):
    """What trains in a model, as numbers and as a table.

    Made by `trainable_summary`.

    Attributes:
        rows: List of dicts with `group`, `layers`, `parameters`, `trainable`
            and `batch_norm`, one a group. The last may be `"outside the
            graph"`: layers that the model holds and does not call, such as a
            teacher.
        num_params: Integer, all parameters.
        num_trainable: Integer, the parameters that an optimizer may move.
        optimizer_bytes: Integer, bytes of the optimizer's state, or `None`
            where no optimizer is known.
        recompile_due: Boolean, whether the compiled model still trains what
            was trainable before.

    Example:

    ```python
    import keras, finetune_keras as ft

    summary = ft.trainable_summary(keras.applications.VGG16(weights=None))
    print(summary.num_params, summary.rows[0]["group"])
    ```
    """

    def __init__(self, model, optimizer=None):
        groups = as_groups(model)
        model = groups.model
        self.name = model.name
        trained = {id(v) for v in model.trainable_variables}
        self.rows, counted = [], set()
        for group in groups.every:
            self.rows.append(_row(group, trained, counted))
        self.num_params = sum(row["parameters"] for row in self.rows)
        self.num_trainable = sum(row["trainable"] for row in self.rows)
        optimizer = optimizer or getattr(model, "optimizer", None)
        self._counts, self._anchors = _count_slots(model, optimizer)
        self.recompile_due = is_recompile_due(model)

    @functools.cached_property
    def optimizer_bytes(self):
        # Counted when asked: variables of the size of weights are made for it.
        if self._counts is None:
            return None
        tiny = _probe((1,), "float32")
        # What there is once, whatever is trained, does not count.
        once = {kind[0]: _built_bytes(kind[0], [tiny]) for kind in self._counts}
        slots = (
            count * (_built_bytes(part, [tiny, _probe(*kind)]) - once[part])
            for (part, *kind), count in self._counts.items()
        )
        return sum(slots) + self._anchors

    @property
    def notes(self):
        """List of strings: the totals, and what the reader should do."""
        share = 100 * self.num_trainable / max(self.num_params, 1)
        notes = [
            f"Trainable: {self.num_trainable:,} of {self.num_params:,} "
            f"parameters ({share:.3g} %)."
        ]
        if self.optimizer_bytes is not None:
            notes.append(f"Optimizer state: {self.optimizer_bytes:,} bytes.")
        if self.recompile_due:
            notes.append(
                "Recompile due: what is trainable changed after the model was "
                "compiled and trained. Call `model.compile` again, or Keras "
                "goes on training the old set."
            )
        return notes

    def _layout(self):
        table = Table(_COLUMNS, [_cells(row) for row in self.rows])
        return [f"Model: {self.name}", table, *self.notes]


def _row(group, trained, counted):
    """Counts a group without what was counted before: weights may be shared."""
    variables = [v for v in group.variables if id(v) not in counted]
    counted.update(map(id, variables))
    trainable = [v for v in variables if id(v) in trained]
    return {
        "group": group.name,
        "layers": len(group.layers),
        "parameters": sum(math.prod(v.shape) for v in variables),
        "trainable": sum(math.prod(v.shape) for v in trainable),
        "batch_norm": _batch_norm_mode(group),
    }


def _batch_norm_mode(group):
    modes = {x.trainable for x in group.layers if is_batch_norm(x)}
    if len(modes) == 2:
        return "mixed"
    names = {True: "train", False: "frozen", None: "-"}
    return names[modes.pop() if modes else None]


def _cells(row):
    return (
        row["group"],
        str(row["layers"]),
        f"{row['parameters']:,}",
        f"{row['trainable']:,}",
        row["batch_norm"],
    )


def _count_slots(model, optimizer):
    """How many variables of each kind have slots, and the bytes of anchors."""
    if optimizer is None:
        return None, 0
    optimizer = get_optimizer(optimizer)
    counts = collections.Counter(
        (optimizer_of(optimizer, v), tuple(v.shape), v.dtype)
        for v in model.trainable_variables
    )
    return counts, _anchor_bytes(model, optimizer)


def _probe(shape, dtype):
    return keras.Variable(keras.ops.zeros(shape, dtype), name="probe")


def _built_bytes(optimizer, variables):
    config = optimizer.get_config()
    if "learning_rate" in config:
        # That of the optimizer may be a function, which need not be readable.
        config["learning_rate"] = 1e-3
    copy = type(optimizer).from_config(config)
    copy.build(variables)
    return sum(map(bytes_of, copy.variables))


def _anchor_bytes(model, optimizer):
    """Bytes of the copies that L2-SP keeps: the layer-wise optimizer's own."""
    optimizer = inner_optimizer(optimizer)
    if not getattr(optimizer, "l2_sp", None):
        return 0
    return sum(map(bytes_of, filter(optimizer.pull, model.trainable_variables)))


def bytes_of(tensor):
    """Returns how many bytes a tensor or a variable takes."""
    name = keras.backend.standardize_dtype(tensor.dtype)
    size = 2 if name == "bfloat16" else np.dtype(name).itemsize
    return math.prod(tensor.shape) * size
