"""Where a run is in its plan, and what has happened so far."""

import time

from finetune_keras.training.history import FineTuneHistory, as_plain
from finetune_keras.training.observer import Observer

_PLAIN = ("index", "epoch", "phase_epoch", "over", "stopped")


class RunState(Observer):
    """The place of a run in its plan, and its history.

    Plain data, which the loop alone writes.

    Args:
        monitor: String, the metric by which the best epoch is chosen, or
            `None`.

    Attributes:
        history: `FineTuneHistory`.
        index: Integer, the phase, from 0; -1 before the first.
        epoch: Integer, epochs that have ended, in all phases.
        phase_epoch: Integer, epochs that have ended in this phase.
        over: Boolean, whether the phase has ended before its last epoch.
        stopped: Boolean, whether a callback has ended the run.
        started: Float, the time at which the epoch began.
    """

    def __init__(self, monitor):
        self.history = FineTuneHistory(monitor)
        self.index = -1
        self.epoch, self.phase_epoch = 0, 0
        self.over, self.stopped, self.started = False, False, 0.0

    @property
    def phase(self):
        """Dict, what the history says of the phase."""
        return self.history.phases[-1]

    def enter(self, index, phase):
        """Enters a phase of the plan, which may end at once."""
        self.index, self.phase_epoch, self.over = index, 0, False
        self.history.phases.append(
            {
                "name": phase.name,
                "first_epoch": self.epoch,
                "last_epoch": self.epoch,
                "stopped": False,
                "cache": "",
                "settings": phase.settings,
            }
        )

    def begin_epoch(self, epoch):
        self.started = time.perf_counter()

    def end_epoch(self, epoch, logs):
        """Puts the epoch into the history."""
        logs["seconds"] = time.perf_counter() - self.started
        metrics = {name: as_plain(value) for name, value in logs.items()}
        row = {"epoch": epoch, "phase": self.index, **metrics}
        self.history.epochs.append(row)
        self.phase["last_epoch"] = epoch
        self.epoch, self.phase_epoch = epoch + 1, self.phase_epoch + 1

    def note(self, observers, best):
        """Takes what observers have found: an end, and the best epoch."""
        self.over |= observers.ends_phase
        self.stopped |= observers.ends_run
        if observers.ends_phase or observers.ends_run:
            self.phase["stopped"] = True
        self.history.best_epoch = best.epoch
        self.history.best_value = best.value

    def state(self):
        history = {"history": self.history.get_config()}
        return {name: getattr(self, name) for name in _PLAIN} | history

    def load_state(self, state):
        self.history = FineTuneHistory.from_config(state["history"])
        for name in _PLAIN:
            setattr(self, name, state[name])
