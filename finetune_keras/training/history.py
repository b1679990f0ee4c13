"""What happened in a run: epochs, phases, the ledger of changes, a figure."""

import keras
import numpy as np

from finetune_keras.data.figure import as_label, new_figure
from finetune_keras.data.layout import Curves, Shown, Table
from finetune_keras.data.printable import printable
from finetune_keras.training.findings import find


class FineTuneHistory(Shown):
    """History of `fine_tune`.

    Attributes:
        epochs: List of dicts, one an epoch: `epoch` and `phase` (counted from
            0), `learning_rate`, that of its last step, `seconds`, and the
            metrics of Keras; one with a value for each class, such as
            `keras.metrics.F1Score()`, is a list of them.
        phases: List of dicts, one a phase: `name`, `first_epoch`,
            `last_epoch`, `stopped` (`True` when a plateau ended it),
            `cache`, a sentence on the prefix cache, and `settings`, what the
            plan says beyond rate and schedule; where it ended with the best
            weights so far, `restored`, their epoch; of the first one also
            `head_initializer`, how the head was solved, and `solved`, the
            metrics right after it.
        ledger: List of dicts, one a phase: group name to a dict with
            `trained` and `change`, the norm of the change of its weights; of
            a group that trained and has not moved also `note`, a sentence.
        monitor: String, the metric that the best epoch is chosen by.
        best_epoch: Integer, the epoch whose weights the model has now; -1 is
            the head solved in closed form, before the first one.
        best_value: Float, the monitored value of that epoch; of a loss,
            without what the regularisers of weights add to it.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, activation="relu")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    x, y = np.random.normal(size=(16, 4)), np.arange(16) % 2
    plan = ft.Plan([ft.Phase("head", epochs=2, learning_rate=0.01)])
    history = ft.fine_tune(model, plan, (x, y), verbose=0)
    print(history.history["loss"], history.ledger[0]["head"])
    ```
    """

    def __init__(self, monitor):
        self.monitor = monitor
        self.epochs = []
        self.phases = []
        self.ledger = []
        self.best_epoch = None
        self.best_value = None

    @property
    def history(self):
        """Dict from metric to its list of values, as in Keras's `History`."""
        names = [k for row in self.epochs for k in row if k not in _COUNTERS]
        return {
            name: [row.get(name) for row in self.epochs]
            for name in dict.fromkeys(names)
        }

    @property
    def findings(self):
        """List of sentences: what the losses say, with figures and a cure.

        Over-fitting, under-fitting, a rate that is too high, a phase that
        undoes what was reached before it, epochs that gained nothing over the
        solved head, a validation that is too good to be true. Empty where
        there is nothing to say.
        """
        return find(self)

    def get_config(self):
        """Returns all of it as plain data, for a checkpoint or a record."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        """Makes a history from what `get_config` returned."""
        history = cls(config["monitor"])
        vars(history).update(config)
        return history

    @property
    def _solved(self):
        """Dict of metrics of the head that was solved, or `None`."""
        return self.phases[0].get("solved") if self.phases else None

    def _layout(self):
        solved = self._solved
        metrics = list(self.history or solved or ())
        rows = [
            [row["epoch"] + 1, self.phases[row["phase"]]["name"]]
            + [as_text(row.get(name)) for name in metrics]
            for row in self.epochs
        ]
        if solved is not None:
            start = [as_text(solved.get(name)) for name in metrics]
            rows.insert(0, ["solved", self.phases[0]["name"], *start])
        table = Table(["epoch", "phase", *metrics], rows)
        parts = [table, *_own_words(self.phases)]
        if self.best_epoch is not None:
            parts.append(
                f"Best: epoch {self.best_epoch + 1}, "
                f"{printable(self.monitor)} {as_text(self.best_value)}"
            )
        marks = [(p["first_epoch"] + 0.5, p["name"]) for p in self.phases]
        return parts + [
            Curves(name, "epoch", self._lines(name), marks)
            for name in self._names()
        ]

    def plot(self):
        """Draws the curves with the phases marked.

        Of a metric with a value for each class it draws the mean.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        names = self._names()
        figure = new_figure(5 * max(len(names), 1), 3.5)
        for i, name in enumerate(names, start=1):
            self._draw(figure.add_subplot(1, len(names), i), name)
        return figure

    def _names(self):
        names = [*self.history, *(self._solved or ())]
        names = dict.fromkeys(name.removeprefix("val_") for name in names)
        return [n for n in names if n not in ("learning_rate", "seconds")]

    def _lines(self, name):
        """Lists `(label, x, y)` of the curves of a metric."""
        epochs, lines = [row["epoch"] + 1 for row in self.epochs], []
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in self.history:
                values = [_mean(value) for value in self.history[key]]
                lines.append((label, epochs, values))
        if f"val_{name}" in (self._solved or ()):
            solved = _mean(self._solved[f"val_{name}"])
            lines.append(("solved head, validation", [0], [solved]))
        return lines

    def _draw(self, axes, name):
        for label, x, y in self._lines(name):
            axes.plot(x, y, marker="." if len(x) > 1 else "o", label=label)
        for phase in self.phases:
            start = phase["first_epoch"] + 0.5
            axes.axvline(start, color="0.7", linewidth=1)
            axes.annotate(
                as_label(phase["name"]),
                (start, 1.01),
                xycoords=("data", "axes fraction"),
                fontsize=8,
            )
        axes.set(xlabel="epoch", ylabel=as_label(name))
        axes.legend()


_COUNTERS = ("epoch", "phase")


def _own_words(phases):
    """Yields what phases had of their own, and what they went back to."""
    for number, phase in enumerate(phases, 1):
        words = [phase["settings"]] if phase.get("settings") else []
        if phase.get("restored", phase["last_epoch"]) < phase["last_epoch"]:
            words.append(f"ended as after epoch {phase['restored'] + 1}")
        if words:
            name = printable(phase["name"])
            yield f"Phase {number} ({name}): {'; '.join(words)}"


def as_plain(value):
    """Turns a value of a metric into a float, or a list of floats."""
    return np.asarray(keras.ops.convert_to_numpy(value), "float64").tolist()


def as_text(value):
    """Writes a value of a metric; of one for each class, the mean."""
    if value is None:
        return ""
    several = "mean " if np.ndim(as_plain(value)) else ""
    return f"{several}{_mean(value):.4g}"


def _mean(value):
    return np.nan if value is None else float(np.mean(as_plain(value)))
