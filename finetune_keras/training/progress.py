"""One line an epoch, in Keras's style, with the phase named."""

import sys

from finetune_keras.data.printable import printable
from finetune_keras.models.summary import TrainableSummary
from finetune_keras.training.history import as_text


class Progress:
    """Prints what a run does.

    Args:
        plan: A `Plan`.
        verbose: As for `model.fit`: 0 is silent, 1 moves with the steps in a
            terminal, 2 prints only whole lines.
    """

    def __init__(self, plan, verbose):
        self.plan = plan
        self.verbose = 1 if verbose == "auto" else int(verbose)
        self.live = self.verbose == 1 and sys.stdout.isatty()
        self.total = sum(phase.epochs for phase in plan)
        self.name, self.label = None, None

    def begin_phase(self, index, groups, facts):
        """Says what the phase trains, and what became of the cache."""
        if not self.verbose:
            return
        summary = TrainableSummary(groups)
        self.name = printable(facts["name"])
        self._print(
            f"Phase {index + 1}/{len(self.plan)} [{self.name}]: trains "
            f"{summary.num_trainable:,} of {summary.num_params:,} "
            f"parameters; prefix cache: {facts['cache']}"
        )

    def begin_epoch(self, epoch):
        """Begins the line of an epoch."""
        self.label = f"Epoch {epoch + 1}/{self.total}"

    def step(self, batch, logs):
        """Moves the line on, in a terminal, every few steps."""
        if self.live and batch % 5 == 0:
            numbers = _numbers(logs)
            sys.stdout.write(
                f"\r{self.label} [{self.name}] - step {batch + 1}"
                f"{printable(numbers)}"
            )
            sys.stdout.flush()

    def end_epoch(self, row):
        """Writes the line of an epoch."""
        if not self.verbose:
            return
        logs = {k: v for k, v in row.items() if k not in _LEFT_OUT}
        line = f"{self.label} [{self.name}] - {row['seconds']:.1f}s"
        self._print(f"{line}{_numbers(logs)}")

    def _print(self, line):
        start = "\r\033[K" if self.live else ""
        print(start + printable(line), flush=True)


_LEFT_OUT = ("epoch", "phase", "seconds")


def _numbers(logs):
    return "".join(f" - {k}: {as_text(v)}" for k, v in logs.items())
