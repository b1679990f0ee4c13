"""What tests of pages share."""

import keras
import numpy as np
import pytest

import finetune_keras as ft


@pytest.fixture
def judged(tmp_path, op_by_op):
    """A report on a calibrated model of photos, and its page with all in it."""
    count = 40
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, 12, 16, 3)).astype("uint8")
    x[::2, ..., 0] //= 2
    names = ["cat <b>", "dog & son"]
    data = ft.from_arrays(x, np.array(names)[np.arange(count) % 2], seed=0)
    backbone = keras.Sequential(
        [keras.Input((12, 16, 3)), keras.layers.Conv2D(4, 3, name="block1")]
    )
    model = ft.image_classifier(backbone, data.classes)
    plan = ft.Plan([ft.Phase("head", epochs=3, learning_rate=0.01)])
    history = ft.fine_tune(model, plan, data.train, verbose=0)
    calibrated = ft.calibrate(model, (x, np.arange(count) % 2), coverage=0.5)
    report = ft.evaluate(
        calibrated, (x, np.arange(count) % 2), bootstrap=20, verbose=0
    )
    path = tmp_path / "report.html"
    report.to_html(path, calibrated, history, data)
    return report, path
