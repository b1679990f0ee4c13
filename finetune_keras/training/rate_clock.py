"""The learning rate of a run, from step to step."""

import warnings

import keras

from finetune_keras.engine import backend
from finetune_keras.engine.fit_state import renew_functions
from finetune_keras.engine.layers import own_rate, raw_iterations, replace_rate
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.training.compiled import check_schedule
from finetune_keras.training.observer import Observer


class RateClock(Observer):
    """Gives each step of a phase the rate that the plan has for it.

    A schedule is a factor in the train step, by the steps that the optimizer
    has made in the phase. `optimizer.learning_rate` reads as the rate of the
    next step. What a callback assigns to it is taken for that: the rest of the
    schedule is scaled alike.

    Args:
        model: Compiled `keras.Model`.
        plan: A `Plan`.
        place: The `RunState`.

    Attributes:
        compiled: Float, the rate that the optimizer was compiled with.
        usual: Float, the same of the optimizer that trains now.
        num_steps: Integer, steps an epoch, or `None` where the data does not
            tell and no epoch has been counted.
    """

    def __init__(self, model, plan, place):
        self.model, self.plan, self.place = model, plan, place
        self.is_compiled = check_schedule(plan, model.optimizer)
        self.renew()
        self.compiled = self.base = self.usual
        self.start = keras.Variable(
            0, dtype="int32", trainable=False, name="start"
        )
        self.phase, self.target = None, None
        self.num_steps, self.factor, self.waits = None, None, False
        self.before, self.batches = 0, 0

    def renew(self):
        """Takes over the optimizer that the model is compiled with now."""
        optimizer = self.model.optimizer
        self.optimizer = inner_optimizer(optimizer)
        self.usual = self._own_rate()
        self.weight_decay = self.optimizer.weight_decay

    # === Phases and epochs ===

    def begin_phase(self, phase):
        """Begins a phase, or goes on with it."""
        self.phase, begins = phase, not self.place.phase_epoch
        if begins:
            self.start.assign(self._steps())
        if begins and not self.is_compiled:
            rate = phase.learning_rate or self.usual
            self.optimizer.learning_rate = rate
        if phase.weight_decay is not None:
            self.optimizer.weight_decay = phase.weight_decay
        self.base = self._own_rate()

    def begin_fit(self, work):
        self.target = work.target
        self.num_steps = work.num_batches or self.num_steps
        if self.factor is None and not self.phase.has_one_rate:
            self._set_factor()

    def begin_epoch(self, epoch):
        self.before = self._steps()
        if self.waits and self.num_steps:
            self._set_factor()
            renew_functions(self.target)
        # TensorFlow counts a step where data ends unforeseen, and none where
        # gradients overflow. JAX has the start in its trace.
        if self.num_steps and not backend.on("jax"):
            done = self.place.phase_epoch * self.num_steps
            self.start.assign(self.before - done)

    def end_batch(self, batch, logs):
        self.batches = batch + 1

    def end_epoch(self, epoch, logs):
        """Tells the rate of the last step."""
        self.num_steps = self.num_steps or self.batches
        logs["learning_rate"] = self.rate_of(self.batches - 1)

    def end_phase(self):
        """Leaves the optimizer with a rate that stands still."""
        decays = self.optimizer.weight_decay != self.weight_decay
        if self.factor is not None or decays:
            self.factor, self.waits = None, False
            replace_rate(self.optimizer, None)
            self.optimizer.weight_decay = self.weight_decay
            renew_functions(self.model)

    def end(self):
        """Ends a schedule on the model's own rate with that rate."""
        phase = self.phase
        if phase.learning_rate is None and not phase.has_one_rate:
            self.optimizer.learning_rate = self.usual

    def fail(self):
        self.end_phase()
        if self.phase is not None:
            self.end()

    # === Steps ===

    def rate_of(self, batch):
        """Returns the rate of a step of this epoch, a float."""
        if self.factor is None:
            return self.base
        step = self.before - _int(self.start) + batch
        return self.base * float(self.factor(step))

    def adopt(self):
        """Takes over what a callback has assigned to the rate."""
        value = self._own_rate()
        if self.factor is not None and value != self.base:
            share = float(self.factor(self._steps() - _int(self.start)))
            # Nothing follows a share of 0, the end of a cosine.
            self.optimizer.learning_rate = value / (share or 1.0)
            value = self._own_rate()
        self.base = value

    def adopt_in_epoch(self):
        """Does so after a batch, where variables can be read then."""
        if self.factor is not None and not backend.on("jax"):
            self.adopt()

    def _set_factor(self):
        phase = self.phase
        self.waits = not self.num_steps
        if self.waits:
            _warn_of_one_rate(phase)
            middle = self.place.phase_epoch + 0.5
            share = float(phase.rate_factor(phase.epochs, 0.0)(middle))
            self.factor = lambda step: share
        else:
            self.factor = phase.rate_factor(phase.epochs * self.num_steps)
        # Keras asks for it in each step that it traces.
        replace_rate(self.optimizer, self._now)

    def _now(self):
        rate = own_rate(self.optimizer)
        return rate * self.factor(raw_iterations(self.optimizer) - self.start)

    def _own_rate(self):
        """The rate without the factor."""
        rate = own_rate(self.optimizer)
        return float(keras.ops.convert_to_numpy(rate))

    def _steps(self):
        """Batches so far; `iterations` leaves out those accumulated."""
        return _int(raw_iterations(self.optimizer))

    # === Resume ===

    def state(self):
        return {
            "compiled": self.compiled,
            "num_steps": self.num_steps,
            "start": _int(self.start),
        }

    def load_state(self, state):
        """Refuses another rate of the model's own, where a phase takes it."""
        own = any(phase.learning_rate is None for phase in self.plan)
        rows, before = self.place.history.epochs, state["compiled"]
        known = [before, *(row["learning_rate"] for row in rows)]
        if own and not self.is_compiled and self.compiled not in known:
            raise ValueError(
                "The folder holds the state of another run: its learning rate "
                f"was {before:.3g} and is {self.compiled:.3g}. Compile the "
                "model with the same, or give this run an empty folder. "
                f"Received: learning_rate={self.compiled:.3g}"
            )
        self.compiled = self.usual = before
        self.num_steps = state["num_steps"]
        self.start.assign(state["start"])


def _int(variable):
    return int(keras.ops.convert_to_numpy(variable))


def _warn_of_one_rate(phase):
    warnings.warn(
        "How many batches `train` has is not known before the first epoch, "
        f"and the {phase.schedule!r} schedule goes by step: that epoch has "
        "one rate, that of its middle. Pass `steps_per_epoch`, or say it with "
        "`dataset.apply(tf.data.experimental.assert_cardinality(n))`.",
        UserWarning,
        stacklevel=2,
    )
