"""What a run prints, in Keras's style, with the phase named."""

import sys

import keras
import numpy as np

from finetune_keras.data.printable import printable
from finetune_keras.models.summary import TrainableSummary
from finetune_keras.training.history import as_plain, as_text
from finetune_keras.training.observer import Observer


class Progress(Observer):
    """Prints what a run does.

    Args:
        plan: A `Plan`.
        verbose: As for `model.fit`: 0 is silent, 1 is Keras's bar in a
            terminal and in a notebook, 2 prints a line an epoch, and so does 1
            anywhere else.
        groups: The `LayerGroups` of the model.
        place: The `RunState`.
    """

    def __init__(self, plan, verbose, groups, place):
        self.plan, self.groups, self.place = plan, groups, place
        self.verbose = 1 if verbose == "auto" else int(verbose)
        moves = sys.stdout.isatty() or "ipykernel" in sys.modules
        self.live = self.verbose == 1 and moves
        self.bar, self.steps, self.seen = None, None, 0
        self.total = sum(phase.epochs for phase in plan)
        self.name, self.label, self.trains = None, None, None

    def begin_phase(self, phase):
        if self.verbose:
            summary = TrainableSummary(self.groups)
            self.name = printable(phase.name)
            self.trains = (
                f"Phase {self.place.index + 1}/{len(self.plan)} "
                f"[{self.name}]: trains {summary.num_trainable:,} of "
                f"{summary.num_params:,} parameters"
            )

    def begin_fit(self, work):
        """Says what the phase trains, and what became of the cache."""
        self.steps = work and work.num_batches
        if self.trains:
            cache = self.place.phase["cache"]
            self._print(f"{self.trains}; prefix cache: {cache}")
            self.trains = None

    def end_phase(self):
        # One that the closed form has ended has no `fit`.
        self.begin_fit(None)

    def begin_epoch(self, epoch):
        self.bar = None
        self.label = f"Epoch {epoch + 1}/{self.total} [{self.name}]"
        if self.live:
            self._print(self.label)

    def end_batch(self, batch, logs):
        """Moves the bar on, every few steps."""
        self.seen = batch + 1
        if not self.live or batch % 5:
            return
        values = _values(logs)
        if self.bar is None:
            # What Keras tells of a step is a mean already.
            names = [name for name, _ in values]
            self.bar = keras.utils.Progbar(self.steps, stateful_metrics=names)
        self.bar.update(self.seen, values, finalize=False)

    def end_epoch(self, epoch, logs):
        """Ends the bar, or writes the line of an epoch."""
        told = {k: v for k, v in logs.items() if k not in _LEFT_OUT}
        if self.bar is not None:
            self.bar.update(self.seen, _values(told), finalize=True)
        elif self.verbose:
            numbers = [f" - {k}: {as_text(v)}" for k, v in told.items()]
            line = f"{self.label} - {logs['seconds']:.1f}s"
            self._print(line + "".join(numbers))

    def _print(self, line):
        print(printable(line), flush=True)


_LEFT_OUT = ("epoch", "phase", "seconds")


def _values(logs):
    """Lists names and values for a bar; of one for each class, the mean."""
    return [
        (printable(k), float(np.mean(as_plain(v)))) for k, v in logs.items()
    ]
