"""One run of a plan."""

import contextlib
import math
import time

import keras
import numpy as np

from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.engine.fit_state import sync_state
from finetune_keras.engine.relay import Relay
from finetune_keras.engine.retrace import retrace
from finetune_keras.models.freezing import TrainOnly
from finetune_keras.models.model import keep_trainable_set
from finetune_keras.training import resume
from finetune_keras.training.audit import Audit
from finetune_keras.training.best import Best, check_monitor
from finetune_keras.training.callback_state import CallbackState
from finetune_keras.training.compiled import is_layerwise
from finetune_keras.training.head_start import HeadStart
from finetune_keras.training.history import as_plain
from finetune_keras.training.inputs import Inputs
from finetune_keras.training.multipliers import multipliers_by_path
from finetune_keras.training.phase_work import PhaseWork
from finetune_keras.training.progress import Progress
from finetune_keras.training.rate_clock import RateClock
from finetune_keras.training.run_folder import (
    restore_run,
    save_run,
    take_order_of,
)
from finetune_keras.training.run_state import RunState


class Run:
    """One run of a plan: it leads the phases, and watches each epoch.

    Args:
        groups: The `LayerGroups` of a compiled `keras.Model`.
        plan: A `Plan`.
        train: Training data, as in `fine_tune`.
        validation: Validation data, or `None`.
        cache: Dict, see `cache_options`.
        fit: Dict, further arguments of `fine_tune`, see `check_fit`.
    """

    def __init__(self, groups, plan, train, validation, cache, fit):
        model = groups.model
        self.groups, self.full, self.plan = groups, model, plan
        self.flat, self.cache, self.fit = FlatModel(groups), cache, dict(fit)
        self.relay = Relay(self, self.fit.pop("callbacks"))
        monitor = check_monitor(plan, self.fit.pop("monitor", None), validation)
        mode = self.fit.pop("mode", "auto")
        self.stop_after = min(
            self.fit.pop("stop_after", None) or math.inf,
            keras.config.max_epochs() or math.inf,
        )
        data = _inputs(model, train, validation, self.fit)
        self.train, self.validation = data
        self.state = RunState(monitor)
        frequency = self.fit.get("validation_freq", 1)
        self.best = Best(monitor, model, mode, frequency)
        self.rates = RateClock(model, plan)
        self.train_only = TrainOnly(groups)
        # Without any, the multipliers of the user's own optimizer hold.
        self.decays = any(phase.layerwise_lr_decay for phase in plan)
        self.progress = Progress(plan, self.fit.pop("verbose", "auto"))
        self.checkpoint, self.remembered, self.start = None, None, None
        # Of the phase, and of the epoch, that runs.
        self.work, self.phase, self.phase_seeds = None, None, None
        self.logs, self.started, self.batches = None, None, 0

    @property
    def history(self):
        """The `FineTuneHistory`."""
        return self.state.history

    # === Phases ===

    def run(self):
        """Runs what is left of the plan; returns the history."""
        saved = self.checkpoint.load() if self.checkpoint else None
        self.start = HeadStart(self.full, self.plan)
        if saved is not None:
            restore_run(self, *saved)
        steps = self.fit.get("steps_per_epoch")
        try:
            self.relay.begin(self.full, self.progress.total, steps)
            if self.checkpoint:
                self.remembered = CallbackState(self.relay.callbacks)
            if saved is not None:
                self.remembered.unpack(saved[0]["callbacks"], saved[1])
            self._run_phases(saved)
            self.relay.end(self.logs)
        except BaseException as error:
            self._give_up(error)
            raise
        if self.history.best_epoch is not None:
            self.best.restore(clock=not self.rates.is_compiled)
        keep_trainable_set(self.full)
        return self.history

    def _run_phases(self, saved):
        for index in range(self.state.index, len(self.plan)):
            # What a folder holds is read even if nothing is left to do.
            if saved is None and not self._is_due():
                break
            self.phase = self.plan[index]
            if saved is None:
                self.state.begin_phase(index, self.phase.name)
            try:
                self._run_phase(saved)
            finally:
                self.rates.end_phase()
            saved = None
        self.rates.end(self.phase)

    def _run_phase(self, saved):
        self._set_trainable(self.phase)
        retrace(self.full)
        if saved is not None:
            resume.unpack_training(self.full, *saved)
        self.best.watch(self.groups)
        if saved is not None and not self._goes_on():
            return  # it was stopped just behind the end of the phase
        # Before a resumed phase goes on, its own beginning is out of reach.
        audit = Audit(self.groups)
        self._begin_phase(saved)
        while self._goes_on():
            self._run_segment()
            if self.checkpoint and self._goes_on():
                save_run(self)
        ledger = audit.check(self.rates.base)
        self.history.ledger[self.state.index :] = [ledger]
        # None has been judged where validation is rarer than phases.
        judged = self.history.best_epoch is not None
        if self.phase.patience is not None and judged:
            self.best.restore(clock=not self.rates.is_compiled)
        if self.checkpoint:
            save_run(self)

    def _begin_phase(self, saved):
        """Makes what the phase trains on, and solves the head if it is due."""
        state = self.state
        self._cut_as_at_first(saved)
        state.phase["cache"] = self.work.report
        self.work.build(resumable=self.checkpoint is not None)
        if state.index == state.epoch == 0 and self._start_head():
            state.over = True
            self.progress.total -= self.phase.epochs
        self.progress.begin_phase(state.index, self.groups, state.phase)
        batches = self.work.num_batches
        self.rates.begin_phase(self.phase, state.phase_epoch, batches)

    def _give_up(self, error):
        """Saves what the run has found, whatever ended it."""
        if self.work is not None:
            # What cannot be read any more is replaced just below.
            with contextlib.suppress(ValueError):
                sync_state(self.work.target)
        self.best.restore()
        if self.phase is not None:
            self.rates.end(self.phase)
        with contextlib.suppress(AttributeError):
            error.history = self.history

    def _goes_on(self):
        in_phase = self.state.phase_epoch < self.phase.epochs
        return not self.state.over and in_phase and self._is_due()

    def _is_due(self):
        return not self.state.stopped and self.state.epoch < self.stop_after

    def _set_trainable(self, phase):
        self.train_only(phase.select(self.groups), phase.batch_norm)
        optimizer = self.full.optimizer
        if self.decays and is_layerwise(optimizer):
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            decay = phase.layerwise_lr_decay
            multipliers = multipliers_by_path(self.groups, decay, {})
            inner.set_multipliers(self.full, multipliers)

    def _cut_as_at_first(self, saved):
        """Cuts with the random state in which the phase began."""
        if self.checkpoint is None:
            self._cut(None)
            return
        seeds = resume.seed_states(self.full)
        if saved is not None:
            now = resume.pack("now", seeds)
            resume.unpack("seed", saved[1], seeds)
        self.phase_seeds = resume.pack("seed", seeds)
        keras.utils.set_random_seed(self.state.seed - 1 - self.state.index)
        take_order_of(self, self.state.phase["first_epoch"])
        self._cut(self.checkpoint.folder)
        if saved is not None:
            resume.unpack("now", now, seeds)

    def _cut(self, folder):
        # What the phase before has stored goes before more is.
        self.work, data = None, (self.train, self.validation)
        self.work = PhaseWork(self.flat, *data, self.cache, folder)

    def _start_head(self):
        """Tells whether the closed form has done what the phase is for."""
        solved = False
        if self.start.is_due:
            with self.flat.opened():
                solved = self.start.solve(*self.work.first_pass())
        if self.plan.head_start:
            self.state.phase["head_start"] = self.start.report
        if solved:
            self.best.keep()
        if solved and self.validation is not None:
            self._judge_start()
        return solved

    def _judge_start(self):
        """Lets the solved head compete with the epochs to come."""
        logs = self.work.evaluate()
        logs = {f"val_{name}": as_plain(x) for name, x in logs.items()}
        self.state.phase["solved"] = logs
        if self.history.monitor in logs:
            self._offer(-1, self.best.value_of(logs))

    def _offer(self, epoch, value):
        """Keeps an epoch, if none was better so far."""
        if self.best.offer(value, self.history.best_value):
            self.history.best_epoch = epoch
            self.history.best_value = value

    # === One call of fit ===

    def _run_segment(self):
        """Runs the phase on, or one epoch where each must stand alone."""
        may_stop = self.checkpoint is not None or self.stop_after < math.inf
        alone = may_stop or self.work.num_views > 1
        left = self.phase.epochs - self.state.phase_epoch
        epochs = 1 if alone else left
        if self.checkpoint:
            # What is random in an epoch then hangs on its number alone.
            keras.utils.set_random_seed(self.state.seed + self.state.epoch)
            take_order_of(self, self.state.epoch)
        begun, final = self.state.epoch, epochs == left
        with contextlib.nullcontext() if final else self._keep_weights():
            self._fit(epochs)
        if self.state.epoch == begun:
            raise RuntimeError(
                f"`fit` ran none of the epochs from {begun + 1} on. Does a "
                "callback such as `BackupAndRestore` set where it begins? "
                "Leave it out, and give `fine_tune` a `checkpoint_dir`."
            )

    def _fit(self, epochs):
        target = self.work.target
        target.history, self.full.stop_training = None, False
        with self.work.readable(), self.work.telling():
            target.fit(
                **self.work.fit_arguments(self.state.phase_epoch, self.fit),
                callbacks=keras.callbacks.CallbackList([self.relay]),
                initial_epoch=self.state.epoch,
                epochs=self.state.epoch + epochs,
                verbose=0,
            )

    @contextlib.contextmanager
    def _keep_weights(self):
        """Keeps `fit` from writing the moving averages over the weights."""
        members = vars(self.full.optimizer)
        members["finalize_variable_values"] = lambda variables: None
        try:
            yield
        finally:
            del members["finalize_variable_values"]

    # === What happens in it ===

    def begin_epoch(self, epoch):
        """Begins an epoch, before the callbacks of the user."""
        self.rates.begin_epoch(self.work.target, self.state.phase_epoch)
        self.started = time.perf_counter()
        self.progress.begin_epoch(epoch)

    def end_batch(self, batch, logs):
        """Looks at the loss of a batch."""
        self.batches = batch + 1
        if not np.isfinite(logs.get("loss", 0.0)):
            what, step = f"The loss became {logs['loss']}", f"step {batch + 1}"
            raise self._diverged(what, self.state.epoch, batch, step)
        self.progress.step(batch, logs)

    def end_epoch(self, epoch, logs):
        """Remembers an epoch, and judges it."""
        state, self.logs = self.state, logs
        row = {
            "epoch": epoch,
            "phase": state.index,
            **{name: as_plain(value) for name, value in logs.items()},
            "learning_rate": self.rates.end_epoch(self.batches),
            "seconds": time.perf_counter() - self.started,
        }
        state.end_epoch(row)
        self._judge(epoch, logs)
        self.progress.end_epoch(row)
        self.look_for_a_stop()
        state.phase["stopped"] |= state.stopped
        self.work.target.stop_training = state.over or state.stopped

    def look_for_a_stop(self):
        """Ends the run where a callback of the user's says so."""
        if getattr(self.full, "stop_training", False):
            self.state.stopped = True
            self.work.target.stop_training = True

    def _judge(self, epoch, logs):
        value = self.history.monitor and self.best.value_of(logs)
        try:
            if self.history.monitor is None:
                self.best.keep()
            elif value is not None:
                self._offer(epoch, value)
        except FloatingPointError as error:
            last = self.batches - 1
            raise self._diverged(error, epoch, last, "its end") from None
        if value is not None:
            improves = self.best.is_better
            self.state.judge(value, improves, self.phase.patience)

    def _diverged(self, what, epoch, batch, step):
        rate = self.rates.rate_of(batch)
        phase = self.state.phase["name"]
        return FloatingPointError(
            f"{what} in epoch {epoch + 1}, {step}, phase {phase!r}, at a "
            f"learning rate of {rate:.3g}. The model and its optimizer are as "
            "they were at the best epoch until then. Try a lower rate, or "
            "`clipnorm`; look for bad values in the data."
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
