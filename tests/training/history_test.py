import json
import sys
import types

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.training.history import (
    FineTuneHistory,
    as_plain,
    as_text,
)
from finetune_keras.training.progress import Progress

VECTOR = [0.25, 0.5, 1.0]


def history():
    history = FineTuneHistory("loss")
    history.phases = [{"name": "head", "first_epoch": 0, "last_epoch": 1}]
    for epoch in range(2):
        row = {"epoch": epoch, "phase": 0, "loss": 0.5 - epoch / 8}
        row |= {"f1_score": VECTOR, "learning_rate": 0.1, "seconds": 2.0}
        history.epochs.append(row)
    # As with `validation_freq=2`.
    history.epochs[1]["val_f1_score"] = VECTOR
    history.best_epoch, history.best_value = 1, 0.375
    return history


def test_values_become_plain():
    assert as_plain(np.float32(0.5)) == 0.5
    vector = as_plain(keras.ops.convert_to_tensor(VECTOR))
    assert vector == VECTOR
    assert json.dumps(vector) == "[0.25, 0.5, 1.0]"
    assert as_text(0.123456) == "0.1235"
    assert as_text(np.array(VECTOR)) == "mean 0.5833"
    assert as_text(None) == ""


def test_a_metric_of_classes_is_printed_by_its_mean(capsys):
    text = str(history())
    assert "mean 0.5833" in text
    assert "Best: epoch 2, loss 0.375" in text
    plan = ft.Plan([ft.Phase("head", epochs=2)])
    progress = Progress(plan, 2, None, None)
    progress.begin_epoch(0)
    progress.end_epoch(0, history().epochs[0])
    line = capsys.readouterr().out
    assert "loss: 0.5 - f1_score: mean 0.5833 - learning_rate" in line


@pytest.mark.parametrize("steps", [7, None])
def test_in_a_notebook_the_bar_of_keras_moves(steps, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    plan = ft.Plan([ft.Phase("head", epochs=2)])
    progress = Progress(plan, "auto", None, None)
    progress.begin_fit(types.SimpleNamespace(num_batches=steps))
    for epoch in (0, 1):
        progress.begin_epoch(epoch)
        for batch in range(7):
            progress.end_batch(batch, {"loss": 8.0 - batch, "f1": VECTOR})
        logs = {"loss": 0.5, "f1": VECTOR, "val_loss": 0.25}
        progress.end_epoch(epoch, {"seconds": 1.0, **logs})
    out = capsys.readouterr().out
    assert out.count("[None]\n") == 2 and "loss: 8.0000" in out
    *_, last = out.strip().split("\r")
    assert "7/" in last and last.count("\n") == 0
    assert "loss: 0.5000 - f1: 0.5833 - val_loss: 0.2500" in last


def test_a_metric_of_classes_is_drawn_by_its_mean():
    pytest.importorskip("matplotlib")
    figure = history().plot()
    _, axes = figure.axes
    training, validation, *_ = axes.lines
    np.testing.assert_allclose(training.get_ydata(), [7 / 12] * 2)
    np.testing.assert_allclose(validation.get_ydata(), [np.nan, 7 / 12])


def test_it_survives_json():
    config = json.loads(json.dumps(history().get_config()))
    copy = FineTuneHistory.from_config(config)
    assert copy.history["f1_score"] == [VECTOR, VECTOR]
    assert str(copy) == str(history())
