"""Whoever reads the outputs of a model reads them as the others do."""

import keras
import numpy as np
import pytest
from keras import layers, losses

import finetune_keras as ft
from finetune_keras.data.task import Task
from finetune_keras.results.calibration import find_calibration
from finetune_keras.results.temperature import scaled
from finetune_keras.testing import randomize

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 4)).astype("float32")
IDS, ONES = np.arange(30) % 3, np.arange(30) % 2
ROWS = (rng.random((30, 3)) < 0.5).astype("float32")
VALUES = rng.normal(size=(30, 1)).astype("float32")
SPARSE = losses.SparseCategoricalCrossentropy
BINARY = losses.BinaryCrossentropy(from_logits=True)
# Units, activation, loss, labels, task.
CASES = {
    "softmax": (3, "softmax", None, IDS, "classification"),
    "softmax, compiled": (3, "softmax", SPARSE(), IDS, "classification"),
    "logits": (3, None, SPARSE(from_logits=True), IDS, "classification"),
    "one sigmoid": (1, "sigmoid", None, ONES, "classification"),
    "one logit": (1, None, BINARY, ONES, "classification"),
    "sigmoids": (3, "sigmoid", None, ROWS, "multi_label"),
    "logits of labels": (3, None, BINARY, ROWS, "multi_label"),
    "a value": (1, None, None, VALUES, "regression"),
    "values": (3, None, "mse", np.repeat(VALUES, 3, 1), "regression"),
}


@pytest.mark.parametrize("case", CASES)
def test_all_read_a_model_the_same_saved_or_not(case, tmp_path, op_by_op):
    units, activation, loss, y, task = CASES[case]
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(units, activation=activation)]
    )
    randomize(model)
    if loss is not None:
        model.compile("sgd", loss)
    options = {"bootstrap": 0, "verbose": 0}
    report = ft.evaluate(model, (X, y), **options)
    bundle = ft.load_bundle(ft.save_bundle(model, tmp_path / "m.keras"))
    again = ft.evaluate(bundle.model, (X, y), **options)
    assert report.task == again.task == bundle.task == task
    found, p = bundle.predict(X), report.predictions.outputs
    shown = found.values if task == "regression" else found.probabilities
    np.testing.assert_allclose(shown, p, atol=1e-6)
    said = [bundle.task.plain(row) for row in report.predictions.y_pred]
    assert said == found.labels or task == "regression"
    assert ft.compare(report, again, bootstrap=20).better is None
    if task == "regression":
        assert Task.of(model) in (None, task)
        with pytest.raises(ValueError, match="from_logits=True"):
            ft.calibrate(model, (X, y))
        return
    assert vars(Task.of(model)) == vars(Task.of(bundle.model))
    calibrated = ft.calibrate(bundle.model, (X, y))
    scale, kind = find_calibration(calibrated).scale, bundle.task
    wanted = scaled(p[:, -units:], scale, None, kind.output_activation, np)
    report = ft.evaluate(calibrated, (X, y), **options)
    outputs = report.predictions.outputs[:, -units:]
    np.testing.assert_allclose(outputs, wanted, atol=1e-5)


def test_names_of_classes_are_kept_with_the_model(tmp_path, op_by_op):
    body = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)])
    model = ft.image_classifier(body, ["ant", "bee", "wasp"])
    x = np.random.default_rng(0).uniform(0, 255, (12, 8, 8, 3))
    y = np.arange(12) % 3
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded, ft.calibrate(loaded, (x, y))):
        report = ft.evaluate(one, (x, y), bootstrap=0, verbose=0)
        assert report.classes == ["ant", "bee", "wasp"]
    bundle = ft.load_bundle(ft.save_bundle(one, tmp_path / "bundle.keras"))
    assert set(bundle.predict(x).labels) <= {"ant", "bee", "wasp"}
    named = np.array(["ant", "bee", "wasp"])[y]
    again = ft.evaluate(bundle.model, (x, named), bootstrap=0, verbose=0)
    assert again.metrics == report.metrics
