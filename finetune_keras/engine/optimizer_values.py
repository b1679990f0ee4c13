"""What an optimizer holds, by the weights that it trains."""

import keras
import numpy as np

from finetune_keras.engine.fit_state import renew_functions
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.engine.start_counts import (
    family,
    set_start_iterations,
    start_iterations,
)

_AVERAGES = "_model_variables_moving_average"
# The plan and callbacks set it, whatever epoch is the best one.
_RATE = "_learning_rate"
_CLOCK = "_iterations"


def optimizer_values(optimizer, places):
    """Copies all state of an optimizer but for its learning rate.

    Empty where the optimizer is not built. Keys hold the places of the
    weights in the model, by their `id`, which last while others begin to
    train.
    """
    if not optimizer.built:
        return {}
    state = _variables(optimizer, places)
    return {key: copy_of(variable) for key, variable in state.items()}


def restore_optimizer(model, values, places, clock=True):
    """Gives an optimizer what `optimizer_values` returned.

    What it did not hold then is made as new: it began to train later. With
    `clock` the count of steps goes back too.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        return
    state = _variables(optimizer, places)
    if not state.keys() <= values.keys():
        values = {**_fresh_values(optimizer, places), **values}
    for key, variable in state.items():
        if clock or not key.endswith(_CLOCK):
            variable.assign(values[key])
    if clock:
        _start_no_later(model)


def copy_of(variable):
    """Copies a variable: on torch an array would share its memory."""
    return np.array(keras.ops.convert_to_numpy(variable))


def _variables(optimizer, places):
    """Dict from a key to a variable of an optimizer."""
    found = {}
    for number, member in enumerate(family(optimizer)):
        trained = member._trainable_variables
        for name, value in vars(member).items():
            if isinstance(value, keras.Variable) and name != _RATE:
                found[f"{number}/{name}"] = value
            if not is_slots(name, value, len(trained)):
                continue
            for variable, slot in zip(trained, value, strict=True):
                place = places.get(id(variable))
                if slot is not None and place is not None:
                    found[f"{number}/{name}/{place}"] = slot
    return found


def is_slots(name, value, length):
    """Tells whether an attribute has an entry for each trained variable."""
    return (
        isinstance(value, list)
        and len(value) == length
        and name not in ("_variables", "_trainable_variables")
        and all(v is None or isinstance(v, keras.Variable) for v in value)
    )


def _fresh_values(optimizer, places):
    """What a new optimizer of the same settings would hold."""
    fresh = type(optimizer).from_config(optimizer.get_config())
    trained = optimizer._trainable_variables
    fresh.build(trained)
    values = optimizer_values(fresh, places)
    # Keras starts averages at zero, and ends a fit by making them the weights.
    weights = {places[id(v)]: v for v in trained if id(v) in places}
    for key in values:
        _, name, *place = key.split("/")
        if name == _AVERAGES:
            values[key] = copy_of(weights[int(place[0])])
    return values


def _start_no_later(model):
    """Lets no variable wait for the step at which it once began."""
    # Keras 3.8 does not count the steps of an optimizer that wraps another.
    counting = inner_optimizer(model.optimizer)
    now = int(keras.ops.convert_to_numpy(counting.iterations))
    starts = start_iterations(model.optimizer)
    if any(start > now for counts in starts for start in counts):
        counts = [[min(start, now) for start in counts] for counts in starts]
        set_start_iterations(model.optimizer, counts)
        renew_functions(model)
