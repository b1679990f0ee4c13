"""What Keras keeps of a model between `compile` and the end of `fit`.

Together with `retrace.py` and `start_counts.py` this is all of the room that
touches private attributes of Keras; each use is tested on each backend.
"""

import contextlib
import functools

import keras
import numpy as np

from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.engine.private import global_state
from finetune_keras.engine.traces import FUNCTIONS, clear_trace


def compile_arguments(model):
    """Returns the arguments that `model.compile` was called with."""
    return dict(model._compile_config.config)


def build_for_fit(model, batch):
    """Builds loss, metrics and optimizer, where `fit` would draw a batch to.

    Args:
        model: Compiled `keras.Model`.
        batch: Tuple of arrays, as `fit` would draw it; for its shapes only.
    """
    build = getattr(model, "_maybe_symbolic_build", model._symbolic_build)
    build(data_batch=batch)


def traces_what_is_unbuilt_twice(model):
    """Tells whether `fit` builds within its first step.

    TensorFlow traces a step that makes variables once more, without them.

    Args:
        model: Compiled `keras.Model`.
    """
    tensorflow = backend.on("tensorflow")
    return tensorflow and model._distribute_strategy is None


def build_before_trace(model, batch):
    """Builds optimizer, loss and metrics as far as that needs no trace.

    Args:
        model: Compiled `keras.Model`.
        batch: Tuple of arrays or their specs, for the shapes of its labels,
            or `None`.
    """
    if model.built and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    parts = (model._compile_loss, model._compile_metrics)
    parts = [part for part in parts if part is not None and not part.built]
    if batch is None or not parts or not getattr(model, "outputs", None):
        return
    chain = isinstance(model, keras.Sequential)
    outputs = model.outputs[0] if chain else model.output
    # What is wrong with the labels is told by `fit`.
    with contextlib.suppress(Exception):
        y = keras.tree.map_structure(_symbolic, batch[1])
        for part in parts:
            part.build(y, outputs)


def _symbolic(value):
    return keras.KerasTensor(
        value.shape, keras.backend.standardize_dtype(value.dtype)
    )


def sync_state(model):
    """Writes the state that a running JAX `fit` holds into the variables.

    Elsewhere it does nothing. `model.jax_state_sync()` pairs the state with
    the flags of now, and so would swap layers of equal shapes after a change:
    the state is in the order of the flags that the optimizer was built with.

    Args:
        model: Compiled `keras.Model`.

    Raises:
        ValueError: If variables were added or removed within an epoch.
    """
    state = getattr(model, "_jax_state", None)
    if not state or model._jax_state_synced:
        return
    trained = model.optimizer._trainable_variables
    ids = {id(v) for v in trained}
    others = [v for v in model.variables if id(v) not in ids]
    owners = {
        "trainable_variables": trained,
        "non_trainable_variables": others,
        "optimizer_variables": model.optimizer.variables,
        "metrics_variables": model.metrics_variables,
    }
    for name, values in state.items():
        if len(values) != len(owners[name]):
            raise ValueError(
                "Variables were added to the model, or taken from it, within "
                "an epoch. Do it at the beginning of an epoch. Received: "
                f"{len(values)} values for {len(owners[name])} {name}"
            )
        for variable, value in zip(owners[name], values, strict=True):
            variable.assign(value)
    model._jax_state_synced = True


def strategy_scope(model):
    """Enters the strategy of a model, if it has one."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy else contextlib.nullcontext()


@contextlib.contextmanager
def other_loss(model, compute_loss):
    """Lets a model learn by another loss, which may be past XLA of TensorFlow.

    `compute_loss` is called as the method of Keras. However often the model
    is compiled meanwhile, at the end it has its own and its own flag of XLA.
    """
    before = model.supports_jit, model.jit_compile
    # Past Keras's tracking, which would take this for a new part; of the same
    # module, by which it is told that the loss is not that of Keras.
    members, own = vars(model), model.compute_loss
    members["compute_loss"] = functools.wraps(own)(_shared(compute_loss))
    if backend.on("tensorflow"):
        _set_jit(model, False, False)
    _forget_functions(model)
    try:
        yield
    finally:
        del members["compute_loss"]
        _set_jit(model, *before)
        _forget_functions(model)


def _shared(compute_loss):
    """A loss by replica: of those of a strategy, Keras takes the sum."""
    if not backend.on("tensorflow"):
        return compute_loss

    def share(*args, **kwargs):
        count = tf.distribute.get_strategy().num_replicas_in_sync
        return compute_loss(*args, **kwargs) / count

    return share


def _set_jit(model, supported, wanted):
    model.supports_jit, model.jit_compile = supported, wanted
    config = getattr(model, "_compile_config", None)
    if config is not None:
        config.config["jit_compile"] = wanted


def renew_functions(model):
    """Lets a model trace its steps anew, within a running `fit` too."""
    _forget_functions(model)
    # A running `fit` needs it at once; before one, on JAX, it would fix where
    # state is kept that is not there yet.
    if keras.distribution.distribution() is None or _is_built(model):
        model.make_train_function(force=True)
    # Up to 3.11, `fit` on JAX remembers how each trained variable is placed.
    record = getattr(model, "_record_training_state_sharding_spec", None)
    if record is not None and model.optimizer.built:
        record()
    # Later versions of Keras warn of flags that are not as they compiled them.
    compiled = getattr(model, "_compiled_trainable_state", None)
    if compiled is not None:
        flags = {layer: layer.trainable for layer in model._flatten_layers()}
        compiled.update(flags)


def _forget_functions(model):
    for name in FUNCTIONS:
        clear_trace(getattr(model, name, None))
        if name in vars(model):
            setattr(model, name, None)


def _is_built(model):
    parts = (model.optimizer, model._compile_loss, model._compile_metrics)
    return all(part is None or part.built for part in parts)


@contextlib.contextmanager
def keras_generator_left_as_it_was():
    """Puts the state of Keras's own random generator back at the end."""
    name = "global_seed_generator"
    generator = global_state.get_global_attribute(name)
    if generator is not None:
        seed = np.array(keras.ops.convert_to_numpy(generator.state))
    try:
        yield
    finally:
        global_state.set_global_attribute(name, generator)
        if generator is not None:
            generator.state.assign(seed)
