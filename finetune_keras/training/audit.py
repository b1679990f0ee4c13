"""Proof of what moved in a phase, and what did not."""

import hashlib
import warnings

import keras
import numpy as np

from finetune_keras.engine import graph
from finetune_keras.engine.layers import could_train
from finetune_keras.engine.optimizer_values import copy_of
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.models.group_parts import OUTSIDE
from finetune_keras.models.layer_groups import LayerGroups
from finetune_keras.training.observer import Observer


class Audit(keras.callbacks.Callback):
    """Proves what a `fit` of your own has moved, and what it has not.

    What `fine_tune` does for each phase: frozen weights, and statistics of
    frozen `BatchNormalization`, are compared to the bit, and the change of
    each layer group that trains is measured. What trains may change between
    epochs, as by `UnfreezeCallback`; each stretch of epochs in which it does
    not is judged by itself.

    Attributes:
        ledger: List of dicts, one for each stretch, as the `ledger` of
            `FineTuneHistory`: from the name of each layer group to a dict with
            `trained`, a boolean, `change`, the Euclidean norm of the change of
            its weights, and, of a group that trains and has not moved, `note`,
            a sentence.

    Raises:
        RuntimeError: As a stretch ends, if a frozen weight has moved.

    Warns:
        UserWarning: As a stretch ends, if a group that trains has not moved.

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
    audit = ft.Audit()
    model.fit(x, y, epochs=2, callbacks=[audit], verbose=0)
    print(audit.ledger[0]["body"], audit.ledger[0]["head"])
    ```
    """

    def __init__(self):
        super().__init__()
        self.ledger = []

    def on_train_begin(self, logs=None):
        self.ledger, self._flags = [], None
        self._audit = PhaseAudit(LayerGroups(self.model))

    def on_epoch_begin(self, epoch, logs=None):
        self._is_first = True

    def on_train_batch_begin(self, batch, logs=None):
        # By then all callbacks have set what the epoch trains.
        if not self._is_first:
            return
        self._is_first = False
        flags = {id(v) for v in self.model.trainable_variables}
        if flags != self._flags:
            self._end_stretch()
            self._audit.begin_phase(None)
            self._flags = flags

    def on_epoch_end(self, epoch, logs=None):
        self._audit.forget_new()

    def on_train_end(self, logs=None):
        self._end_stretch()

    def _end_stretch(self):
        if self._flags is not None:
            self._audit.end_phase()
            self.ledger.append(self._audit.ledger)


class PhaseAudit(Observer):
    """Compares the weights of a model before and after a phase.

    Frozen weights, and statistics of frozen BatchNorm layers, are remembered
    as digests, trained weights as copies, so that the memory it takes is that
    of what trains. Other state, that layers keep for themselves, such as the
    vectors of `keras.layers.SpectralNormalization`, is not judged.

    A frozen weight that moved is a fault for certain. A group that trains and
    did not move may be one, or the rate is too small for it, or its gradient
    is 0: that is said, and no more.

    Args:
        groups: The `LayerGroups` of a model.
        rates: The `RateClock` of the run, for the warning, or `None`: that of
            the optimizer. Defaults to `None`.

    Attributes:
        ledger: Dict from the name of each group to a dict with `trained`, a
            boolean, `change`, the Euclidean norm of the change, and, of a
            group that trains and has not moved, `note`, a sentence.
    """

    def __init__(self, groups, rates=None):
        self.groups, self.model, self.rates = groups.every, groups.model, rates
        self.trained, self.before, self.updates = set(), {}, 0
        self.ledger = {}

    def begin_phase(self, phase):
        """Remembers the weights, with the flags of the phase."""
        model = self.model
        self.trained = {id(v) for v in model.trainable_variables}
        self.before = {}
        for layer in (x for group in self.groups for x in group.layers):
            for variable in _frozen(layer, self.trained):
                self.before[id(variable)] = _digest(variable)
        for variable in model.trainable_variables:
            self.before[id(variable)] = copy_of(variable)
        # It assigns to the kernel of another layer, frozen or not.
        for layer in graph.all_layers(model):
            if isinstance(layer, keras.layers.SpectralNormalization):
                if id(layer.kernel) not in self.trained:
                    self.before.pop(id(layer.kernel), None)
        self.updates = self._count_updates()

    def end_phase(self):
        """Compares the weights with those remembered.

        Raises:
            RuntimeError: If a frozen weight or statistic has moved.

        Warns:
            UserWarning: If a group that trains has not moved.
        """
        self.ledger, rate = {}, self._rate()
        updates = self._count_updates() - self.updates
        for group in self.groups:
            change = self._change(group)
            trained = any(self._trains(v) for v in group.variables)
            entry = {"trained": trained, "change": change}
            # What no call passes need not have a part in the loss.
            called = group.name != OUTSIDE
            if trained and change == 0 and updates and called:
                entry["note"] = self._note(group, updates, rate)
            self.ledger[group.name] = entry
        _warn(self.ledger)

    def forget_new(self):
        """Leaves out what has begun to train since."""
        for variable in self.model.trainable_variables:
            if id(variable) not in self.trained:
                self.before.pop(id(variable), None)

    def _rate(self):
        if self.rates:
            return self.rates.base
        optimizer = _inner_optimizer(self.model)
        rate = optimizer and keras.ops.convert_to_numpy(optimizer.learning_rate)
        return rate and float(rate)

    def _note(self, group, updates, rate):
        """Says what may be the reason that a group has not moved."""
        note = f"not moved in {updates} update{'s' if updates > 1 else ''}"
        trained = [v for v in group.variables if self._trains(v)]
        steps = [(rate or 0.0) * self._multiplier(v) for v in trained]
        if rate and all(map(_is_below_grain, steps, trained)):
            return (
                f"{note}: a step of about {max(steps):.2g} is lost in the "
                "rounding of its weights"
            )
        return f"{note}: its gradient may be 0"

    def _trains(self, variable):
        moves = id(variable) in self.trained
        return moves and self._multiplier(variable) != 0

    def _multiplier(self, variable):
        optimizer = _inner_optimizer(self.model)
        multiplier = getattr(optimizer, "learning_rate_multiplier", None)
        return 1.0 if multiplier is None else multiplier(variable)

    def _count_updates(self):
        """How often the optimizer has moved the weights, so far as is known.

        Gradients may have been accumulated, or been infinite, and no more.
        """
        optimizer = _inner_optimizer(self.model)
        if optimizer is None:
            return 0
        return int(keras.ops.convert_to_numpy(optimizer.iterations))

    def _change(self, group):
        total = 0.0
        for variable in {id(v): v for v in group.variables}.values():
            before = self.before.get(id(variable))
            if isinstance(before, bytes):
                if before != _digest(variable):
                    raise RuntimeError(
                        f"The frozen weight {variable.path!r} of the layer "
                        f"group {group.name!r} has moved in this phase. "
                        "Something else than the optimizer assigns to it, or "
                        "it was frozen after `compile` and without `retrace`."
                    )
            elif before is not None:
                after = copy_of(variable).astype("float64")
                total += float(np.sum((after - before) ** 2))
        return total**0.5


def _warn(ledger):
    names = {}
    for name, entry in ledger.items():
        if "note" in entry:
            names.setdefault(entry["note"], []).append(name)
    if not names:
        return
    lines = [f"\n  {', '.join(n)}: {note}" for note, n in names.items()]
    warnings.warn(
        "Layer groups that train in this phase have not moved. Likely causes: "
        "a learning rate, or its factor by depth, below the rounding of the "
        "weights; a gradient of 0, by an activation that is dead, a signal "
        "that fades on its way through weights that are not pretrained, or no "
        f"path to the loss; few steps. The run goes on.{''.join(lines)}",
        UserWarning,
        stacklevel=2,
    )


def _is_below_grain(step, variable):
    """Tells whether a step changes none of the weights, as they round."""
    values = np.abs(copy_of(variable).astype("float32"))
    grain = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
    smallest = values.min(initial=np.inf) * grain.get(variable.dtype, 2.0**-24)
    return bool(step < smallest)


def _frozen(layer, trained):
    """Weights of a layer that could train and do not, and what goes along."""
    frozen = [v for v in could_train(layer) if id(v) not in trained]
    if isinstance(layer, keras.layers.BatchNormalization):
        if not layer.trainable:
            frozen += layer.non_trainable_variables
    return frozen


def _inner_optimizer(model):
    optimizer = getattr(model, "optimizer", None)
    return inner_optimizer(optimizer)


def _digest(variable):
    values = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()
