import json
import shutil

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.adapters.adapter import add_adapters
from finetune_keras.adapters.files import load_adapters, save_adapters
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.scales_and_biases import BitFit
from finetune_keras.models.adapters_by_path import adapters_by_name

pytest.importorskip("safetensors")
hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
from safetensors.numpy import load_file, save_file  # noqa: E402

rng = np.random.default_rng(3)
EVERYWHERE = r".*(query|key|value|attention_output|feedforward.*dense)"
START = "base_model.model."


def backbone(name):
    return getattr(hub.models, f"{name}Backbone")(
        vocabulary_size=30,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        max_sequence_length=8,
    )


def classifier(name, **head):
    model = ft.replace_head(
        backbone(name), 3, pooling="token", task="regression", **head
    )
    return testing.randomize(model)


def bert():
    return classifier("Bert")


def roberta():
    return classifier("Roberta", hidden_units=(8,), activation="tanh")


def distil_bert():
    return classifier("DistilBert", hidden_units=(8,), activation="relu")


def adapted(make=bert, layers=None, **arguments):
    model = make()
    add_adapters(model, LoRA(rank=2, alpha=3, **arguments), layers)
    for variable in model.trainable_variables:
        noise = 0.3 * rng.standard_normal(variable.shape)
        variable.assign(variable + noise.astype("float32"))
    return model


def data_of(model):
    ids = rng.integers(1, 30, (4, 8))
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    if len(model.inputs) > 2:
        x["segment_ids"] = np.zeros_like(ids)
    return x


def predict(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def edit(folder, **options):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


@pytest.mark.parametrize(
    "make, variant",
    [
        (bert, "lora"),
        (roberta, "rslora"),
        (distil_bert, "dora"),
    ],
)
def test_a_folder_comes_back(make, variant, tmp_path):
    model = adapted(make, EVERYWHERE, variant=variant, dropout=0.1)
    save_adapters(model, tmp_path / "folder", format="peft")
    fresh = make()
    assert load_adapters(fresh, tmp_path / "folder") is fresh
    x = data_of(model)
    np.testing.assert_allclose(predict(fresh, x), predict(model, x), atol=1e-5)
    assert len(fresh.trainable_variables) == len(model.trainable_variables)
    places = adapters_by_name(fresh)["default"]
    assert len(places) == 12
    for _, adapter in places.values():
        assert adapter.method == LoRA(2, 3, 0.1, variant)
    load_adapters(fresh, tmp_path / "folder", name="law")
    load_adapters(fresh, tmp_path / "folder", name="law")
    assert list(adapters_by_name(fresh)) == ["default", "law"]


@pytest.mark.parametrize(
    "make, stem, modules, heads",
    [
        (
            bert,
            "bert.encoder.layer",
            [
                ("attention.self.query", 8, 8),
                ("attention.self.key", 8, 8),
                ("attention.self.value", 8, 8),
                ("attention.output.dense", 8, 8),
                ("intermediate.dense", 8, 12),
                ("output.dense", 12, 8),
            ],
            {"classifier": 8},
        ),
        (
            roberta,
            "roberta.encoder.layer",
            [("attention.self.query", 8, 8), ("output.dense", 12, 8)],
            {"classifier.dense": 8, "classifier.out_proj": 8},
        ),
        (
            distil_bert,
            "distilbert.transformer.layer",
            [
                ("attention.q_lin", 8, 8),
                ("attention.k_lin", 8, 8),
                ("attention.v_lin", 8, 8),
                ("attention.out_lin", 8, 8),
                ("ffn.lin1", 8, 12),
                ("ffn.lin2", 12, 8),
            ],
            {"pre_classifier": 8, "classifier": 8},
        ),
    ],
)
def test_names_and_shapes_are_those_of_hugging_face(
    make, stem, modules, heads, tmp_path
):
    model = adapted(make, EVERYWHERE)
    save_adapters(model, tmp_path, format="peft")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for i in range(2):
        for name, inputs, outputs in modules:
            where = f"{START}{stem}.{i}.{name}"
            assert tensors[f"{where}.lora_A.weight"].shape == (2, inputs)
            assert tensors[f"{where}.lora_B.weight"].shape == (outputs, 2)
            part = f"{stem}.{i}.{name}".split(".", 1)[1]
            assert part in config["target_modules"]
    for name, units in heads.items():
        assert tensors[f"{START}{name}.weight"].shape[1] == units
        assert tensors[f"{START}{name}.bias"].ndim == 1
    assert len(tensors) == 2 * 12 + 2 * len(heads)
    assert len(config["target_modules"]) == 12
    assert config["modules_to_save"] == sorted(
        {name.split(".")[0] for name in heads}
    )
    given = ("peft_type", "r", "lora_alpha", "use_rslora", "task_type")
    assert [config[x] for x in given] == ["LORA", 2, 3, False, "SEQ_CLS"]


def test_the_product_is_the_change_of_hugging_faces_matrix(tmp_path):
    model = adapted(bert, EVERYWHERE)
    save_adapters(model, tmp_path, format="peft")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    places = adapters_by_name(model)["default"]
    for path, name, inputs in (
        ("self_attention_layer/query", "attention.self.query", 8),
        ("self_attention_layer/attention_output", "attention.output.dense", 8),
        ("feedforward_output_dense", "output.dense", 12),
    ):
        where = f"{START}bert.encoder.layer.1.{name}"
        a, b = (tensors[f"{where}.lora_{x}.weight"] for x in "AB")
        _, adapter = places[f"transformer_layer_1/{path}"]
        # Hugging Face's matrix is Keras's, reshaped and turned around.
        change = array(adapter.kernel_change()).reshape(inputs, -1).T
        np.testing.assert_allclose(1.5 * b @ a, change, atol=1e-6)
    head = model.layers[-1]
    np.testing.assert_array_equal(
        tensors[f"{START}classifier.weight"].T, array(head.kernel)
    )


def test_a_folder_of_a_bare_model_without_a_head(tmp_path):
    a = rng.standard_normal((4, 8)).astype("float16")
    b = rng.standard_normal((8, 4)).astype("float16")
    where = f"{START}encoder.layer.1.attention.self.value"
    save_file(
        {f"{where}.lora_A.weight": a, f"{where}.lora_B.weight": b},
        tmp_path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = bert()
    head = [array(v) for v in model.layers[-1].weights]
    load_adapters(model, str(tmp_path), name="theirs")
    places = adapters_by_name(model)["theirs"]
    ((path, (_, adapter)),) = places.items()
    assert path == "transformer_layer_1/self_attention_layer/value"
    change = array(adapter.kernel_change())
    expected = 4.0 * (b.astype("float32") @ a.astype("float32")).T
    np.testing.assert_allclose(
        change, expected.reshape(8, 2, 4), rtol=1e-4, atol=1e-5
    )
    for one, other in zip(head, model.layers[-1].weights, strict=True):
        np.testing.assert_array_equal(one, array(other))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    save_adapters(adapted(), folder, format="peft")
    return folder


@pytest.fixture(scope="module")
def untouched():
    return bert()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"peft_type": "IA3"}, "only LoRA.*'IA3'"),
        ({"rank_pattern": {".*query": 4}}, "other sizes.*query"),
        ({"alpha_pattern": {"query": "4"}}, "alpha_pattern"),
        ({"bias": "all"}, "'bias': 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"use_rslora": True, "use_dora": True}, "use_rslora.*use_dora"),
        ({"r": 3}, "other sizes.*lora_A"),
        ({"use_dora": True}, "not whole: each layer needs 3"),
    ],
)
def test_options_that_mean_something_else_are_refused(
    options, message, good, untouched, tmp_path
):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    edit(tmp_path, **options)
    model = untouched
    before = testing.weights_snapshot(model)
    with pytest.raises(ValueError, match=message):
        load_adapters(model, tmp_path)
    assert list(testing.weights_snapshot(model)) == list(before)


def test_what_has_no_place_is_named(tmp_path):
    model = adapted()
    save_adapters(model, tmp_path, format="peft")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, f"{START}bert.pooler.x": np.ones(2)}, file)
    with pytest.raises(ValueError, match="1 tensors.*'base_model.*pooler.x'"):
        load_adapters(bert(), tmp_path)
    save_file(tensors, file)
    mean = ft.replace_head(backbone("Bert"), 3)
    with pytest.raises(ValueError, match='first token.*pooling="token"'):
        load_adapters(mean, tmp_path)
    with pytest.raises(ValueError, match="another head than the file"):
        load_adapters(
            ft.replace_head(backbone("Bert"), 2, pooling="token"), tmp_path
        )
    with pytest.raises(ValueError, match="BertBackbone"):
        inputs = keras.Input((8,))
        x = keras.layers.Dense(8, name="query")(inputs)
        own = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
        load_adapters(own, tmp_path)


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ValueError, match="format='onnx'"):
        save_adapters(adapted(), tmp_path, format="onnx")
    with pytest.raises(ValueError, match="Only LoRA.*BitFit"):
        save_adapters(add_adapters(bert(), BitFit()), tmp_path, format="peft")
    with pytest.raises(ValueError, match="'token_embedding' has no place"):
        save_adapters(adapted(bert, "token_embedding"), tmp_path, format="peft")
    mean = add_adapters(ft.replace_head(backbone("Bert"), 3), LoRA(rank=2))
    with pytest.warns(UserWarning, match="head is not in the folder"):
        save_adapters(mean, tmp_path, format="peft")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["modules_to_save"] is None


# === Decoders ===

SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
FEW_KEYS = {"num_query_heads": 2, "num_key_value_heads": 1}
GPT2 = {"num_heads": 2, "max_sequence_length": 16}
DECODERS = {
    "Llama": {**FEW_KEYS},
    "Gemma": {**FEW_KEYS, "head_dim": 4},
    "GPT2": GPT2,
}


def decoder(name):
    kind = getattr(hub.models, f"{name}Backbone")
    return testing.randomize(kind(**SIZES, **DECODERS[name]))


def changes(model):
    """Dict from paths to what stands for the change on the other side."""
    return {
        path: adapter.matrix(array(adapter.kernel_change())).T
        for path, (_, adapter) in adapters_by_name(model)["default"].items()
    }


@pytest.mark.parametrize(
    "name, targets, start, modules",
    [
        (
            "Llama",
            ".*layer_1.*(query|attention_output|gate_dense)",
            "model.layers.1",
            {
                "self_attention/query": "self_attn.q_proj",
                "self_attention/attention_output": "self_attn.o_proj",
                "feedforward_gate_dense": "mlp.gate_proj",
            },
        ),
        (
            "Gemma",
            ".*block_1.*(value|attention_output|ffw_gating_2|linear)",
            "model.layers.1",
            {
                "attention/value": "self_attn.v_proj",
                "attention/attention_output": "self_attn.o_proj",
                "ffw_gating_2": "mlp.up_proj",
                "ffw_linear": "mlp.down_proj",
            },
        ),
    ],
)
def test_decoders_are_read_and_written(name, targets, start, modules, tmp_path):
    rank = {".*(value|query)": 1, ".*": 3}
    model = decoder(name)
    method = LoRA(rank=rank, alpha=3, initializer="pissa")
    add_adapters(model, method, targets)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    save_adapters(model, tmp_path, format="peft")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["task_type"], config["r"]) == ("CAUSAL_LM", 2)
    assert len(tensors) == 2 * len(modules)
    expected = changes(model)
    for path, change in expected.items():
        where = f"{start}.{modules[path.split('/', 1)[1]]}"
        a, b = (tensors[f"{START}{where}.lora_{x}.weight"] for x in "AB")
        module = where.removeprefix("model.")
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        assert len(a) == config["rank_pattern"].get(module, config["r"])
        np.testing.assert_allclose(alpha / len(a) * b @ a, change, atol=1e-5)
    fresh = load_adapters(decoder(name), tmp_path)
    for path, change in changes(fresh).items():
        np.testing.assert_allclose(change, expected[path], atol=1e-5)


def test_query_key_and_value_of_gpt2_are_one_layer_there(tmp_path):
    model = decoder("GPT2")
    targets = ".*layer_0.*(query|value|feedforward_output.*)"
    add_adapters(model, LoRA({".*query": 1, ".*": 2}, alpha=3), targets)
    for variable in model.trainable_variables:
        noise = rng.standard_normal(variable.shape)
        variable.assign(variable + noise.astype("float32"))
    save_adapters(model, tmp_path, format="peft")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    attention = f"{START}transformer.h.0.attn.c_attn"
    a, b = (tensors[f"{attention}.lora_{x}.weight"] for x in "AB")
    assert (a.shape, b.shape) == ((3, 8), (24, 3))
    expected = changes(model)
    query, key, value = np.split(3.0 * b @ a, 3)
    assert not key.any()
    layer = "transformer_layer_0/self_attention"
    np.testing.assert_allclose(query, expected[f"{layer}/query"], atol=1e-6)
    np.testing.assert_allclose(value, expected[f"{layer}/value"], atol=1e-6)
    fresh = load_adapters(decoder("GPT2"), tmp_path)
    for path, change in changes(fresh).items():
        wanted = expected.get(path, np.zeros_like(change))
        np.testing.assert_allclose(change, wanted, atol=1e-6)
    assert len(changes(fresh)) == 4
    add_adapters(model, LoRA(variant="dora"), targets, name="dora")
    with pytest.raises(ValueError, match="DoRA cannot join"):
        save_adapters(model, tmp_path, name="dora", format="peft")
