"""The factor on the learning rate of each layer."""

import math

from finetune_keras.engine import graph
from finetune_keras.models.layer_groups import as_groups


def multipliers_by_path(model, decay, multipliers):
    """Works out the multiplier of each weight of a model, by path.

    `decay` is a factor for each layer group, from the head down; `multipliers`
    a dict from a selection of layers to a float, which comes after it.
    """
    check_decay(decay)
    groups, by_variable = as_groups(model), {}
    if decay is not None:
        for distance, group in enumerate(reversed(groups)):
            for variable in group.variables:
                by_variable[id(variable)] = decay**distance
    for layers, multiplier in multipliers.items():
        _check_multiplier(layers, multiplier)
        for layer in groups.select(layers):
            for variable in graph.own_variables(layer):
                by_variable[id(variable)] = float(multiplier)
    return values_by_path(groups.model, by_variable, 1.0, "learning rates")


def values_by_path(model, by_variable, default, what):
    """Turns values by `id` into values by path, if paths tell them apart."""
    by_path = {}
    for variable in model.weights:
        value = by_variable.get(id(variable), default)
        if by_path.setdefault(variable.path, value) != value:
            raise ValueError(
                "Two variables have the same path and would have different "
                f"{what}; rename one of their layers. Received: path="
                f"{variable.path!r} with {by_path[variable.path]} and {value}"
            )
    return by_path


def check_decay(decay):
    """Refuses a decay out of its range."""
    if decay is not None and not 0 < decay <= 1:
        raise ValueError(
            "`decay` is a factor for each layer group and must be greater than "
            "0 and at most 1; freeze the layers that must not move. "
            f"Received: decay={decay!r}"
        )


def _check_multiplier(layers, multiplier):
    if not 0 <= multiplier < math.inf:
        raise ValueError(
            "A multiplier of the learning rate must be a finite float of at "
            f"least 0. Received: multipliers={{{layers!r}: {multiplier!r}}}"
        )
