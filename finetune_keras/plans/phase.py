"""A phase of a plan: what trains, at which rate, for how long."""

import copy

from finetune_keras.data.layout import Shown, Table
from finetune_keras.plans.phase_checks import CHECKS, checked, make_optimizer
from finetune_keras.plans.schedules import rate_factor


class Phase(Shown):
    """One step of a `Plan`: what trains, at which rate, for how long.

    Layers that a phase does not name are frozen while it runs.

    Args:
        layers: What trains, as plain data, one of
            - `"head"`, `"backbone"` or `"all"`;
            - the name of a layer group or else of a layer, or a regular
              expression on the whole layer path, as in `select_layers`;
            - an integer n of at least 0: the head and the last n groups before
              it, or the last n groups of a model without a head;
            - a list of strings of these kinds.
        epochs: Positive integer, the most epochs that the phase runs. Defaults
            to `1`.
        learning_rate: Positive float. `None` is the rate of the optimizer, as
            compiled. Defaults to `None`.
        patience: Positive integer. After that many epochs in which the
            monitored validation value did not improve, the plan moves on.
            `None` runs all epochs. Defaults to `None`.
        layerwise_lr_decay: Float in (0, 1]. Factor on the learning rate for
            each group further from the head. `None` is one rate for all layers.
            Defaults to `None`.
        batch_norm: `"frozen"` keeps `BatchNormalization` outside the head in
            inference mode, `"train"` trains what `layers` names of it, as in
            `unfreeze`. Defaults to `"frozen"`.
        schedule: `"constant"`, or, from step to step over all epochs of the
            phase, `"linear"` or `"cosine"` (down to 0) or `"one_cycle"`, see
            `learning_rate_at`. Defaults to `"constant"`.
        warmup_fraction: Float in [0, 1). Share of the steps of the phase in
            which the rate rises to the full one, in a straight line, before
            the schedule begins. `None` is 0, but for `"one_cycle"` 0.25.
            Defaults to `None`.
        multipliers: Dict from strings, such as the names of layer groups, to
            positive floats: factors on the learning rate of these layers, in
            place of what `layerwise_lr_decay` says, see `layerwise_optimizer`.
            `None` is none. Defaults to `None`.
        weight_decay: Float of at least 0, decoupled as in AdamW, of all
            weights that train but biases and normalisation. `None` is that of
            the optimizer. Defaults to `None`.
        optimizer: Name of a Keras optimizer, or one with settings: an
            optimizer or its serialized form, which is kept. It trains from
            this phase on, without any state; its own rate is taken where
            `learning_rate` is `None`. `None` goes on with that of the phase
            before, in the first with the compiled one, which the model has
            again when the plan is over. Defaults to `None`.
        restore_best_weights: Boolean, whether the phase ends with the weights
            of the best epoch so far, from which the next goes on. `None` does
            so where there is a `patience`. Defaults to `None`.

    Raises:
        ValueError: If an argument has the wrong type or is out of range.

    Example:

    ```python
    import keras, finetune_keras as ft

    phase = ft.Phase(2, epochs=10, learning_rate=1e-4, schedule="cosine")
    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    print([layer.name for layer in phase.select(ft.layer_groups(model))])
    print([phase.learning_rate_at(epoch) for epoch in range(10)])
    ```
    """

    def __init__(
        self,
        layers,
        epochs=1,
        learning_rate=None,
        patience=None,
        layerwise_lr_decay=None,
        batch_norm="frozen",
        schedule="constant",
        warmup_fraction=None,
        multipliers=None,
        weight_decay=None,
        optimizer=None,
        restore_best_weights=None,
    ):
        self.layers = checked("layers", layers)
        self.epochs = checked("epochs", epochs)
        self.learning_rate = checked("learning_rate", learning_rate)
        self.patience = checked("patience", patience)
        self.layerwise_lr_decay = checked(
            "layerwise_lr_decay", layerwise_lr_decay
        )
        self.batch_norm = checked("batch_norm", batch_norm)
        self.schedule = checked("schedule", schedule)
        self.warmup_fraction = checked("warmup_fraction", warmup_fraction)
        self.multipliers = checked("multipliers", multipliers)
        self.weight_decay = checked("weight_decay", weight_decay)
        self.optimizer = checked("optimizer", optimizer)
        self.restore_best_weights = checked(
            "restore_best_weights", restore_best_weights
        )

    @property
    def name(self):
        """String, what trains, as in `"head"` or `"head + last 2 groups"`."""
        layers = self.layers
        if isinstance(layers, int) and layers > 0:
            return f"head + last {layers} group{'s' if layers > 1 else ''}"
        if layers == 0:
            return "head"
        name = layers if isinstance(layers, str) else ", ".join(layers)
        return name if len(name) <= 40 else f"{name[:37]}..."

    @property
    def returns_to_best(self):
        """Boolean, whether the phase ends with the best weights so far."""
        if self.restore_best_weights is None:
            return self.patience is not None
        return self.restore_best_weights

    @property
    def optimizer_name(self):
        """String, the optimizer of this phase alone, or `None`."""
        value = self.optimizer
        return value["class_name"] if isinstance(value, dict) else value

    @property
    def settings(self):
        """String, what else than rate and schedule is set, or `""`."""
        parts = {
            "warm-up": self.warmup_fraction,
            "multipliers": self.multipliers,
            "weight decay": self.weight_decay,
            "optimizer": self.optimizer_name,
        }
        given = {name: x for name, x in parts.items() if x is not None}
        return ", ".join(f"{name} {value}" for name, value in given.items())

    def make_optimizer(self):
        """Makes the optimizer of this phase alone, or returns `None`."""
        return self.optimizer and make_optimizer(self.optimizer)

    def select(self, groups):
        """Finds the layers that this phase trains. Changes no flag.

        Args:
            groups: The `LayerGroups` of a model.

        Returns:
            List of leaf layers with weights, in the order of the model.
            `BatchNormalization` that stays frozen is not among them.

        Raises:
            ValueError: If `layers` matches nothing in the model, or nothing
                that can train.
        """
        check_groups(groups)
        return groups.to_train(self.layers, self.batch_norm)

    @property
    def has_one_rate(self):
        """Boolean, whether all steps have the same learning rate."""
        return self.rate_factor(self.epochs) is None

    def rate_factor(self, num_steps, step_size=1.0):
        """Makes the function from a step of this phase to a share of its rate.

        Args:
            num_steps: Integer, the steps of all epochs of the phase.
            step_size: Float, 0 for a step counted in epochs. Defaults to `1.0`.

        Returns:
            A function, or `None` where all steps have the full rate.
        """
        return rate_factor(
            self.schedule, num_steps, self.warmup_fraction, step_size
        )

    def learning_rate_at(self, epoch, learning_rate=None):
        """Computes the learning rate of a step, before any decay by depth.

        - `"constant"`: the same in all steps.
        - `"linear"`: a straight line from the full rate in the first step to 0
          where a step after the last would follow.
        - `"cosine"`: half a cosine between the same two.
        - `"one_cycle"`: the cycle that `OneCycle` makes: up from 1/25 of the
          rate in the first quarter of the phase, or `warmup_fraction` of it,
          then down to 1/100,000, both as half cosines.

        A `warmup_fraction` comes before the first three: a straight line from
        0, in which a step has the rate of its end, and the schedule over the
        steps that are left.

        Args:
            epoch: Number, where in this phase the step is, in epochs from 0:
                2 is the first step of the third epoch, 2.5 one amid it.
            learning_rate: Positive float, taken where the phase has none of
                its own: the rate of the compiled optimizer. Defaults to `None`.

        Returns:
            Float, or `None` for a constant rate that neither the phase nor
            `learning_rate` names: that of the optimizer stays.

        Raises:
            ValueError: If the phase has no such epoch, or its schedule has no
                rate to start from.
        """
        if not 0 <= epoch < self.epochs:
            raise ValueError(
                f"The phase has {self.epochs} epochs, counted from 0. "
                f"Received: epoch={epoch!r}"
            )
        rate = self.learning_rate
        if rate is None:
            rate = checked("learning_rate", learning_rate)
        factor = self.rate_factor(self.epochs, step_size=0.0)
        if factor is None:
            return rate
        if rate is None:
            raise ValueError(
                f"The phase has a {self.schedule!r} schedule and no learning "
                "rate of its own to start from. Pass that of the compiled "
                "optimizer. Received: learning_rate=None"
            )
        return rate * float(factor(epoch))

    def to_dict(self):
        """Returns a dict of the arguments, of plain values only."""
        return copy.deepcopy({name: getattr(self, name) for name in CHECKS})

    def __eq__(self, other):
        if not isinstance(other, Phase):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __repr__(self):
        parts = [f"{name}={x!r}" for name, x in self._chosen().items()]
        return f"Phase({', '.join([repr(self.layers), *parts])})"

    __str__ = __repr__

    def _chosen(self):
        """Dict of the arguments that are not as by default."""
        defaults = Phase(self.layers).to_dict()
        return {n: x for n, x in self.to_dict().items() if x != defaults[n]}

    def _layout(self):
        rows = [("epochs", self.epochs), *self._chosen().items()]
        rows = [[name.replace("_", " "), x] for name, x in dict(rows).items()]
        return [Table(["phase", self.name], rows)]


def check_groups(groups):
    """Refuses what is not the layer groups of a model."""
    if not hasattr(groups, "to_train"):
        raise ValueError(
            "A plan knows no model, only layer groups: pass "
            "`ft.layer_groups(model)`. "
            f"Received: {groups!r} of type {type(groups).__name__}"
        )
