"""Adapters in a model of texts: it goes on taking texts."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.testing import weights_snapshot

TEXTS = ["a good film", "bad", "not very good", "ann ran badly"] * 4
LABELS = np.arange(16) % 2

pytestmark = pytest.mark.usefixtures("op_by_op")


@pytest.fixture
def model(small_bert):
    backbone = ft.text_backbone(*small_bert, sequence_length=32)
    return ft.text_classifier(backbone, ["neg", "pos"], dropout=0.0)


def test_trained_on_texts_saved_and_trained_on(model, tmp_path):
    before = model.predict(TEXTS, verbose=0)
    ft.add_adapters(model, ft.LoRA(rank=2))
    np.testing.assert_allclose(
        model.predict(TEXTS, verbose=0), before, atol=1e-6
    )
    base = weights_snapshot(model)
    frozen = {v.path for v in model.non_trainable_variables}
    plan = ft.plans.adapters(epochs=2, learning_rate=1e-2)
    ft.fine_tune(model, plan, (TEXTS, LABELS), verbose=0)
    after = weights_snapshot(model)
    for path in base:
        moved = (base[path] != after[path]).any()
        assert not (moved and path in frozen), path
    assert any((base[p] != after[p]).any() for p in base if "adapter" in p)

    ft.save_bundle(model, tmp_path / "texts.keras")
    bundle = ft.load_bundle(tmp_path / "texts.keras")
    found = bundle.predict(TEXTS).probabilities
    np.testing.assert_allclose(
        found, model.predict(TEXTS, verbose=0), atol=1e-5
    )
    loaded = bundle.model
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    ft.fine_tune(loaded, plan, (TEXTS, LABELS), verbose=0)
    assert np.abs(loaded.predict(TEXTS, verbose=0) - found).max() > 1e-4


def test_merged_it_is_a_text_model_again(model):
    ft.add_adapters(model, ft.LoRA(rank=2))
    assert adapters_by_name(model)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    expected = model.predict(TEXTS, verbose=0)
    ft.merge_adapters(model)
    assert type(model) is ft.FineTuneModel and not adapters_by_name(model)
    np.testing.assert_allclose(
        model.predict(TEXTS, verbose=0), expected, atol=1e-4
    )


def test_file_of_adapters_for_another_model(model, small_bert, tmp_path):
    ft.add_adapters(model, ft.LoRA(rank=2))
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    ft.save_adapters(model, tmp_path / "a.safetensors")
    expected = model.predict(TEXTS, verbose=0)
    model.save(tmp_path / "whole.keras")
    fresh = keras.models.load_model(tmp_path / "whole.keras")
    ft.remove_adapters(fresh)
    ft.load_adapters(fresh, tmp_path / "a.safetensors")
    np.testing.assert_allclose(
        fresh.predict(TEXTS, verbose=0), expected, atol=1e-5
    )
