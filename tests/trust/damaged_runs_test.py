"""A damaged plan, or a damaged search, names its file and what is wrong."""

import json

import keras
import pytest

import finetune_keras as ft


def test_a_plan_that_is_no_text_or_nested_without_end_is_told(tmp_path):
    path = tmp_path / "plan.yaml"
    for data in (b"\xff\xfe\x00", b"[" * 1500, b"", b"- 1", b"phases: [null]"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="plan.yaml"):
            ft.Plan.load(path)


@pytest.fixture
def search(tmp_path):
    """The folder of a search with one trial, as `tune` leaves it."""
    trial = tmp_path / "search" / "trial_0"
    trial.mkdir(parents=True)
    plan = ft.plans.linear_probe(epochs=1).to_dict()
    values = {"epochs": 1}
    files = {
        "search.json": {"objective": "val_loss", "algorithm": "random"},
        "trial_0/trial.json": {
            "trial_id": "0",
            "hyperparameters": {"values": values},
        },
        "trial_0/result.json": {
            "status": "completed",
            "score": 0.5,
            "scores": [0.5],
            "plan": plan,
            "seconds": 1.0,
            "values": values,
        },
    }
    for name, facts in files.items():
        (tmp_path / "search" / name).write_text(json.dumps(facts))
    return tmp_path / "search", files


def test_any_damage_to_a_search_is_told_or_does_no_harm(search):
    folder, files = search
    assert "0.5" in ft.Search(folder).table()
    refused = 0
    for name, facts in files.items():
        texts = ["", "{", "[]", "null", "3", "[" * 100_000]
        for key in facts:
            texts.append(json.dumps({k: facts[k] for k in facts if k != key}))
            for value in (None, 3, "x", [], {}, [None]):
                texts.append(json.dumps({**facts, key: value}))
        for text in texts:
            (folder / name).write_text(text)
            try:
                assert ft.Search(folder).table()
            except ValueError as error:
                assert str(folder / name) in str(error), text[:200]
                refused += 1
        (folder / name).write_text(json.dumps(facts))
    assert refused > 50


def test_the_best_model_of_a_search_is_loaded_in_safe_mode(search):
    folder, _ = search
    inputs = keras.Input((2,))
    outputs = keras.layers.Lambda(lambda x: x * 2)(inputs)
    keras.Model(inputs, outputs).save(folder / "trial_0" / "model.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        ft.Search(folder).best()
    model, _ = ft.Search(folder).best(safe_mode=False)
    assert model.count_params() == 0
