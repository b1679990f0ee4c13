"""What follows a run from beginning to end, and is told of each step."""

import functools


class Observer:
    """Follows a run; this one does nothing.

    The loop tells all observers of what happens, in their order of what
    begins, and the other way round of what ends. Each writes into itself
    alone, and into the logs of an epoch, as callbacks of Keras do.

    Attributes:
        ends_phase: Boolean, whether the phase is to end.
        ends_run: Boolean, whether the run is to end.
        needs_pauses: Boolean, whether each epoch is to be a `fit` of its own.
    """

    ends_phase = ends_run = needs_pauses = False

    def begin(self):
        """The run begins, or goes on."""

    def begin_phase(self, phase):
        """What trains in a `Phase` is set, and no weight has moved yet."""

    def begin_fit(self, work):
        """A `fit` begins on the `PhaseWork` of the phase."""

    def begin_epoch(self, epoch):
        """An epoch begins; they are counted over all phases, from 0."""

    def end_batch(self, batch, logs):
        """A batch has been trained on."""

    def end_epoch(self, epoch, logs):
        """An epoch has ended, with a dict of metrics."""

    def pause(self):
        """No `fit` runs, and another process could go on from here."""

    def end_phase(self):
        """The phase has ended."""

    def end(self):
        """The run has ended."""

    def fail(self):
        """An error has ended the run."""

    def state(self):
        """Returns what must be remembered, as plain data and arrays."""

    def load_state(self, state):
        """Takes what `state` returned, with the flags of its phase set."""


class Observers(Observer):
    """Several observers, told as one.

    Args:
        observers: List of `Observer`s.
    """

    def __init__(self, observers):
        self.observers = list(observers)
        for name in _BEGINNINGS:
            setattr(self, name, functools.partial(self._tell, name, 1))
        for name in _ENDS:
            setattr(self, name, functools.partial(self._tell, name, -1))

    def add(self, observer):
        """Adds an observer, the last in the order of what begins."""
        self.observers.append(observer)

    def _tell(self, name, order, *what):
        for observer in self.observers[::order]:
            getattr(observer, name)(*what)

    @property
    def ends_phase(self):
        return any(one.ends_phase for one in self.observers)

    @property
    def ends_run(self):
        return any(one.ends_run for one in self.observers)

    @property
    def needs_pauses(self):
        return any(one.needs_pauses for one in self.observers)

    def state(self):
        states = {type(one).__name__: one.state() for one in self.observers}
        return {name: x for name, x in states.items() if x is not None}

    def load_state(self, state):
        for one in self.observers:
            if type(one).__name__ in state:
                one.load_state(state[type(one).__name__])


_BEGINNINGS = "begin", "begin_phase", "begin_fit", "begin_epoch", "end_batch"
_ENDS = "end_epoch", "pause", "end_phase", "end", "fail"
