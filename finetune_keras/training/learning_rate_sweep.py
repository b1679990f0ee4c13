"""What a sweep of learning rates found: its losses, and the rates to take."""

import numpy as np

from finetune_keras.data.figure import new_figure
from finetune_keras.data.layout import Curves, Shown


class LearningRateSweep(Shown):
    """What `find_learning_rate` found.

    Attributes:
        learning_rates: Array of floats, one for each step of the sweep.
        losses: Array of floats, the loss of the batch of each step.
        smoothed_losses: Array of floats, a moving average of `losses`.
        diverged: Boolean, whether the sweep ended early because the loss grew
            fourfold or was not finite.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    rates = np.geomspace(1e-5, 1, 40)
    losses = 1 - np.tanh(np.linspace(-3, 3, 40))
    sweep = ft.LearningRateSweep(rates, losses, losses, diverged=False)
    print(sweep.suggestion, sweep.steepest)
    ```
    """

    def __init__(self, learning_rates, losses, smoothed_losses, diverged):
        self.learning_rates = np.asarray(learning_rates)
        self.losses = np.asarray(losses)
        self.smoothed_losses = np.asarray(smoothed_losses)
        self.diverged = diverged

    @property
    def suggestion(self):
        """Float, the learning rate to start with: `valley`."""
        return self.valley

    @property
    def valley(self):
        """Float, halfway down the longest stretch on which the loss falls."""
        rates, losses = self._middle()
        end, length = _longest_descent(losses)
        third = length / 3
        return float(rates[end - length + int(third) + int(third / 2)])

    @property
    def steepest(self):
        """Float, where the loss falls fastest over the logarithmic rate."""
        rates, losses = self._middle()
        _longest_descent(losses)
        slopes = np.diff(losses) / np.diff(np.log(rates))
        return float(rates[:-1][slopes.argmin()])

    def _middle(self):
        """Cuts the noisy start and the divergence off the smoothed curve."""
        count = len(self.losses)
        cut = slice(count // 10, count - 5) if count > 15 else slice(None)
        return self.learning_rates[cut], self.smoothed_losses[cut]

    def plot(self):
        """Draws the loss over the learning rate, with both suggestions if any.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it. Save it with
            `figure.savefig(path)`.
        """
        figure = new_figure(6.4, 4.8)
        axes = figure.subplots()
        axes.plot(self.learning_rates, self.losses, alpha=0.3, label="loss")
        axes.plot(self.learning_rates, self.smoothed_losses, label="smoothed")
        for (rate, label), style in zip(self._marks(), "-:", strict=False):
            axes.axvline(rate, color="black", linestyle=style, label=label)
        axes.set_xscale("log")
        axes.set_ylim(*_limits(self.smoothed_losses))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.legend()
        return figure

    def _marks(self):
        """Lists the suggestions with their names, none where none is."""
        try:
            rates = {"valley": self.valley, "steepest": self.steepest}
        except ValueError:
            return []
        return [(rate, f"{name}: {rate:.2g}") for name, rate in rates.items()]

    def _layout(self):
        low, high = _limits(self.smoothed_losses)
        losses = np.clip(self.losses, low, high)
        smoothed = np.clip(self.smoothed_losses, low, high)
        lines = [("loss", self.learning_rates, losses)]
        lines.append(("smoothed", self.learning_rates, smoothed))
        title = repr(self)[1:-1]
        return [Curves(title, "learning rate", lines, self._marks(), True)]

    def __repr__(self):
        try:
            found = f"suggestion={self.suggestion:.2g}"
        except ValueError:
            found = "no suggestion: the loss never fell"
        low, high = self.learning_rates[[0, -1]]
        end = ", diverged" if self.diverged else ""
        return (
            f"<LearningRateSweep {found}, {len(self.losses)} steps from "
            f"{low:.2g} to {high:.2g}{end}>"
        )

    __str__ = __repr__


def _longest_descent(losses):
    """Returns the last position and the length of the longest fall.

    A fall may be interrupted: it is the longest decreasing subsequence.
    """
    lengths = np.ones(len(losses), int)
    for i in range(1, len(losses)):
        higher = losses[:i] > losses[i]
        lengths[i] += lengths[:i][higher].max(initial=0)
    end = int(lengths.argmax())
    if lengths[end] < 2:
        raise ValueError(
            "The loss never fell in the sweep, so no learning rate can be "
            "suggested. Look at `plot()`, sweep a wider range, or check the "
            "data and what is frozen."
        )
    return end, int(lengths[end])


def _limits(losses):
    low, high = losses.min(), max(losses[0], np.median(losses))
    margin = 0.2 * (high - low) or 1.0
    return low - margin, high + margin
