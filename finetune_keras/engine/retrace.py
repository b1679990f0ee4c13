"""Changes what a compiled model trains without losing the optimizer's state.

Keras fixes the trained variables in three places: the optimizer's slots, the
traced train step and, on JAX, the state that a running `fit` holds. They are
renewed here, together. Everything that changes `trainable` calls
`retrace`.
"""

import keras
from keras import ops

from finetune_keras.engine.fit_state import (
    renew_functions,
    strategy_scope,
    sync_state,
)
from finetune_keras.engine.layerwise import Layerwise
from finetune_keras.engine.optimizer_values import is_slots
from finetune_keras.engine.start_counts import family, restore_starts
from finetune_keras.engine.versions import is_a


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
    variable that was frozen and is trained again is new in this sense, but
    L2-SP still pulls it to where it first began. Amid an accumulation of
    gradients, its first mean lacks the batches before. A variable that is
    frozen amid a `fit` with `use_ema` keeps its own value: at the end Keras
    writes averages over what trains then, and no other.

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
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, activation="relu", name="body")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    ft.freeze(model, "body")
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.random.normal(size=(16, 4)), np.arange(16) % 2
    model.train_on_batch(x, y)
    ft.unfreeze(model, "body")
    print(ft.retrace(model)["added"])
    model.train_on_batch(x, y)
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
        with strategy_scope(model):
            _rebuild(optimizer, new)
    renew_functions(model)
    old_ids, new_ids = _ids(old), _ids(new)
    return {
        "kept": [v.path for v in new if id(v) in old_ids],
        "added": [v.path for v in new if id(v) not in old_ids],
        "removed": [v.path for v in old if id(v) not in new_ids],
    }


def _ids(variables):
    return {id(v) for v in variables}


def _rebuild(optimizer, variables):
    """Builds an optimizer over other variables, in place.

    A new one from its config would lose a learning rate that is a function,
    what is excluded from weight decay, and the reference that the user has.
    """
    members = family(optimizer)
    memories = [_remember(member) for member in members]
    for member, (_, slots, scalars) in zip(members, memories, strict=True):
        _unbuild(member, slots, scalars)
    optimizer.build(variables)
    for member, (old, slots, scalars) in zip(members, memories, strict=True):
        places = {id(v): place for place, v in enumerate(old)}
        _restore_slots(member, places, slots)
        _restore_scalars(member, scalars)
        restore_starts(member, places)


def _remember(optimizer):
    """Returns the variables, their slots and the scalars of an optimizer."""
    variables = list(optimizer._trainable_variables)
    scalars, slots = {}, {}
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Variable):
            scalars[name] = value
        elif is_slots(name, value, len(variables)):
            slots[name] = list(value)
    known = _ids(scalars.values()).union(*map(_ids, slots.values()))
    strange = [v.path for v in optimizer._variables if id(v) not in known]
    chosen = getattr(optimizer, "_optimizer_map", None)
    by_map = chosen is None or is_a(chosen, "optimizers.OptimizerMap")
    if strange or not by_map:
        raise ValueError(
            "The state of this optimizer cannot be kept: it must be single "
            "variables and lists with one entry per trained variable, and a "
            "`MultiOptimizer` must have an `OptimizerMap`, as a function may "
            "return a new optimizer at each call. Compile the model again to "
            f"go on without it. Received: optimizer={optimizer!r}, {strange}"
        )
    return variables, slots, scalars


def _unbuild(optimizer, slots, scalars):
    if isinstance(optimizer, Layerwise):
        optimizer.keep_anchors()
    _track(optimizer, _ids(scalars.values()))
    for name in ("_trainable_variables", *slots):
        setattr(optimizer, name, [])
    optimizer._trainable_variables_indices = {}
    optimizer.built = False


def _track(optimizer, ids):
    """Keeps these of the optimizer's variables.

    In a new list, and so with a new tracker, as in the constructor:
    TensorFlow saves no list from which something was taken, and none that
    a tracker has wrapped and that grows, as slots do on Keras 3.8.
    """
    kept = [v for v in optimizer._variables if id(v) in ids]
    tracker = vars(optimizer).pop("_tracker")
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
