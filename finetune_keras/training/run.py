"""One run of a plan."""

import contextlib
import math

import keras

from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.engine.fit_state import sync_state
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.engine.retrace import retrace
from finetune_keras.engine.versions import most_epochs
from finetune_keras.engine.workers import is_chief
from finetune_keras.models.freezing import TrainOnly
from finetune_keras.models.model import keep_trainable_set
from finetune_keras.training.audit import PhaseAudit
from finetune_keras.training.best import Best, NoNumber, Patience, check_monitor
from finetune_keras.training.callback_state import CallbackState
from finetune_keras.training.closed_form_head import ClosedFormHead
from finetune_keras.training.compiled import compile_with, sets_rates
from finetune_keras.training.history import as_plain
from finetune_keras.training.identity import facts_of
from finetune_keras.training.inputs import Inputs, graph_for
from finetune_keras.training.memory import Memory
from finetune_keras.training.observer import Observers
from finetune_keras.training.optimizers import is_layerwise, multipliers_by_path
from finetune_keras.training.phase_work import PhaseWork
from finetune_keras.training.progress import Progress
from finetune_keras.training.rate_clock import RateClock
from finetune_keras.training.relay import Relay, UserCallbacks
from finetune_keras.training.run_state import RunState


class Run:
    """One run of a plan, phase after phase.

    Each phase sets what trains, makes its work of model and data, and calls
    `fit` until it is over. What follows from that is the matter of observers,
    whom the run tells of each step: rates, the best epoch, patience, the
    audit, the lines that are printed, the user's callbacks, and the folder, if
    the run has one.

    Args:
        groups: The `LayerGroups` of a compiled `keras.Model`.
        plan: A `Plan`.
        train: Training data, as in `fine_tune`.
        validation: Validation data, or `None`.
        cache: Dict, see `cache_options`.
        fit: Dict, further arguments of `fine_tune`, see `check_fit`.
        folder: String, folder of a run that may go on, or `None`. Defaults to
            `None`.
    """

    def __init__(
        self, groups, plan, train, validation, cache, fit, folder=None
    ):
        model, fit = groups.model, dict(fit)
        self.groups, self.model, self.plan = groups, model, plan
        self.train_only = TrainOnly(groups)
        self.cache, self.fit, self.work = cache, fit, None
        # The phase that has named the optimizer of now, and the one before.
        self.named, self.compiled = None, model.optimizer
        # Of several processes the chief alone has the folder.
        self.folder = folder if is_chief(model) else None
        self.callbacks = fit.pop("callbacks")
        self.stop_after = min(
            fit.pop("stop_after", None) or math.inf,
            most_epochs() or math.inf,
        )
        monitor = check_monitor(plan, fit.pop("monitor", None), validation)
        mode, verbose = fit.pop("mode", "auto"), fit.pop("verbose", "auto")
        self.data = _inputs(model, train, validation, fit)
        self.flat = FlatModel(groups, graph_for(*self.data))
        self.start, self.state = ClosedFormHead(model, plan), RunState(monitor)
        self.rates = RateClock(model, plan, self.state)
        skips = fit.get("validation_freq", 1) != 1
        clock = not self.rates.is_compiled
        self.best = Best(monitor, groups, mode, skips, clock)
        self.audit = PhaseAudit(groups, self.rates)
        self.progress = Progress(plan, verbose, groups, self.state)
        self.observers = Observers(self._observers())
        self.memory = contextlib.nullcontext()
        if folder is not None:
            self.memory = self._in_folder(folder)
            self.observers = Observers([self.memory, self.observers])

    def _observers(self):
        """Lists the observers, in the order of what begins."""
        callbacks = UserCallbacks(
            self.callbacks,
            self.model,
            self.rates,
            self.progress.total,
            self.fit.get("steps_per_epoch"),
        )
        patience = Patience(self.best, self.state)
        seen = self.progress, patience, self.best, self.state, self.audit
        return [*seen, self.rates, callbacks]

    def _in_folder(self, folder):
        """Makes the observer that lets a run go on in another process."""
        facts = facts_of(
            self.model, self.plan, self.data, self.cache, self.fit,
            self.callbacks, [self.best.monitor, self.best.rising],
        )  # fmt: skip
        data = [inputs for inputs in self.data if inputs is not None]
        self.observers.add(CallbackState(self.callbacks))
        observers = self.observers
        return Memory(folder, facts, self.model, self.state, data, observers)

    @property
    def phase(self):
        """The `Phase` that runs."""
        return self.plan[self.state.index]

    # === Phases ===

    def run(self):
        """Runs what is left of the plan; returns the history."""
        with self.memory:
            try:
                self.observers.begin()
                self._run_phases()
                self.observers.end()
            except BaseException as error:
                self._give_up(error)
                raise
            finally:
                self._put_optimizer_back()
        keep_trainable_set(self.model)
        return self.state.history

    def _run_phases(self):
        if self.state.index >= 0:
            self._run_phase()  # the run goes on, or stops where it did
        for index in range(self.state.index + 1, len(self.plan)):
            if self._is_due():
                self.state.enter(index, self.plan[index])
                self._run_phase()

    def _run_phase(self):
        self._set_trainable()
        self.observers.begin_phase(self.phase)
        if not self._goes_on():
            return
        self._make_work()
        if self.state.index == self.state.epoch == 0:
            self._start_head()
        if self._goes_on():
            self.work.build(resumable=self.observers.needs_pauses)
        while self._goes_on():
            self._run_segment()
            if self._is_open():
                self.observers.pause()
        self.observers.end_phase()
        if self.best.returns and self.best.epoch is not None:
            self.state.phase["restored"] = self.best.epoch
        self.state.history.ledger[self.state.index :] = [self.audit.ledger]
        # One that was only stopped goes on from where it was.
        if not self._is_open():
            self.observers.pause()

    def _is_open(self):
        """Tells whether the phase has epochs left, in this call or a later."""
        ended = self.state.over or self.state.stopped
        return not ended and self.state.phase_epoch < self.phase.epochs

    def _goes_on(self):
        return self._is_open() and self._is_due()

    def _is_due(self):
        return not self.state.stopped and self.state.epoch < self.stop_after

    def _set_optimizer(self):
        """Has the model compiled with what the plan has named last."""
        phases = self.plan[: self.state.index + 1]
        named = [i for i, phase in enumerate(phases) if phase.optimizer]
        if not named or named[-1] == self.named:
            return
        self.named = named[-1]
        optimizer = self.plan[self.named].make_optimizer()
        compile_with(self.model, optimizer, self.plan)
        self.rates.renew()
        if self.named == self.state.index and not self.state.phase_epoch:
            # What was kept belongs to the one before.
            self.best.optimizer_values = None

    def _put_optimizer_back(self):
        if self.named is not None:
            compile_with(self.model, self.compiled, self.plan)
            retrace(self.model)

    def _set_trainable(self):
        self._set_optimizer()
        phase, optimizer = self.phase, self.model.optimizer
        self.train_only(phase.select(self.groups), phase.batch_norm)
        if sets_rates(self.plan) and is_layerwise(optimizer):
            inner = inner_optimizer(optimizer)
            decay = phase.layerwise_lr_decay
            own = phase.multipliers or {}
            multipliers = multipliers_by_path(self.groups, decay, own)
            inner.set_multipliers(self.model, multipliers)
        retrace(self.model)

    def _make_work(self):
        # What the phase before has stored goes before more is.
        self.work = None
        self.work = PhaseWork(self.flat, *self.data, self.cache, self.folder)
        self.state.phase["cache"] = self.work.report

    def _start_head(self):
        """Solves the head, if it is due, and with it may end the phase."""
        solved = False
        if self.start.is_due:
            weights = self.fit.get("class_weight")
            with self.flat.opened():
                solved = self.start.solve(*self.work.first_pass(), weights)
        if self.plan.head_initializer:
            self.state.phase["head_initializer"] = self.start.report
        if solved:
            self.best.keep()
            self.state.over = True
            self.progress.total -= self.phase.epochs
        if self.start.is_solved:
            # It competes with the epochs to come.
            logs = {} if self.data[1] is None else self.work.evaluate()
            logs = {f"val_{name}": as_plain(x) for name, x in logs.items()}
            self.state.phase["solved"] = logs
            if self.best.monitor in logs:
                self.best.offer(-1, self.best.value_of(logs))
            if self.best.monitor == "val_loss":
                self.best.noise = self.start.noise_of(self.work)
            self.state.note(self.observers, self.best)

    def _give_up(self, error):
        """Saves what the run has found, whatever ended it."""
        if self.work is not None:
            # What cannot be read any more is replaced just below.
            with contextlib.suppress(ValueError):
                sync_state(self.work.target)
        self.observers.fail()
        self.state.note(self.observers, self.best)
        with contextlib.suppress(AttributeError):
            error.history = self.state.history

    # === One call of fit ===

    def _run_segment(self):
        """Runs the phase on, or one epoch where each must stand alone."""
        alone = self.observers.needs_pauses or self.stop_after < math.inf
        alone = alone or self.work.num_views > 1
        left = self.phase.epochs - self.state.phase_epoch
        epochs = 1 if alone else left
        self.observers.begin_fit(self.work)
        begun, final = self.state.epoch, epochs == left
        with contextlib.nullcontext() if final else self._keep_weights():
            self._fit(epochs)
        self.state.note(self.observers, self.best)
        if self.state.epoch == begun:
            raise RuntimeError(
                f"`fit` ran none of the epochs from {begun + 1} on. Does a "
                "callback such as `BackupAndRestore` set where it begins? "
                "Leave it out, and give `fine_tune` a `checkpoint_dir`."
            )

    def _fit(self, epochs):
        target = self.work.target
        target.history, self.model.stop_training = None, False
        relay = Relay(target, self.observers, self.callbacks)
        try:
            with self.work.readable(), self.work.telling():
                target.fit(
                    **self.work.fit_arguments(self.state.phase_epoch, self.fit),
                    callbacks=keras.callbacks.CallbackList([relay]),
                    initial_epoch=self.state.epoch,
                    epochs=self.state.epoch + epochs,
                    verbose=0,
                )
        except NoNumber as error:
            raise self._diverged(error) from None

    @contextlib.contextmanager
    def _keep_weights(self):
        """Keeps `fit` from writing the moving averages over the weights."""
        members = vars(self.model.optimizer)
        members["finalize_variable_values"] = lambda variables: None
        try:
            yield
        finally:
            del members["finalize_variable_values"]

    def _diverged(self, error):
        rate, phase = self.rates.rate_of(error.batch), self.phase.name
        return FloatingPointError(
            f"{error} in epoch {error.epoch + 1}, {error.step}, phase "
            f"{phase!r}, at a learning rate of {rate:.3g}. The model and its "
            "optimizer are as they were at the best epoch until then. Try a "
            "lower rate, or `clipnorm`; look for bad values in the data."
        )


def _inputs(model, train, validation, fit):
    """Reads the data of a run; takes from `fit` what is for it alone."""
    batch_size = fit.pop("batch_size", None)
    steps = fit.get("steps_per_epoch")
    train = Inputs(train, model, "train", batch_size, steps)
    train.shuffle = fit.get("shuffle", True)
    if validation is not None:
        steps = fit.get("validation_steps")
        validation = Inputs(validation, model, "validation", batch_size, steps)
    return train, validation
