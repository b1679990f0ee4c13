"""Each adapter answers with the head that was trained with it."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.model import FineTuneModel
from finetune_keras.models.text_encoder import TextEncoder
from finetune_keras.testing import randomize

safetensors = pytest.importorskip("safetensors")
layers = keras.layers
X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def base():
    inputs = keras.Input((4,))
    x = layers.Dense(6, "tanh", name="body")(inputs)
    outputs = layers.Dense(3, "softmax", name="head")(x)
    return randomize(keras.Model(inputs, outputs))


def learn(model, seed):
    """Stands for training: all that trains gets other values."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        value = rng.normal(size=variable.shape).astype("float32")
        variable.assign(value)


def learnt(tmp_path, name, seed):
    """A file of an adapter with its head, and what it answers."""
    model = base()
    ft.add_adapters(model, ft.LoRA(rank=2), "body", name=name)
    learn(model, seed)
    ft.save_adapters(model, tmp_path / name)
    return model.predict(X, verbose=0)


def same(model, expected):
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-5)


def test_the_head_comes_with_its_adapter(tmp_path):
    answers = {name: learnt(tmp_path, name, i) for i, name in enumerate("abc")}
    assert np.abs(answers["a"] - answers["b"]).max() > 0.1
    model = base()
    for name in "abc":
        ft.load_adapters(model, tmp_path / name)
        same(model, answers[name])
    for name in "abacb":
        ft.set_adapter(model, name)
        same(model, answers[name])
    with ft.disable_adapters(model):
        pass
    same(model, answers["b"])
    # Its file holds them all, and whose turn it is.
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    same(loaded, answers["b"])
    for name in "cabcc":
        ft.set_adapter(loaded, name)
        same(loaded, answers[name])


def test_adapters_trained_one_after_the_other_keep_their_heads(tmp_path):
    model, answers = base(), {}
    for seed, name in enumerate("ab"):
        before = model.get_layer("head").get_weights()
        ft.add_adapters(model, ft.LoRA(rank=2), "body", name=name)
        after = model.get_layer("head").get_weights()
        np.testing.assert_array_equal(before[0], after[0])
        learn(model, seed)
        answers[name] = model.predict(X, verbose=0)
    ft.set_adapter(model, "a")
    same(model, answers["a"])
    # Of either the file has the head, whichever is switched on.
    for name in "ab":
        ft.save_adapters(model, tmp_path / name, name)
        other = ft.load_adapters(base(), tmp_path / name)
        same(other, answers[name])
    ft.remove_adapters(model, "a")
    ft.set_adapter(model, "b")
    same(model, answers["b"])


def test_a_sum_of_adapters_answers_with_the_head_of_the_first(tmp_path):
    for seed, name in enumerate("ab"):
        learnt(tmp_path, name, seed)
    model = base()
    for name in "ab":
        ft.load_adapters(model, tmp_path / name)
    heads = {}
    for name in "ab":
        ft.set_adapter(model, name)
        heads[name] = model.get_layer("head").get_weights()[0]
    ft.set_adapter(model, {"a": 0.5, "b": 0.5})
    kernel = model.get_layer("head").get_weights()[0]
    np.testing.assert_array_equal(kernel, heads["a"])
    ft.set_adapter(model, {"a": 0.0, "b": 1.0})
    kernel = model.get_layer("head").get_weights()[0]
    np.testing.assert_array_equal(kernel, heads["b"])


def text_model(tokenizer, classes):
    inputs = {"token_ids": keras.Input((None,), name="token_ids")}
    x = layers.Embedding(tokenizer.vocabulary_size(), 4, name="words")(
        inputs["token_ids"]
    )
    x = layers.Dense(4, name="body")(layers.GlobalAveragePooling1D()(x))
    model = FineTuneModel(inputs, layers.Dense(2, "softmax", name="head")(x))
    model.encoder = TextEncoder(tokenizer, 16, classes)
    return randomize(model)


def test_an_adapter_is_not_loaded_under_other_names_of_classes(
    tmp_path, small_bert
):
    model = text_model(small_bert[1], ["neg", "pos"])
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    ft.save_adapters(model, tmp_path / "file")
    for classes in (["pos", "neg"], ["ham", "spam"]):
        other = text_model(small_bert[1], classes)
        before = other.get_weights()
        with pytest.raises(ValueError, match="get wrong names"):
            ft.load_adapters(other, tmp_path / "file")
        for old, new in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    for classes in (["neg", "pos"], None):
        other = text_model(small_bert[1], classes)
        ft.load_adapters(other, tmp_path / "file")
        found = other.predict(["good film"], verbose=0)
        expected = model.predict(["good film"], verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
