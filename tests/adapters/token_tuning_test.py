import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize
from finetune_keras.testing.weights import weights_snapshot

pytestmark = pytest.mark.usefixtures("op_by_op")
TOKENS = [3, 40]
DATA = ft.prompts(["is a", "b is", "no a", "b"], ["yes", "no", "no b", "a"])
X = {"token_ids": np.array([[3, 7, 40, 1]]), "padding_mask": np.ones((1, 4))}


def logits(model):
    return keras.ops.convert_to_numpy(model(X))


@pytest.fixture
def writer(small_writer):
    return randomize(small_writer(layers=1))


def changed(model):
    """Gives the tokens other vectors, and the table that this stands for."""
    (vectors,) = [v for v in model.variables if "vectors" in v.path]
    change = np.random.default_rng(1).normal(size=vectors.shape)
    vectors.assign(change)
    table = keras.ops.convert_to_numpy(
        model.backbone.token_embedding.embeddings
    ).copy()
    table[TOKENS] += change
    return table


def test_it_is_a_table_with_some_rows_changed(writer, tmp_path):
    ft.add_adapters(writer, ft.TokenTuning(TOKENS))
    table = changed(writer)
    found = logits(writer)
    path = tmp_path / "tokens.safetensors"
    ft.save_adapters(writer, path)
    ft.merge_adapters(writer)
    embedding = writer.backbone.token_embedding
    merged = keras.ops.convert_to_numpy(embedding.embeddings)
    np.testing.assert_allclose(merged, table, atol=1e-6)
    np.testing.assert_allclose(logits(writer), found, atol=1e-4)


def test_the_file_brings_it_to_the_same_base(writer, small_writer, tmp_path):
    path = tmp_path / "tokens.safetensors"
    ft.add_adapters(writer, ft.TokenTuning(TOKENS))
    changed(writer)
    ft.save_adapters(writer, path)
    other = randomize(small_writer(layers=1))
    before = logits(other)
    ft.load_adapters(other, path)
    assert np.abs(logits(other) - before).max() > 1e-2
    np.testing.assert_allclose(logits(other), logits(writer), atol=1e-6)


def test_other_rows_stay_and_lora_learns_beside_it(writer):
    ft.add_adapters(writer, ft.LoRA(rank=2))
    ft.add_adapters(writer, ft.TokenTuning(TOKENS), name="tokens")
    ft.set_adapter(writer, {"default": 1.0, "tokens": 1.0})
    before = weights_snapshot(writer)
    names = ["adapter_default", "adapter_tokens"]
    plan = ft.Plan([ft.Phase(names, epochs=2, learning_rate=1e-2)])
    losses = ft.fine_tune(writer, plan, DATA, verbose=0).history["loss"]
    after = weights_snapshot(writer)
    moved = [k for k in before if not np.array_equal(before[k], after[k])]
    assert any("vectors" in path for path in moved)
    assert any("lora" in path for path in moved)
    assert all("adapter_" in path for path in moved)
    assert losses[1] < losses[0]


def test_what_is_no_token_is_refused(writer):
    for tokens in ([], [1, 1], [-1], [0.5], 3):
        with pytest.raises(ValueError, match="integers from 0, each once"):
            ft.TokenTuning(tokens)
    with pytest.raises(ValueError, match="No layer that TokenTuning"):
        ft.add_adapters(writer, ft.TokenTuning([9999]))
