"""The end of a phase that does not improve any more."""

from finetune_keras.training.observer import Observer


class Patience(Observer):
    """Ends a phase once its `patience` is over.

    Args:
        best: The `Best` of the run, which says what improves.
        place: The `RunState`.
    """

    def __init__(self, best, place):
        self.best, self.place, self.patience = best, place, None
        self.value, self.wait, self.ends_phase = None, 0, False

    def begin_phase(self, phase):
        self.patience, self.ends_phase = phase.patience, False
        if not self.place.phase_epoch:
            self.value, self.wait = None, 0

    def end_epoch(self, epoch, logs):
        value = self.best.seen
        if value is None:
            return
        if self.value is None or self.best.is_better(value, self.value):
            self.value, self.wait = value, 0
            return
        self.wait += 1
        if self.patience and self.wait >= self.patience:
            self.ends_phase = True

    def state(self):
        return {"value": self.value, "wait": self.wait}

    def load_state(self, state):
        self.value, self.wait = state["value"], state["wait"]
