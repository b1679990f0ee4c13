"""The factor on the learning rate of each layer."""

import math

from finetune_keras.models import graph
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.selection import select_layers


def multipliers_by_path(model, decay, multipliers):
    """Works out the multiplier of each weight of the model, by path."""
    by_variable = {}
    if decay is not None:
        for distance, group in enumerate(reversed(layer_groups(model))):
            for variable in group.variables:
                by_variable[id(variable)] = decay**distance
    for layers, multiplier in multipliers.items():
        _check_multiplier(layers, multiplier)
        for layer in select_layers(model, layers):
            for variable in graph.own_variables(layer):
                by_variable[id(variable)] = float(multiplier)
    by_path = {}
    for variable in model.weights:
        multiplier = by_variable.get(id(variable), 1.0)
        if by_path.setdefault(variable.path, multiplier) != multiplier:
            raise ValueError(
                "Two variables have the same path and would have different "
                "learning rates; rename one of their layers. Received: path="
                f"{variable.path!r} with {by_path[variable.path]} and "
                f"{multiplier}"
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
