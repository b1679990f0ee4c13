"""Time series: windows to forecast from, without a leak across the splits."""

import numpy as np

from finetune_keras.arguments import check, integer
from finetune_keras.data.arrays import as_features, matrix
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.examples import Examples, digest
from finetune_keras.data.pipeline import Store
from finetune_keras.data.splits import NAMES, check_fractions


def from_series(
    series,
    length,
    horizon=1,
    targets=None,
    stride=1,
    validation_split=0.15,
    test_split=0.15,
    seed=0,
    batch_size=32,
):
    """Cuts a time series into windows, each to forecast what follows it.

    The last part of the time is the test data, that before it the validation
    data. A window with what it forecasts lies in one split as a whole, so that
    no step is in two splits; windows across a border are left out. The task is
    a regression with `horizon` times as many outputs as there are targets,
    step by step.

    Args:
        series: Array `(time,)` or `(time, columns)`, `pandas.DataFrame`, or
            dict from names to columns of numbers: steps at equal distances,
            in their order.
        length: Integer, steps of a window.
        horizon: Integer, steps to forecast. Defaults to `1`.
        targets: List of columns to forecast, their names, or their places in
            an array. Defaults to `None`, all.
        stride: Integer, steps from one window to the next. Defaults to `1`.
        validation_split: Float in [0, 1). Share of the time; 0 is no
            validation data. Defaults to `0.15`.
        test_split: The same for the test data. Defaults to `0.15`.
        seed: Integer. Seed of the order of training. Defaults to `0`.
        batch_size: Integer, windows of a batch. Defaults to `32`.

    Returns:
        `DataSplits`. `x` are windows `(batch, length, columns)`, `y` is
        `(batch, horizon * targets)`, or `(batch,)` where that is 1;
        `columns["test"]["start"]` are the steps at which windows begin.

    Raises:
        ValueError: If values are missing, or a split is too short for a
            window.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    wave = np.sin(np.arange(300) / 5)
    data = ft.from_series(wave, length=20, horizon=3)
    x, y = next(iter(data.train))
    print(data, x.shape, y.shape)  # (32, 20, 1) (32, 3)
    ```
    """
    check(
        length=(length, integer(1), "the steps of a window"),
        horizon=(horizon, integer(1), "the steps to forecast"),
        stride=(stride, integer(1), "the steps between windows"),
    )
    fractions = check_fractions(validation_split, test_split)
    names, values = _read(series)
    places = _places(names, values.shape[1], targets)
    starts, given = _starts(len(values), fractions, length, horizon, stride)
    ahead = np.arange(length, length + horizon)
    y = values[starts[:, None] + ahead][:, :, places].reshape(len(starts), -1)
    whole = digest(values)
    examples = Examples(
        x=WindowStore(values, starts, length),
        names=starts.tolist(),
        labels=y,
        digests=[f"{whole} {start}" for start in starts],
        source=f"Series of {len(values):,} steps",
        kind="windows",
        columns={"start": starts},
        given=given,
        features=names,
    )
    options = {
        "batch_size": batch_size,
        "task": "regression",
        "classes": None,
        "balanced": False,
    }
    nothing = {"validation": 0, "test": 0}
    return DataSplits(examples, nothing, seed, options)


class WindowStore(Store):
    """Windows of a series, cut when they are asked for."""

    def __init__(self, values, starts, length):
        super().__init__((length, values.shape[1]), "float32")
        self.values, self.starts = values, starts
        self.steps = np.arange(length)

    def batch(self, indexes):
        return self.values[self.starts[indexes][:, None] + self.steps]


def _read(series):
    """Names of the columns, or `None`, and the series as (time, columns)."""
    names = None
    if hasattr(series, "columns") or isinstance(series, dict):
        names = [str(name) for name in series]
        values = matrix({str(n): np.asarray(series[n]) for n in series})
    else:
        values = as_features(series)
    if values.dtype == object or values.ndim not in (1, 2):
        raise ValueError(
            "`series` must be an array of numbers, of shape (time,) or (time, "
            f"columns). Received: {values.dtype} of shape {values.shape}"
        )
    return names, values.reshape(len(values), -1).astype("float32")


def _places(names, count, targets):
    """The places of the columns to forecast."""
    known = names or list(range(count))
    targets = known if targets is None else list(targets)
    unknown = [name for name in targets if name not in known]
    if unknown or not targets:
        raise ValueError(
            f"`targets` must be among the columns, {known}. "
            f"Received: targets={targets}"
        )
    return [known.index(name) for name in targets]


def _starts(steps, fractions, length, horizon, stride):
    """Where windows begin, in order of time, and the split of each."""
    test = round(steps * fractions["test"])
    validation = round(steps * fractions["validation"])
    borders = [0, steps - test - validation, steps - test, steps]
    starts, given = [], []
    for name, first, end in zip(NAMES, borders[:-1], borders[1:], strict=True):
        found = np.arange(first, end - length - horizon + 1, stride)
        if end > first and not len(found):
            raise ValueError(
                f"The {name} data have {end - first} steps, and a window with "
                f"what it forecasts needs {length + horizon}. Pass a longer "
                f"series, shorter windows or another share. Received: {steps} "
                f"steps, length={length}, horizon={horizon}"
            )
        starts.append(found)
        given += [name] * len(found)
    return np.concatenate(starts), np.array(given)
