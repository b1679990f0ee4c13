"""One line an epoch, in Keras's style, with the phase named."""

import sys

from finetune_keras.data.printable import printable
from finetune_keras.models.summary import TrainableSummary
from finetune_keras.training.history import as_text
from finetune_keras.training.observer import Observer


class Progress(Observer):
    """Prints what a run does.

    Args:
        plan: A `Plan`.
        verbose: As for `model.fit`: 0 is silent, 1 moves with the steps in a
            terminal, 2 prints only whole lines.
        groups: The `LayerGroups` of the model.
        place: The `RunState`.
    """

    def __init__(self, plan, verbose, groups, place):
        self.plan, self.groups, self.place = plan, groups, place
        self.verbose = 1 if verbose == "auto" else int(verbose)
        self.live = self.verbose == 1 and sys.stdout.isatty()
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
        if self.trains:
            cache = self.place.phase["cache"]
            self._print(f"{self.trains}; prefix cache: {cache}")
            self.trains = None

    def end_phase(self):
        # One that the closed form has ended has no `fit`.
        self.begin_fit(None)

    def begin_epoch(self, epoch):
        self.label = f"Epoch {epoch + 1}/{self.total} [{self.name}]"

    def end_batch(self, batch, logs):
        """Moves the line on, in a terminal, every few steps."""
        if self.live and batch % 5 == 0:
            numbers = printable(_numbers(logs))
            sys.stdout.write(f"\r{self.label} - step {batch + 1}{numbers}")
            sys.stdout.flush()

    def end_epoch(self, epoch, logs):
        """Writes the line of an epoch."""
        if self.verbose:
            numbers = {k: v for k, v in logs.items() if k not in _LEFT_OUT}
            line = f"{self.label} - {logs['seconds']:.1f}s"
            self._print(f"{line}{_numbers(numbers)}")

    def _print(self, line):
        start = "\r\033[K" if self.live else ""
        print(start + printable(line), flush=True)


_LEFT_OUT = ("epoch", "phase", "seconds")


def _numbers(logs):
    return "".join(f" - {k}: {as_text(v)}" for k, v in logs.items())
