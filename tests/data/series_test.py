import keras
import numpy as np
import pytest

import finetune_keras as ft

SERIES = np.stack([np.arange(60), np.arange(60) ** 2 % 11], 1).astype("f4")


def test_windows_are_those_of_keras():
    data = ft.from_series(SERIES, 5, 2, validation_split=0, test_split=0)
    x, y = data.arrays("train")
    dataset = keras.utils.timeseries_dataset_from_array(
        SERIES[:-2], SERIES[5:], 5, batch_size=100
    )
    ((windows, first),) = dataset
    np.testing.assert_array_equal(x, windows)
    np.testing.assert_array_equal(y[:, :2], first)
    np.testing.assert_array_equal(y[:-1, 2:], y[1:, :2])
    assert data.task == "regression" and y.shape == (54, 4)


def test_no_step_is_in_two_splits():
    data = ft.from_series(
        {"a": SERIES[:, 0], "b": SERIES[:, 1]}, 4, 3, ["b"], 2, 0.2, 0.25
    )
    assert data.features == ["a", "b"]
    seen = {}
    for name in ("train", "validation", "test"):
        x, y = data.arrays(name)
        starts = data.columns[name]["start"]
        np.testing.assert_array_equal(x[:, 0, 0], starts)
        np.testing.assert_array_equal(y, SERIES[starts[:, None] + [4, 5, 6], 1])
        assert set(np.diff(starts)) == {2}
        seen[name] = {s + i for s in starts.tolist() for i in range(7)}
    assert max(seen["train"]) < min(seen["validation"])
    assert max(seen["validation"]) < min(seen["test"]) == 45
    assert "Series of 60 steps: " in str(data)
    with pytest.raises(ValueError, match="steps in common"):
        ft.cross_validate(lambda: None, ft.plans.full(), data)


@pytest.mark.usefixtures("op_by_op")
def test_a_bundle_forecasts_from_the_last_steps(tmp_path):
    data = ft.from_series({"a": SERIES[:, 0] / 60}, 6, 2)
    inputs = keras.Input((6, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(12, name="dense")(x)
    model = ft.replace_head(keras.Model(inputs, x), 2, task="regression")
    ft.fine_tune(model, ft.plans.linear_probe(), data.train, verbose=0)
    report = ft.evaluate(model, data.test, verbose=0)
    assert report.metrics["rmse"] < 0.02
    bundle = ft.load_bundle(ft.save_bundle(model, tmp_path / "a.keras", data))
    found = bundle.predict({"a": SERIES[-6:, 0] / 60})
    np.testing.assert_allclose(found.labels, [[1, 61 / 60]], atol=0.03)


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (SERIES, {"length": 30}, "validation data have 9 steps, .* needs 31"),
        (SERIES, {"targets": [2]}, r"among the columns, \[0, 1\]"),
        (SERIES, {"horizon": 0}, "`horizon` must be an integer of at least 1"),
        (SERIES * np.nan, {}, "missing, infinite"),
        (["a", "b"], {}, "array of numbers"),
    ],
)
def test_bad_arguments(series, options, message):
    with pytest.raises(ValueError, match=message):
        ft.from_series(series, **{"length": 4, **options})
