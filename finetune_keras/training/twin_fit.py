"""Training on trial: with the layers of a model, and nothing left behind."""

import contextlib
import copy
import functools
import random

import keras
import numpy as np

from finetune_keras.data.outputs import is_detector
from finetune_keras.engine import backend, graph
from finetune_keras.engine.fit_state import (
    compile_arguments,
    keras_generator_left_as_it_was,
    strategy_scope,
)
from finetune_keras.engine.layers import every_layer
from finetune_keras.engine.optimizer_values import copy_of
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.models.detectors import prepared_boxes
from finetune_keras.models.pixel_guard import guard_like
from finetune_keras.models.selection import is_batch_norm
from finetune_keras.training.optimizers import check_one_rate, is_layerwise


@contextlib.contextmanager
def left_as_it_was(model):
    """Puts back what training a twin changes, also after an exception.

    These are the weights, statistics and random states of the layers, their
    trainable flags, whether `BatchNormalization` is synchronized, the metrics
    that the model holds, and the states of the random generators of Python,
    NumPy, Keras and torch, bit for bit.
    """
    state = model.variables + model.metrics_variables
    # Copies: on torch the arrays would share memory with the weights.
    values = [copy_of(variable) for variable in state]
    layers = [(x, x.trainable) for x in every_layer(model)]
    flags = [(variable, variable.trainable) for variable in state]
    norms = [(x, x.synchronized) for x, _ in layers if is_batch_norm(x)]
    try:
        with _generators_left_as_they_were():
            yield
    finally:
        for layer, flag in layers:
            graph.set_own_flag(layer, flag)
        for layer, synchronized in norms:
            layer.synchronized = synchronized
        for variable, flag in flags:
            if variable.trainable != flag:
                variable.trainable = flag
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _generators_left_as_they_were():
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with (
            keras_generator_left_as_it_was(),
            _torch_generators_left_as_they_were(),
        ):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _torch_generators_left_as_they_were():
    if not backend.on("torch"):
        return contextlib.nullcontext()
    import torch

    return torch.random.fork_rng(range(torch.cuda.device_count()))


def twin(model):
    """Returns a second trainer of the same layers.

    It is of the same class, with the same train step, and shares the layers
    with their weights. How it is compiled, and what is traced and measured
    while it trains, is its own.
    """
    other = object.__new__(type(model))
    for name, value in vars(model).items():
        # On TensorFlow, what is set is entered in lists of the object too.
        is_plain = type(value) in (list, dict)
        vars(other)[name] = copy.copy(value) if is_plain else value
    return guard_like(model, other)


def compiled_twin(model):
    """Returns a twin, compiled as the model is, with an optimizer of its own.

    The optimizer is new and of the same settings but for the learning rate,
    which is a constant. Metrics are left out, since they may be objects that
    the model uses too.
    """
    other, arguments = twin(model), compile_arguments(model)
    with strategy_scope(model):
        arguments["optimizer"] = _fresh(model.optimizer)
        # Keras keeps the metrics of before where it is given `None`.
        # A detector has none, and its labels are named by no output.
        metrics = None if is_detector(model) else []
        arguments.update(metrics=metrics, weighted_metrics=None)
        arguments["steps_per_execution"] = 1
        # A model may have a `compile` of its own, with other arguments.
        keras.Model.compile(other, **arguments)
    return other


def _fresh(optimizer):
    check_one_rate(optimizer)
    config = optimizer.get_config()
    inner = config.get("inner_optimizer")
    settings = inner["config"] if inner else config
    settings["learning_rate"] = 1e-3
    fresh = type(optimizer).from_config(config)
    if is_layerwise(optimizer):
        known = inner_optimizer(optimizer)
        inner_optimizer(fresh).know_as(known)
    return fresh


def batch_arguments(batch):
    """Makes of a batch what `train_on_batch` and `test_on_batch` take."""
    batch = keras.tree.map_structure(_as_tensor, batch)
    return keras.utils.unpack_x_y_sample_weight(batch)


def _as_tensor(value):
    if value is None or keras.ops.is_tensor(value):
        return value
    value = np.asarray(value)
    return value.astype(keras.config.floatx()) if value.dtype == "d" else value


def step_of(model, name):
    """`"train_on_batch"` or `"test_on_batch"` of a twin, for any labels."""
    if not is_detector(model):
        return getattr(model, name)
    # KerasHub's own takes a dict of labels for one array.
    step = getattr(keras.Model, name)

    @functools.wraps(step)
    def on_batch(x, y=None, *weights, **options):
        return step(model, *prepared_boxes(model, x, y), *weights, **options)

    return on_batch
