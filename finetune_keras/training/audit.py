"""Proof of what moved in a phase, and what did not."""

import hashlib

import keras
import numpy as np


class Audit:
    """Compares the weights of a model before and after a phase.

    Frozen weights and statistics are remembered as digests, trained ones as
    copies, so that the memory it takes is that of what trains.

    Args:
        model: A `keras.Model` whose flags are those of the phase.
        groups: List of `LayerGroup`s of the model.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft
    from finetune_keras.training.audit import Audit

    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(x))
    ft.freeze(model, "body")
    audit = Audit(model, ft.layer_groups(model))
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
    print(audit.check())
    ```
    """

    def __init__(self, model, groups):
        self.groups = groups
        trained = {id(v) for v in model.trainable_variables}
        moving = {id(v) for g in groups for v in _statistics(g)}
        self.before = {
            id(v): _copy(v) if id(v) in trained | moving else _digest(v)
            for group in groups
            for v in group.variables
        }
        self.trained = trained
        self.moving = moving

    def check(self):
        """Compares the weights with those remembered.

        Returns:
            Dict from the name of each group to a dict with `trained`, a
            boolean, and `change`, the Euclidean norm of the change.

        Raises:
            RuntimeError: If a frozen weight or statistic has moved, or a
                group that trains has not.
        """
        ledger = {}
        for group in self.groups:
            change = self._change(group)
            trained = any(id(v) in self.trained for v in group.variables)
            ledger[group.name] = {"trained": trained, "change": change}
            if trained and change == 0:
                raise RuntimeError(
                    f"The layer group {group.name!r} trains in this phase and "
                    "has not moved at all. Is it cut off from the loss, its "
                    "learning rate 0, or its activation dead?"
                )
        return ledger

    def _change(self, group):
        total = 0.0
        for variable in group.variables:
            before = self.before[id(variable)]
            if isinstance(before, bytes):
                if before != _digest(variable):
                    raise RuntimeError(
                        f"The frozen weight {variable.path!r} of the layer "
                        f"group {group.name!r} has moved in this phase. "
                        "Something else than the optimizer assigns to it."
                    )
            elif id(variable) in self.trained:
                after = _copy(variable).astype("float64")
                total += float(np.sum((after - before) ** 2))
        return total**0.5


def _statistics(group):
    """Statistics of the BatchNorm layers that train."""
    return [
        variable
        for layer in group.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        for variable in layer.non_trainable_variables
    ]


def _copy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def _digest(variable):
    values = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()
