"""What a search has found."""

import pathlib

import keras
import numpy as np

from finetune_keras.arguments import Kind
from finetune_keras.data.facts import DICT, TEXT, object_of, read_json, reading
from finetune_keras.data.figure import new_figure
from finetune_keras.data.layout import Shown, Table, as_text
from finetune_keras.plans.plan import Plan
from finetune_keras.search.trial_file import read_result
from finetune_keras.training.monitor import rises


class Search(Shown):
    """The trials of a search, finished or running, as its folder has them.

    Args:
        directory: String, the folder that `tune` was given.

    Attributes:
        trials: List of dicts, one a trial in the order of their start: `trial`
            (its number), `status` (`"completed"`, `"failed"` or `"running"`),
            `values`, and of completed ones `score`, `scores` (one an
            execution), `metrics`, `best_epochs`, `plan` (a `Plan`) and
            `seconds`; of failed ones `reason` and `traceback`.
        objective: String, the metric.

    Raises:
        ValueError: If the folder holds no search.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x, y = np.random.normal(size=(16, 4)), np.arange(16) % 2

    def build(hp):
        body = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
        return ft.replace_head(body, 2)

    ft.tune(build, (x, y), (x, y), ft.search_space(groups=0, epochs=1),
            max_trials=1, directory="search", verbose=0)
    search = ft.Search("search")              # in another process, or later
    print(search.table(), search.trials[0]["scores"])
    ```
    """

    def __init__(self, directory):
        self.folder = pathlib.Path(directory)
        path = self.folder / "search.json"
        if not path.exists():
            raise ValueError(
                "The folder holds no search. Give it the `directory` of "
                f"`ft.tune`. Received: directory={str(directory)!r}"
            )
        facts = read_json(path, {"objective": TEXT, "algorithm": TEXT})
        self.objective = facts["objective"]
        with reading(path):
            rises(self.objective)
        self.algorithm = facts["algorithm"]
        self.trials = [
            _read(file) for file in self.folder.glob("trial_*/trial.json")
        ]
        self.trials.sort(key=lambda trial: trial["trial"])

    def table(self):
        """Returns the trials as a table, the best first.

        Returns:
            String: score (with the standard deviation over the executions),
            plan, seconds, and the values of what was varied; below it why
            trials failed.
        """
        return _Text(as_text(self._table()))

    def _table(self):
        varied = self._varied()
        rows = [
            [row["trial"], self._score(row), _plan(row), _seconds(row)]
            + [_value(row["values"].get(name)) for name in varied]
            for row in self.ranked()
        ]
        header = ["trial", self.objective, "plan", "seconds", *varied]
        failed = [
            f"Trial {row['trial']} failed: {row['reason']}"
            for row in self.trials
            if row["status"] == "failed"
        ]
        return [Table(header, rows), *failed]

    def ranked(self):
        """Returns the trials as a list, the best first, failed ones last."""
        sign = -1 if rises(self.objective) else 1
        order = ("completed", "running", "failed")
        return sorted(
            self.trials,
            key=lambda row: (
                order.index(row["status"]),
                sign * row.get("score", 0),
                row["trial"],
            ),
        )

    def best(self, rank=1, safe_mode=True):
        """Loads the model and the plan of the best trial.

        Of several executions of a trial it is the best one.

        Args:
            rank: Integer, 1 for the best trial, 2 for the next. Defaults to
                `1`.
            safe_mode: Boolean, as for `keras.models.load_model`: models with
                a `HubLayer` or a `Lambda` layer need `False`. Defaults to
                `True`.

        Returns:
            `(model, plan)`: a compiled `keras.Model` with the weights of its
            best epoch and what was frozen then, and the `Plan` that led there.

        Raises:
            ValueError: If there is no such trial, or its model is no longer
                kept.
        """
        row = self._completed(rank)
        path = self.folder / row["folder"] / "model.keras"
        if not path.exists():
            raise ValueError(
                "The model is no longer on disk: only the best ones are kept. "
                "Pass a higher `keep` to `ft.tune`. "
                f"Received: rank={rank!r}"
            )
        model = keras.models.load_model(path, safe_mode=safe_mode)
        return model, row["plan"]

    def plot(self):
        """Draws the score against each part that was varied.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        names = [None, *self._varied()]
        wide = min(len(names), 4)
        high = -(-len(names) // wide)
        figure = new_figure(3.2 * wide, 2.8 * high)
        for i, name in enumerate(names, start=1):
            axes = figure.add_subplot(high, wide, i)
            self._draw(axes, name)
            axes.set_xlabel("trial" if name is None else name)
            if i % wide == 1 or wide == 1:
                axes.set_ylabel(self.objective)
        return figure

    def _layout(self):
        counts = [
            f"{len(found)} {status}"
            for status in ("completed", "failed", "running")
            for found in [[r for r in self.trials if r["status"] == status]]
            if found
        ]
        text = f"{self.algorithm} search: {', '.join(counts) or 'no trial yet'}"
        return [text, *(self._table() if self.trials else ())]

    # === Inside ===

    def _completed(self, rank):
        rows = [r for r in self.ranked() if r["status"] == "completed"]
        if not 1 <= rank <= len(rows):
            reasons = {r["reason"] for r in self.trials if "reason" in r}
            raise ValueError(
                f"The search has {len(rows)} completed trials of "
                f"{len(self.trials)}. Failed ones are none to choose from"
                f"{': ' if reasons else ''}{'; '.join(sorted(reasons))}. "
                f"Received: rank={rank!r}"
            )
        return rows[rank - 1]

    def _varied(self):
        """Names of what has more than one value, or is not there for all."""
        names = dict.fromkeys(k for row in self.trials for k in row["values"])
        found = []
        for name in names:
            values = {str(row["values"].get(name)) for row in self.trials}
            if len(values) > 1 and not name.startswith("tuner/"):
                found.append(name)
        if any("tuner/epochs" in row["values"] for row in self.trials):
            found.append("tuner/epochs")
        return found

    def _score(self, row):
        if row["status"] != "completed":
            return row["status"]
        text = f"{row['score']:.4f}"
        if len(row["scores"]) > 1:
            text += f" ± {np.std(row['scores'], ddof=1):.4f}"
        return text

    def _draw(self, axes, name):
        rows = [
            row
            for row in self.trials
            if row["status"] == "completed"
            and (name is None or name in row["values"])
        ]
        x = [r["trial"] if name is None else r["values"][name] for r in rows]
        if any(isinstance(value, (str, bool)) for value in x):
            x = [str(value) for value in x]
        axes.plot(x, [row["score"] for row in rows], "o", markersize=4)
        numbers = [v for v in x if not isinstance(v, str)]
        if numbers and min(numbers) > 0 and max(numbers) >= 50 * min(numbers):
            axes.set_xscale("log")


class _Text(str):
    """A string that a notebook shows with its line breaks."""

    __slots__ = ()

    def __repr__(self):
        return str(self)


_TRIAL = {
    "trial_id": Kind("a number as text", lambda v: str(v).isdecimal()),
    "hyperparameters": object_of(values=DICT),
}


def _read(file):
    trial = read_json(file, _TRIAL)
    row = {
        "trial": int(trial["trial_id"]),
        "folder": file.parent.name,
        "status": "running",
        "values": trial["hyperparameters"]["values"],
    }
    result = file.with_name("result.json")
    if result.exists():
        row.update(read_result(file.parent))
    if "plan" in row:
        with reading(result):
            row["plan"] = Plan.from_dict(row["plan"])
    return row


def _plan(row):
    if "plan" not in row:
        return "-"
    return " > ".join(f"{p.name}: {p.epochs}" for p in row["plan"])


def _seconds(row):
    return f"{row['seconds']:.1f}" if "seconds" in row else "-"


def _value(value):
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else value
