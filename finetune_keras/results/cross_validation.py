"""Cross-validation of a plan."""

import math

import keras
import numpy as np

from finetune_keras.cache.shared_activations import SharedActivations
from finetune_keras.data.labels import one_column
from finetune_keras.data.layout import Shown, Table
from finetune_keras.data.prompts import Prompts
from finetune_keras.data.series import WindowStore
from finetune_keras.data.task_checks import check_one_label_each
from finetune_keras.engine.packages import scipy, sklearn
from finetune_keras.plans.plan import check_plan
from finetune_keras.results.evaluation import evaluate
from finetune_keras.results.predicted import as_arrays
from finetune_keras.training.compiled import ensure_compiled
from finetune_keras.training.fine_tune import fine_tune


class CrossValidation(Shown):
    """What `cross_validate` found.

    Attributes:
        metrics: Dict from metric to an array, one value a fold.
        mean: Dict from metric to float.
        intervals: Dict from metric to `[low, high]`, 95 %.
        reports: List of `Report`s, one a fold.
        histories: List of `FineTuneHistory`s, one a fold.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x, y = np.random.normal(size=(40, 4)), np.arange(40) % 2

    def build():
        keras.utils.set_random_seed(0)
        body = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
        return ft.replace_head(body, 2)

    plan = ft.plans.linear_probe(epochs=2)
    found = ft.cross_validate(build, plan, (x, y), folds=2, verbose=0)
    print(found.mean["accuracy"], found.intervals["accuracy"])
    ```
    """

    def __init__(self, reports, histories, test_share):
        self.reports = reports
        self.histories = histories
        names = [
            name
            for name in reports[0].metrics
            if all(report.metrics[name] is not None for report in reports)
        ]
        self.metrics = {
            name: np.array([report.metrics[name] for report in reports])
            for name in names
        }
        self.mean = {k: float(v.mean()) for k, v in self.metrics.items()}
        self.intervals = {
            name: _interval(values, test_share)
            for name, values in self.metrics.items()
        }

    def _layout(self):
        rows = [
            [name, f"{self.mean[name]:.4f}", f"{low:.4f} to {high:.4f}"]
            + [f"{values.min():.4f} to {values.max():.4f}"]
            for (name, values), (low, high) in zip(
                self.metrics.items(), self.intervals.values(), strict=True
            )
        ]
        header = ["metric", "mean", "95 % interval", "folds from to"]
        return [f"{len(self.reports)} folds", Table(header, rows)]


def cross_validate(
    build,
    plan,
    data,
    folds=5,
    repeats=1,
    groups=None,
    seed=0,
    evaluation=None,
    cache=None,
    batch_size=None,
    callbacks=None,
    class_weight=None,
    shuffle=True,
    monitor=None,
    mode="auto",
    verbose=1,
):
    """Fine-tunes and judges a model on each fold of the data.

    Each fold gets a new model and is judged on the part that it has not seen.
    Folds have the classes in equal shares. What frozen layers make of an
    example is computed once and shared by the folds, where their weights are
    the same: build the model from pretrained weights, or from a fixed seed.

    Args:
        build: Function without arguments that returns a new model, compiled
            or not, with the same pretrained weights each time.
        plan: A `Plan`. Phases with `patience` watch a part of the training
            fold, never the part that the fold is judged on.
        data: Tuple `(x, y)` of arrays, or of lists such as texts; or a
            `DataSplits`, of which training and validation are used and the
            test is left alone; or, for a model that writes, what `prompts`
            returns.
        folds: Integer of at least 2. Defaults to `5`.
        repeats: Integer, how often to draw new folds. Defaults to `1`.
        groups: Array, one value an example: those of one group stay in one
            fold. Defaults to `None`, or the groups of `data`.
        seed: Integer, of the folds. Defaults to `0`.
        evaluation: Dict of arguments of `evaluate`. Defaults to `None`.
        cache: See `fine_tune`. Defaults to `None`: shared by the folds.
        batch_size, callbacks, class_weight, shuffle, monitor, mode: As in
            `fine_tune`; the callbacks are the same in all folds.
        verbose: 0 or 1, a line a fold. Defaults to `1`.

    Returns:
        A `CrossValidation`. Its intervals allow for the overlap of the
        training folds, which makes the plain ones too narrow.

    Raises:
        ValueError: If the data are no arrays, or too few for the folds.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 4)) + y[:, None]
    plan = ft.plans.linear_probe(epochs=3, learning_rate=0.05)
    print(ft.cross_validate(
        lambda: ft.replace_head(backbone, 2), plan, (x, y), folds=4, verbose=0
    ))
    ```

    Reference:

    - [Nadeau and Bengio, 2003](https://doi.org/10.1023/A:1024068626366), the
      interval
    """
    judge = {"verbose": 0, "bootstrap": 0, **(evaluation or {})}
    check_plan(plan, data)
    x, y, groups = _arrays(data, groups)
    task = getattr(data, "task", None)
    ignored = getattr(task, "ignore_class", None)
    judge.setdefault("classes", getattr(data, "classes", None))
    cache = cache or {"shared": SharedActivations()}
    _check_lengths(x, y)
    _check(folds, repeats, y, groups)
    reports, histories = [], []
    for train, test in _folds(y, groups, folds, repeats, seed):
        validation = None
        if any(phase.patience for phase in plan):
            train, held = _hold_out(train, y, groups, seed)
            validation = _part(x, y, held)
        model = build()
        if ignored is not None:
            # Arrays do not say it.
            ensure_compiled(model, plan, np.ndim(y), ignored)
        keras.utils.set_random_seed(seed + len(reports))
        history = fine_tune(
            model,
            plan,
            _part(x, y, train),
            validation,
            cache=cache,
            batch_size=batch_size,
            callbacks=callbacks,
            class_weight=class_weight,
            shuffle=shuffle,
            monitor=monitor,
            mode=mode,
            verbose=0,
        )
        reports.append(evaluate(model, _part(x, y, test), **judge))
        histories.append(history)
        if verbose:
            _say(reports, folds * repeats)
    return CrossValidation(reports, histories, 1 / folds)


def _say(reports, count):
    name, value = next(iter(reports[-1].metrics.items()))
    print(f"Fold {len(reports)}/{count} - {name}: {value:.4g}", flush=True)


def _arrays(data, groups):
    if hasattr(data, "arrays"):
        if not data.task.is_dense:
            check_one_label_each(data.task, "cross_validate")
        _check_rows(data)
        names = [n for n in ("train", "validation") if data.sizes[n]]
        parts = zip(*(data.arrays(name) for name in names), strict=True)
        x, y = (np.concatenate(part) for part in parts)
        if groups is None and data.groups:
            groups = np.concatenate([data.groups[name] for name in names])
        return x, y, groups
    if isinstance(data, Prompts):
        # No answer is a class to spread over the folds.
        return data, np.zeros(len(data), int), groups
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            "`data` must be a tuple of arrays (x, y), a `DataSplits`, or what "
            "`ft.prompts` returns, so that it can be cut into folds. Received: "
            f"data={data!r}"
        )
    try:
        return as_arrays(data[0]), np.asarray(data[1]), groups
    except ValueError as error:
        raise ValueError(
            "Cross-validation takes arrays or lists with one label for each "
            "example. Of tagged sentences cut the folds yourself, and judge "
            "each by `ft.entity_scores`. Received: lists of several lengths"
        ) from error


def _check_rows(data):
    """Raises where rows cannot be cut into folds at random."""
    x = data.made_of[0].x
    if isinstance(x, WindowStore):
        raise ValueError(
            "Folds of windows that are drawn at random have steps in common. "
            "Forecast from several shares of the time instead: "
            "`ft.from_series(..., test_split=...)`. Received: a series"
        )
    if isinstance(x, dict):
        raise ValueError(
            "Cross-validation takes arrays, and this is a table with columns "
            "of several kinds. Cut the folds yourself, such as by "
            "`sklearn.model_selection.KFold`, and read each by `ft.from_frame("
            "..., split=...)`, so that its feature space is that of its own "
            f"training. Received: columns {list(data.kinds)}"
        )


def _check_lengths(x, y):
    parts = [x] if isinstance(x, Prompts) else keras.tree.flatten(x)
    sizes = list(map(len, parts))
    if set(sizes) != {len(y)}:
        raise ValueError(
            "Each example needs a label. "
            f"Received: {sizes} examples and {len(y)} labels"
        )


def _part(x, y, rows):
    """Some of the examples, as `fine_tune` and `evaluate` take them."""
    if isinstance(x, Prompts):
        return x[rows]
    return keras.tree.map_structure(lambda array: array[rows], x), y[rows]


def _check(folds, repeats, y, groups):
    units = len(y) if groups is None else len(np.unique(groups))
    if folds < 2 or repeats < 1 or units < folds:
        raise ValueError(
            "Cross-validation needs at least 2 folds, at least 1 repeat, and "
            "an example or a group for each fold. Received: folds="
            f"{folds}, repeats={repeats}, {units} examples or groups"
        )


def _strata(y):
    """What to spread evenly over the folds, or `None`."""
    y = one_column(y)
    if y.dtype.kind == "f" and y.ndim == 1 and (y != np.round(y)).any():
        return None
    if y.ndim == 1:
        return y
    one_hot = y.shape[1] > 1 and (y.sum(axis=1) == 1).all()
    return y.argmax(axis=1) if one_hot else y.reshape(len(y), -1)[:, 0]


def _splitter(y, groups, folds, seed):
    strata = _strata(y)
    if strata is not None and strata.dtype.kind == "f":
        strata = strata.astype("int64")
    kind = "" if strata is None else "Stratified"
    kind += "KFold" if groups is None else "GroupKFold"
    splitter = getattr(sklearn.model_selection, kind)(
        folds, shuffle=True, random_state=seed
    )
    zeros = np.zeros(len(y))
    return splitter.split(zeros, zeros if strata is None else strata, groups)


def _folds(y, groups, folds, repeats, seed):
    for repeat in range(repeats):
        yield from _splitter(y, groups, folds, seed + repeat)


def _hold_out(train, y, groups, seed):
    """Cuts a seventh off the training fold, for the plan to watch."""
    inner = None if groups is None else np.asarray(groups)[train]
    units = len(train) if inner is None else len(np.unique(inner))
    kept, held = next(iter(_splitter(y[train], inner, min(7, units), seed)))
    return train[kept], train[held]


def _interval(values, test_share):
    """Corrected resampled t interval: training folds overlap."""
    count = len(values)
    ratio = test_share / (1 - test_share)
    width = math.sqrt((1 / count + ratio) * values.var(ddof=1))
    width *= scipy.stats.t.ppf(0.975, count - 1)
    return [float(values.mean() - width), float(values.mean() + width)]
