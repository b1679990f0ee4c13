"""The step count from which each variable's bias is corrected."""

import contextlib
import types

import keras
import numpy as np
from keras import ops


def family(optimizer):
    """Lists an optimizer and those that it wraps, outermost first."""
    inner = getattr(optimizer, "inner_optimizer", None)
    wrapped = [inner] if inner else getattr(optimizer, "optimizers", [])
    return [optimizer] + [o for child in wrapped for o in family(child)]


def start_iterations(optimizer):
    """Returns the step count at which each later added variable started.

    Neither a `.keras` file nor `optimizer.variables` holds it. Store it with
    a checkpoint, and pass it to `set_start_iterations` on resuming.

    Args:
        optimizer: `keras.optimizers.Optimizer`.

    Returns:
        List of lists of integers, for the optimizer and for each that it
        wraps: one count for each trained variable, in order, and 0 where it
        was trained from the first step. Paths are no keys, since models get
        other names when they are built again.
    """
    return [list(_starts(member)) for member in family(optimizer)]


def set_start_iterations(optimizer, starts):
    """Sets the step count at which each later added variable started.

    Call it before the first batch is traced, or `retrace` after it.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`.
        starts: List of lists of integers, see `start_iterations`.

    Raises:
        ValueError: If the optimizer is not built, or trains another number
            of variables.
    """
    members = family(optimizer)
    sizes = [len(member._trainable_variables) for member in members]
    if not optimizer.built or sizes != [len(counts) for counts in starts]:
        raise ValueError(
            "`starts` must have a count for each variable that the optimizer "
            "trains. Set the trainable flags, then call "
            "`optimizer.build(model.trainable_variables)`. "
            f"Received: starts={starts!r}, for {sizes} variables, "
            f"built={optimizer.built}"
        )
    for member, counts in zip(members, starts, strict=True):
        _set_starts(member, list(counts))


def _starts(optimizer):
    none = [0] * len(optimizer._trainable_variables)
    return vars(optimizer).get("_start_iterations", none)


def restore_starts(optimizer, places):
    """Keeps the counts of old variables; new ones start from now."""
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
    if len(family(optimizer)) > 1:
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
