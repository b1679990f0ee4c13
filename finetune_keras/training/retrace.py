"""Changes what a compiled model trains without losing the optimizer's state.

Keras fixes the trained variables in three places: the optimizer's slots, the
traced train step and, on JAX, the state that a running `fit` holds. They are
renewed here, together. This is the one file of its room that touches private
attributes of Keras; everything else that changes `trainable` calls `retrace`.
"""

import contextlib
import types

import keras
import numpy as np
from keras import ops


def retrace(model):
    """Makes a change of `trainable` take effect in a compiled model.

    Call it right after the flags were changed: between two `fit`, or in a
    callback at the beginning of an epoch or of a training batch. The
    optimizer stays the same object. A variable that stays trainable keeps its
    slots bit for bit; the step count, the learning rate and its schedule, the
    loss scale and an accumulation of gradients go on; loss and metrics stay
    compiled.

    A newly trained variable gets fresh slots, its moving average (`use_ema`)
    starts from its value, and where the optimizer corrects a bias by the step
    count, as the Adam family does, its steps count from here: with the count
    of the others its first steps would be up to five times too large. A
    variable that was frozen and is trained again is new in this sense. Amid
    an accumulation of gradients, its first mean lacks the batches before.

    The next training, evaluation and prediction are traced anew, which can
    take seconds. A `tf.function` or `jax.jit` of your own around the train
    step must be made anew too.

    Args:
        model: Compiled `keras.Model`.

    Returns:
        Dict of three lists of variable paths, `"kept"`, `"added"` and
        `"removed"`, compared with what the optimizer trained before.

    Raises:
        ValueError: If the model is not compiled, or if the optimizer holds
            state of which it is not clear to which variable it belongs.

    Example:

    ```python
    import keras
    import numpy as np
    from finetune_keras.training.retrace import retrace

    backbone = keras.layers.Dense(4, name="backbone", trainable=False)
    head = keras.layers.Dense(1, name="head")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, head(backbone(inputs)))
    model.compile("adam", "mse")
    x, y = np.ones((8, 3)), np.ones((8, 1))
    model.fit(x, y, verbose=0)
    backbone.trainable = True
    moved = retrace(model)
    model.fit(x, y, verbose=0)
    print(moved["added"])  # ['backbone/kernel', 'backbone/bias']
    ```
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            "Only a compiled model can be retraced. Call `model.compile()` "
            f"first. Received: model={model!r}"
        )
    sync_state(model)
    old, new = list(optimizer._trainable_variables), model.trainable_variables
    if optimizer.built and [id(v) for v in old] != [id(v) for v in new]:
        with _strategy_scope(model):
            _rebuild(optimizer, new)
    _renew_functions(model)
    old_ids, new_ids = _ids(old), _ids(new)
    return {
        "kept": [v.path for v in new if id(v) in old_ids],
        "added": [v.path for v in new if id(v) not in old_ids],
        "removed": [v.path for v in old if id(v) not in new_ids],
    }


def start_iterations(optimizer):
    """Returns the step count at which each later added variable started.

    Neither a `.keras` file nor `optimizer.variables` holds it. Store it with
    a checkpoint, and pass it to `set_start_iterations` on resuming. Paths are
    those of now: a `Sequential` has other ones after it was loaded.

    Args:
        optimizer: `keras.optimizers.Optimizer`.

    Returns:
        Dict from variable path to int. Variables that were trained from the
        first step are left out.
    """
    starts = {}
    for member in _family(optimizer):
        for variable, start in zip(
            member._trainable_variables, _starts(member), strict=True
        ):
            # Of two equal paths the later start takes the smaller steps.
            if start > starts.get(variable.path, 0):
                starts[variable.path] = start
    return starts


def set_start_iterations(optimizer, starts):
    """Sets the step count at which each later added variable started.

    Call it before the first batch is traced, or `retrace` after it.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`.
        starts: Dict from variable path to int, see `start_iterations`.
            Variables that are left out start at `0`.

    Raises:
        ValueError: If the optimizer is not built or lacks a path.
    """
    paths = {v.path for v in optimizer._trainable_variables}
    if not optimizer.built or not paths.issuperset(starts):
        raise ValueError(
            "The optimizer does not train every variable of `starts`. Set the "
            "trainable flags, then call "
            "`optimizer.build(model.trainable_variables)`. "
            f"Received: starts={starts!r}, built={optimizer.built}"
        )
    for member in _family(optimizer):
        variables = member._trainable_variables
        _set_starts(member, [starts.get(v.path, 0) for v in variables])


# === The model ===


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
    others = [v for v in model.variables if id(v) not in _ids(trained)]
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


def _strategy_scope(model):
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy else contextlib.nullcontext()


def _renew_functions(model):
    for name in ("train_function", "test_function", "predict_function"):
        if keras.backend.backend() == "jax":
            _clear_trace(getattr(model, name))
        setattr(model, name, None)
    model.make_train_function(force=True)  # a running `fit` needs it at once
    # Keras warns when the flags are no longer those that it compiled.
    flags = {layer: layer.trainable for layer in model._flatten_layers()}
    model._compiled_trainable_state.update(flags)


def _clear_trace(function):
    """Clears a trace that JAX would use again while anyone holds it.

    `jax.jit` knows a function by equality, and `model.train_step` is equal to
    itself: a new `jit` of it would get the trace of the old one.
    """
    for cell in getattr(function, "__closure__", None) or ():
        if hasattr(cell.cell_contents, "clear_cache"):
            cell.cell_contents.clear_cache()


# === The optimizer ===


def _ids(variables):
    return {id(v) for v in variables}


def _family(optimizer):
    """The optimizer and those that it wraps, outermost first."""
    inner = getattr(optimizer, "inner_optimizer", None)
    wrapped = [inner] if inner else getattr(optimizer, "optimizers", [])
    return [optimizer] + [o for child in wrapped for o in _family(child)]


def _rebuild(optimizer, variables):
    """Builds an optimizer over other variables, in place.

    A new one from its config would lose a learning rate that is a function,
    what is excluded from weight decay, and the reference that the user has.
    """
    family = _family(optimizer)
    memories = [_remember(member) for member in family]
    for member, (_, slots, scalars) in zip(family, memories, strict=True):
        _unbuild(member, slots, scalars)
    optimizer.build(variables)
    for member, (old, slots, scalars) in zip(family, memories, strict=True):
        places = {id(v): place for place, v in enumerate(old)}
        _restore_slots(member, places, slots)
        _restore_scalars(member, scalars)
        _restore_starts(member, places)


def _remember(optimizer):
    """Returns the variables, their slots and the scalars of an optimizer."""
    variables = list(optimizer._trainable_variables)
    scalars, slots = {}, {}
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Variable):
            scalars[name] = value
        elif _is_slots(name, value, len(variables)):
            slots[name] = list(value)
    known = _ids(scalars.values()).union(*map(_ids, slots.values()))
    strange = [v.path for v in optimizer._variables if id(v) not in known]
    by_map = isinstance(
        getattr(optimizer, "_optimizer_map", None),
        (keras.optimizers.OptimizerMap, type(None)),
    )
    if strange or not by_map:
        raise ValueError(
            "The state of this optimizer cannot be kept: it must be single "
            "variables and lists with one entry per trained variable, and a "
            "`MultiOptimizer` must have an `OptimizerMap`, as a function may "
            "return a new optimizer at each call. Compile the model again to "
            f"go on without it. Received: optimizer={optimizer!r}, {strange}"
        )
    return variables, slots, scalars


def _is_slots(name, value, length):
    return (
        isinstance(value, list)
        and len(value) == length
        and name not in ("_variables", "_trainable_variables")
        and all(v is None or isinstance(v, keras.Variable) for v in value)
    )


def _unbuild(optimizer, slots, scalars):
    _track(optimizer, _ids(scalars.values()))
    for name in ("_trainable_variables", *slots):
        setattr(optimizer, name, [])
    optimizer._trainable_variables_indices = {}
    optimizer.built = False


def _track(optimizer, ids):
    """Keeps these of the optimizer's variables.

    In a new list, and so with a new tracker, as in the constructor:
    TensorFlow saves no list from which something was taken.
    """
    kept = [v for v in optimizer._variables if id(v) in ids]
    tracker = optimizer._tracker
    is_variable, _ = tracker.config["variables"]
    optimizer._variables = []
    stores = {"variables": (is_variable, optimizer._variables)}
    optimizer._tracker = type(tracker)(stores)
    for variable in kept:
        optimizer._track_variable(variable)


def _restore_slots(optimizer, places, slots):
    variables = optimizer._trainable_variables
    for name, old_slots in slots.items():
        for variable, slot in zip(
            variables, getattr(optimizer, name), strict=False
        ):
            if slot is not None and id(variable) in places:
                _copy(old_slots[places[id(variable)]], slot)
    # Keras starts averages at zero, and ends a fit by making them the weights.
    averages = getattr(optimizer, "_model_variables_moving_average", [])
    for variable, average in zip(variables, averages, strict=False):
        if average is not None and id(variable) not in places:
            _copy(variable, average)


def _restore_scalars(optimizer, scalars):
    replaced = set()
    for name, old in scalars.items():
        if getattr(optimizer, name) is not old:
            _copy(old, getattr(optimizer, name))
            replaced.add(id(old))
    _track(optimizer, _ids(optimizer._variables) - replaced)


def _copy(source, target):
    # On JAX a step gives up the buffers it is passed: none may be shared.
    target.assign(ops.copy(source))


# === The steps of one variable ===


def _starts(optimizer):
    none = [0] * len(optimizer._trainable_variables)
    return vars(optimizer).get("_start_iterations", none)


def _restore_starts(optimizer, places):
    now = int(ops.convert_to_numpy(optimizer._iterations))
    old = vars(optimizer).get("_start_iterations", [0] * len(places))
    starts = dict(zip(places, old, strict=True))
    variables = optimizer._trainable_variables
    _set_starts(optimizer, [starts.get(id(v), now) for v in variables])


def _set_starts(optimizer, starts):
    """Lets the update of each variable count its steps from its start.

    The hooks hang on the instance, so that the class, its config and its file
    stay those of Keras.
    """
    if len(_family(optimizer)) > 1:
        return  # the wrapped ones count
    members = vars(optimizer)  # `setattr` would track what it sets
    members["_start_iterations"] = starts
    for name, hook in _HOOKS.items():
        members.pop(name, None)
        if any(starts) and hasattr(type(optimizer), name):
            members[name] = types.MethodType(hook, optimizer)


def _update_one(self, gradient, variable, learning_rate):
    start = self._start_iterations[self._get_variable_index(variable)]
    with _counting_from(self, start):
        type(self).update_step(self, gradient, variable, learning_rate)


def _update_many(self, gradients, variables, learning_rate):
    groups = {}
    for pair in zip(gradients, variables, strict=True):
        start = self._start_iterations[self._get_variable_index(pair[1])]
        groups.setdefault(start, []).append(pair)
    for start, pairs in groups.items():
        group = map(list, zip(*pairs, strict=True))
        with _counting_from(self, start):
            type(self)._parallel_update_step(self, *group, learning_rate)


# On torch most optimizers update many variables at once, by the second one.
_HOOKS = {"update_step": _update_one, "_parallel_update_step": _update_many}


@contextlib.contextmanager
def _counting_from(optimizer, start):
    """Shows an update the step count of a variable that started at `start`."""
    if not start:
        yield
        return
    # After an earlier checkpoint is restored; below 0 there would be NaN.
    steps = ops.maximum(ops.subtract(optimizer._iterations, start), 0)
    counts = {"_iterations": steps}
    if isinstance(optimizer, keras.optimizers.Nadam):
        counts["_u_product"] = _nadam_product(optimizer, steps)
    members = vars(optimizer)
    true_counts = {name: members[name] for name in counts}
    members.update(counts)
    try:
        yield
    finally:
        members.update(true_counts)


def _nadam_product(optimizer, steps):
    """The product over all steps, which Nadam keeps once for all variables."""
    steps = ops.floor_divide(steps, optimizer.gradient_accumulation_steps or 1)
    parallel = hasattr(optimizer, "_parallel_update_step")
    steps = steps if parallel else steps + 1  # that one adds its own factor
    factors = 1 - 0.5 * 0.96 ** np.arange(1, 400)  # the later ones are 1
    products = np.cumprod([1, *factors]).astype("float32")
    product = ops.take(products, ops.minimum(steps, len(factors)))
    product *= ops.power(optimizer.beta_1, ops.cast(steps, "float32"))
    if parallel:
        return types.SimpleNamespace(value=product, assign=lambda value: None)
    return product
