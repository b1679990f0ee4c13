"""Two reports on the same data: which model is better, and how surely."""

import numpy as np

from finetune_keras.arguments import check, integer
from finetune_keras.data.layout import Shown, Table
from finetune_keras.engine.packages import scipy
from finetune_keras.results import bootstrap as resampling
from finetune_keras.results.metrics import LOWER_IS_BETTER
from finetune_keras.results.render_text import interval, label, number


def compare(report_a, report_b, bootstrap=1000, seed=0):
    """Compares two models on the same examples.

    Each resample of the examples is drawn for both models at once, so that
    what is hard for both cancels out: the interval of the difference is much
    narrower than the two intervals suggest. Classifications are also compared
    by McNemar's exact test, on the examples that one model got right and the
    other wrong (for several labels: the whole row).

    The examples are matched by their inputs and labels, also where the data
    were shuffled. Where the inputs differ, as for models of other image sizes,
    the labels must agree one by one.

    Args:
        report_a: A `Report`.
        report_b: A `Report`, of the same data. Differences are `b - a`.
        bootstrap: Positive integer, number of resamples. Defaults to `1000`.
        seed: Integer, of the resamples. Defaults to `0`.

    Returns:
        A `Comparison`, which prints as a table and a verdict.

    Raises:
        ValueError: If the reports are on different data, with the reason.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    x = np.eye(3)[y] + rng.normal(0, 0.5, (200, 3))
    good = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    bad = keras.Sequential([
        keras.Input((3,)), keras.layers.GaussianNoise(1.0),
        keras.layers.Dense(3, activation="softmax"),
    ])
    a, b = (ft.evaluate(model, (x, y), verbose=0) for model in (bad, good))
    print(ft.compare(a, b))
    ```

    Reference:

    - [Efron and Tibshirani, 1993](https://doi.org/10.1201/9780429246593)
    - [McNemar, 1947](https://doi.org/10.1007/BF02295996)
    """
    check(bootstrap=(bootstrap, integer(1), "resamples, by which to judge"))
    a, b = report_a.predictions, report_b.predictions
    _check_same_kind(a, b)
    b = b.take(_match(a, b))
    _check_same_labels(a, b)
    drawn = resampling.resample([a, b], bootstrap, seed)
    table = {
        name: _difference(report_a, report_b, name, [d[name] for d in drawn])
        for name in report_a.metrics
    }
    return Comparison(a.task, table, _mcnemar(a, b), len(a))


class Comparison(Shown):
    """What `compare` found.

    Attributes:
        task: The task of both reports, which equals its name.
        metrics: Dict from name to a dict with `a`, `b`, `difference` (`b -
            a`), its 95 % `interval`, and its two-sided bootstrap `p_value`;
            `None` where undefined.
        mcnemar: Dict with `only_a` and `only_b`, the numbers of examples that
            one model alone got right, and `p_value`; `None` for a regression.
        examples: Integer, number of examples.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x = np.random.default_rng(0).normal(size=(50, 3))
    data = x, x.argmax(axis=1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    report = ft.evaluate(model, data, verbose=0)
    print(ft.compare(report, report).verdict)
    ```
    """

    def __init__(self, task, metrics, mcnemar, examples):
        self.task = task
        self.metrics = metrics
        self.mcnemar = mcnemar
        self.examples = examples

    @property
    def better(self):
        """`"a"`, `"b"`, or `None` where the data do not tell.

        The interval of the main metric must leave out zero: accuracy, micro F1
        of several labels, or the RMSE. For accuracy McNemar's p must be below
        0.05 as well.
        """
        name = self.task.main_metric
        row = self.metrics[name]
        if (
            row["interval"] is None
            or row["interval"][0] * row["interval"][1] <= 0
        ):
            return None
        if self.task == "classification" and self.mcnemar["p_value"] >= 0.05:
            return None
        gain = -1 if name in LOWER_IS_BETTER else 1
        return "b" if gain * row["difference"] > 0 else "a"

    @property
    def verdict(self):
        """One sentence."""
        name = self.task.main_metric
        row = self.metrics[name]
        better = self.better
        start = f"{better} is better" if better else "No clear difference"
        change, low, high = _signed(self.task, row)
        found = (
            f"{start}: {label(name)} {change}, 95 % interval {low} to {high}"
        )
        if self.mcnemar is not None:
            found += f", McNemar p {_p_value(self.mcnemar['p_value'])}"
        return f"{found} (b against a, {self.examples:,} examples)."

    def _layout(self):
        header = ["metric", "a", "b", "b - a", "95 % interval", "p"]
        rows = [
            [label(name)]
            + [number(self._rounded(row[k])) for k in ("a", "b", "difference")]
            + [interval(self._rounded(row["interval"]))]
            + [number(row["p_value"], 2)]
            for name, row in self.metrics.items()
        ]
        table = Table(header, rows)
        if self.mcnemar is None:
            return [table, self.verdict]
        only = (
            f"Right by a alone: {self.mcnemar['only_a']}, by b alone: "
            f"{self.mcnemar['only_b']}."
        )
        return [table, only, self.verdict]

    def __repr__(self):
        return f"<Comparison: {self.verdict}>"

    def _rounded(self, value):
        """Shares in four decimals; values of a regression have any scale."""
        if value is None or not self.task.has_chances:
            return value
        if isinstance(value, list):
            return [self._rounded(end) for end in value]
        # Zero has no sign.
        return round(value, 4) + 0.0

    def to_dict(self):
        """Returns all of it as plain data."""
        told = {"better": self.better, "verdict": self.verdict}
        return {**vars(self), "task": str(self.task), **told}


def _check_same_kind(a, b):
    for name in ("task", "classes"):
        first, second = str(getattr(a, name)), str(getattr(b, name))
        if first != second:
            raise ValueError(
                f"The reports have another `{name}`. Evaluate both models in "
                "the same way, with the same `classes`. "
                f"Received: {_short(first)} and {_short(second)}"
            )
    if len(a) != len(b):
        raise ValueError(
            "The reports are on different data: they have not the same number "
            f"of examples. Received: {len(a)} and {len(b)} examples"
        )


def _match(a, b):
    """Index into `b` for each example of `a`."""
    if a.keys is not None and b.keys is not None:
        first, second = np.argsort(a.keys), np.argsort(b.keys)
        if (a.keys[first] == b.keys[second]).all():
            rows = np.empty(len(a), "int64")
            rows[first] = second
            return rows
    return np.arange(len(a))


def _check_same_labels(a, b):
    other = (a.y_true != b.y_true).reshape(len(a), -1).any(axis=1).sum()
    if other:
        raise ValueError(
            "The reports are on different data, or on the same in another "
            "order and another form: the labels differ. Evaluate both models "
            "on one data set that does not shuffle. Received: other labels at "
            f"{other} of {len(a)} places, digests {a.label_digest} and "
            f"{b.label_digest}"
        )
    first, second = a.sample_weight, b.sample_weight
    both = first is not None and second is not None
    if not (np.allclose(first, second) if both else first is second):
        raise ValueError(
            "The reports have other sample weights, so their metrics are not "
            "of the same thing. Evaluate both models with the same weights. "
            f"Received: weights of {_weighted(a)} and {_weighted(b)}"
        )


def _difference(report_a, report_b, name, drawn):
    a, b = report_a.metrics[name], report_b.metrics[name]
    if a is None or b is None:
        change = found = p_value = None
    else:
        change = b - a
        changes = drawn[1] - drawn[0]
        changes = changes[np.isfinite(changes)]
        found = resampling.percentiles(changes)
        p_value = _two_sided(changes) if len(changes) else None
    return {
        "a": a,
        "b": b,
        "difference": change,
        "interval": found,
        "p_value": p_value,
    }


def _two_sided(changes):
    """Twice the smaller share of resamples on one side of zero."""
    smaller = min((changes <= 0).sum(), (changes >= 0).sum())
    # The data themselves count as one resample, so that p is never zero.
    return float(min(1.0, 2.0 * (smaller + 1) / (len(changes) + 1)))


def _mcnemar(a, b):
    if not a.task.has_chances or a.task.is_dense:
        return None
    only_a = int((a.correct & ~b.correct).sum())
    only_b = int((b.correct & ~a.correct).sum())
    trials = only_a + only_b
    p_value = scipy.stats.binomtest(only_b, trials).pvalue if trials else 1.0
    return {"only_a": only_a, "only_b": only_b, "p_value": float(p_value)}


def _signed(task, row):
    values = [row["difference"], *(row["interval"] or (None, None))]
    # Shares are read in percentage points.
    if task.has_chances:
        change, *ends = (
            None if v is None else f"{100 * v:+.1f}" for v in values
        )
        return f"{change} points", *ends
    return tuple(None if v is None else f"{v:+.4g}" for v in values)


def _p_value(value):
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _short(value):
    return f"{str(value)[:80]!r}"


def _weighted(predictions):
    weight = predictions.sample_weight
    return "none" if weight is None else f"sum {weight.sum():.4g}"
