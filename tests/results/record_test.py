import json

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.results.record import describe_weights, save_record


@pytest.fixture
def run():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    body = keras.layers.Dense(8, name="body")(inputs)
    model = ft.replace_head(keras.Model(inputs, body), 3)
    x = np.random.default_rng(0).normal(size=(90, 5)).astype("float32")
    data = ft.from_arrays(x, ["ant", "bee", "wasp"] * 30, seed=0)
    plan = ft.plans.linear_probe_then_full(epochs=2)
    history = ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    return model, history, plan, data


def test_the_record_says_where_a_result_came_from(run, tmp_path):
    model, history, plan, data = run
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    save_record(tmp_path / "run", model, history, plan, data, {"test": report})
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["plan"] == plan.to_dict()
    assert record["data"]["fingerprint"] == data.fingerprint
    assert record["data"]["counts"]["test"] == data.counts["test"]
    assert record["model"]["weights_sha256"] == describe_weights(model.weights)
    assert len(record["history"]["epochs"]) == 2
    accuracy = record["reports"]["test"]["metrics"]["accuracy"]
    assert accuracy == pytest.approx(report.metrics["accuracy"])
    assert record["environment"]["packages"]["keras"] == keras.__version__
    again = ft.FineTuneHistory.from_config(record["history"])
    assert again.best_epoch == history.best_epoch


def test_the_card_is_for_people(run, tmp_path):
    model, history, plan, data = run
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    report.notes.append("Never predicted: 'ant'")
    save_record(tmp_path, model, history, plan, data, {"test": report})
    card = (tmp_path / "MODEL_CARD.md").read_text()
    for text in ("## Data", "wasp", "## Plan", "accuracy", "filled in by hand"):
        assert text in card
    assert "- `Never predicted:" in card
    assert "Best epoch: " in card
    for name in ("history.png", "test_confusion.png"):
        assert f"![{name}]({name})" in card
        assert (tmp_path / name).stat().st_size > 1000


def test_a_name_cannot_break_out_of_its_block(run, tmp_path):
    model, history, plan, data = run
    data.classes = ["```", "# Heading", "wasp"]
    save_record(tmp_path, model, history, plan, data)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "````\nclass" in card


def test_the_digest_follows_the_weights(run):
    model, *_ = run
    before = describe_weights(model.weights)
    model.weights[0].assign_add(keras.ops.full(model.weights[0].shape, 1e-6))
    assert describe_weights(model.weights) != before
