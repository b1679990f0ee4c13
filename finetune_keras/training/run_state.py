"""Where a run is: what a later process must know to go on."""

from finetune_keras.training.history import FineTuneHistory

_PLAIN = (
    "seed",
    "index",
    "epoch",
    "phase_epoch",
    "wait",
    "phase_best",
    "over",
    "stopped",
)


class RunState:
    """The place of a run in its plan, and what has happened so far.

    Plain data, which the loop alone writes.

    Args:
        monitor: String, the metric by which the best epoch is chosen, or
            `None`.

    Attributes:
        history: `FineTuneHistory`.
        seed: Integer, of all that is random in a run that may be resumed, or
            `None`.
        index: Integer, the phase, from 0.
        epoch: Integer, epochs that have ended, in all phases.
        phase_epoch: Integer, epochs that have ended in this phase.
        wait: Integer, the last epochs of the phase without improvement.
        phase_best: Float, the best value of the phase, or `None`.
        over: Boolean, whether the phase has ended before its last epoch.
        stopped: Boolean, whether a callback has ended the run.
    """

    def __init__(self, monitor):
        self.history = FineTuneHistory(monitor)
        self.seed = None
        self.index = 0
        self.epoch, self.phase_epoch = 0, 0
        self.wait, self.phase_best = 0, None
        self.over, self.stopped = False, False

    @property
    def phase(self):
        """Dict, what the history says of the phase."""
        return self.history.phases[-1]

    def begin_phase(self, index, name):
        """Begins a phase, which may end at once."""
        self.index, self.phase_epoch = index, 0
        self.wait, self.phase_best, self.over = 0, None, False
        self.history.phases.append(
            {
                "name": name,
                "first_epoch": self.epoch,
                "last_epoch": self.epoch,
                "stopped": False,
                "cache": "",
            }
        )

    def end_epoch(self, row):
        """Ends an epoch, with its row of the history."""
        self.history.epochs.append(row)
        self.phase["last_epoch"] = self.epoch
        self.epoch, self.phase_epoch = self.epoch + 1, self.phase_epoch + 1

    def judge(self, value, improves, patience):
        """Waits for an improvement, as long as the phase has patience.

        Args:
            value: Float, the monitored value of an epoch.
            improves: Function from two values to whether the first is better.
            patience: Integer, or `None`.
        """
        if self.phase_best is None or improves(value, self.phase_best):
            self.phase_best, self.wait = value, 0
            return
        self.wait += 1
        if patience and self.wait >= patience:
            self.over = self.phase["stopped"] = True

    def to_dict(self):
        """Returns all of it as plain data."""
        history = {"history": self.history.get_config()}
        return {name: getattr(self, name) for name in _PLAIN} | history

    @classmethod
    def from_dict(cls, data):
        """Makes a state of what `to_dict` returned."""
        state = cls(data["history"]["monitor"])
        state.history = FineTuneHistory.from_config(data["history"])
        for name in _PLAIN:
            setattr(state, name, data[name])
        return state
