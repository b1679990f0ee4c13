"""How a model is compiled: filled in where it is not, passed on where it is."""

import keras

from finetune_keras.data.outputs import activation_of, gives_maps
from finetune_keras.data.segmentation import Segmentation
from finetune_keras.data.task import Task
from finetune_keras.data.task_kinds import Classification, Regression
from finetune_keras.engine.fit_state import compile_arguments
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.text.generation import by_token
from finetune_keras.training.optimizers import (
    check_one_rate,
    is_layerwise,
    layerwise_optimizer,
)


def ensure_compiled(model, plan, labels_rank, ignore_class=None):
    """Compiles a model for a plan where the user has not.

    The loss follows from the task and the form of the labels, whose rank may
    be `None`; `ignore_class` is that of masks. A layer-wise optimizer takes
    the place of a plain one where a phase has rates by layer, or a weight
    decay.
    """
    if getattr(model, "optimizer", None) is None:
        arguments = _loss_and_metrics(model, labels_rank, ignore_class)
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.0)
        by_layer = _is_by_layer(plan)
        layerwise = by_layer and layerwise_optimizer(optimizer, model)
        optimizer = layerwise or "adam"
        model.compile(optimizer, **arguments)
    elif _is_by_layer(plan) and not is_layerwise(model.optimizer):
        compile_with(model, model.optimizer, plan)


def compile_with(model, optimizer, plan):
    """Compiles a model with another optimizer, all else as it was."""
    if _is_by_layer(plan) and not is_layerwise(optimizer):
        optimizer = layerwise_optimizer(optimizer, model)
    # A model may have a `compile` of its own, with other arguments.
    arguments = {**compile_arguments(model), "optimizer": optimizer}
    keras.Model.compile(model, **arguments)


def fitted(flat):
    """The model that `fit` trains, compiled: that of a `FlatModel`, or its own.

    It is its own where the data come as the model takes them.
    """
    model = flat.groups.model
    if flat.make is None:
        return model
    with flat.opened() as target:
        target.compile(**by_token(compile_arguments(model)))
    return target


def sets_rates(plan):
    """Tells whether a phase of a plan gives layers rates of their own."""
    return any(
        phase.layerwise_lr_decay is not None or phase.multipliers
        for phase in plan
    )


def _is_by_layer(plan):
    # A layer-wise optimizer knows which weights do not decay.
    decays = any(phase.weight_decay is not None for phase in plan)
    return decays or sets_rates(plan)


def check_schedule(plan, optimizer):
    """Tells whether the optimizer has a schedule, which plans leave alone."""
    check_one_rate(optimizer)
    inner = inner_optimizer(optimizer)
    rate = inner.get_config()["learning_rate"]
    scheduled = not isinstance(rate, (int, float))
    if scheduled and any(
        phase.learning_rate or phase.optimizer or not phase.has_one_rate
        for phase in plan
    ):
        raise ValueError(
            "The model is compiled with a learning-rate schedule, and the "
            "plan gives rates of its own. Compile it with a number, or leave "
            "out `learning_rate` and `schedule`, and any `optimizer`, in the "
            "phases. "
            f"Received: {rate}"
        )
    return scheduled


def _loss_and_metrics(model, labels_rank, ignore_class):
    task, activation = Task.of(model), activation_of(model)
    if task is None and activation != "linear":
        raise ValueError(
            "The loss cannot be told from the output of the model. Call "
            "`model.compile(optimizer, loss, metrics=...)` first. Received: "
            f"model={model.name!r} that ends in {activation!r}"
        )
    shape = model.outputs[0].shape
    several = shape[-1] not in (None, 1)
    if task is None and gives_maps(model) and several and labels_rank == 4:
        raise ValueError(
            "The loss cannot be told: several numbers at each pixel may be "
            "values, or scores of classes, and so may the labels. Call "
            "`model.compile(optimizer, loss, metrics=...)` first; masks of "
            f"class ids need none. Received: model={model.name!r} of outputs "
            f"{shape}"
        )
    if task is None:
        is_row = labels_rank == len(shape) - 1 and several
        # Numbers of classes, for the scores of each.
        kind = Segmentation if gives_maps(model) else Classification
        task = kind(None, shape[-1], logits=True) if is_row else Regression()
    if task.is_dense:
        task.ignore_class = ignore_class
    # Of several outputs the rank is none of one.
    one_hot = labels_rank == len(shape) and len(model.outputs) == 1
    return task.compile_arguments(one_hot=one_hot)
