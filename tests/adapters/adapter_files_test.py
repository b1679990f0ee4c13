import sys

import keras
import numpy as np
import pytest

from finetune_keras import testing
from finetune_keras.adapters.adapter import add_adapters, set_adapter
from finetune_keras.adapters.files import load_adapters, save_adapters
from finetune_keras.adapters.lora import LoRA
from finetune_keras.models.adapters_by_path import adapters_by_name

safetensors = pytest.importorskip("safetensors")
rng = np.random.default_rng(3)
x = rng.standard_normal((6, 5, 8)).astype("float32")


def predict(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def base(units=8, classes=2, seed=0, name="body"):
    inputs = keras.Input((5, 8))
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    y = keras.layers.Dense(units, activation="relu", name=name)(y)
    y = keras.layers.GlobalAveragePooling1D(name="pool")(y)
    outputs = keras.layers.Dense(classes, name="head")(y)
    return testing.randomize(keras.Model(inputs, outputs, name="base"), seed)


def adapted(model=None, seed=1, name="default", **arguments):
    model = base() if model is None else model
    add_adapters(model, LoRA(rank=2, alpha=3, **arguments), name=name)
    head = model.get_layer("head")
    for _, adapter in adapters_by_name(model)[name].values():
        for part in (adapter.lora_a, adapter.lora_b):
            testing.randomize(part, seed)
    testing.randomize(head, seed)
    return model


@pytest.mark.backends("dora")
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_a_fresh_base_predicts_the_same(variant, tmp_path):
    model = adapted(variant=variant)
    file = tmp_path / "law.safetensors"
    save_adapters(model, file)
    other = base()
    other.get_layer("head").set_weights([np.ones((8, 2)), np.ones(2)])
    assert load_adapters(other, file) is other
    y = predict(model, x)
    np.testing.assert_allclose(predict(other, x), y, atol=1e-5)
    assert len(other.trainable_variables) == len(model.trainable_variables)
    _, adapter = adapters_by_name(other)["default"]["attention/query"]
    assert adapter.method == LoRA(rank=2, alpha=3, variant=variant)
    for places in adapters_by_name(other).values():
        for _, adapter in places.values():
            adapter.lora_b.kernel.assign(adapter.lora_b.kernel * 0)
    load_adapters(other, file)
    np.testing.assert_allclose(predict(other, x), y, atol=1e-5)


def test_several_tasks_come_from_files_of_one_base(tmp_path):
    outputs, served = {}, base()
    for seed, name in enumerate(["one", "two"], start=1):
        model = adapted(seed=seed, name=name)
        model.get_layer("head").set_weights(
            served.get_layer("head").get_weights()
        )
        save_adapters(model, tmp_path / name, name)
        outputs[name] = predict(model, x)
        load_adapters(served, tmp_path / name)
    for name in ("one", "two", "one"):
        set_adapter(served, name)
        np.testing.assert_allclose(predict(served, x), outputs[name], atol=1e-5)
    assert np.abs(outputs["one"] - outputs["two"]).max() > 1e-2


def test_the_file_holds_layer_paths_and_is_small(tmp_path):
    save_adapters(adapted(), tmp_path / "file")
    with safetensors.safe_open(str(tmp_path / "file"), "numpy") as file:
        keys = set(file.keys())
    assert keys == {
        *(
            f"adapter:attention/{part}/adapter/{factor}/kernel"
            for part in ("query", "value")
            for factor in ("lora_a", "lora_b")
        ),
        "head:head/kernel",
        "head:head/bias",
    }


def test_another_name_and_method_in_the_model(tmp_path):
    save_adapters(adapted(), tmp_path / "file")
    model = adapted(variant="rslora")
    with pytest.raises(ValueError, match="another adapter 'default' already"):
        load_adapters(model, tmp_path / "file")
    load_adapters(model, tmp_path / "file", name="law")
    assert list(adapters_by_name(model)) == ["default", "law"]
    with pytest.raises(ValueError, match="Say which adapter.*'law'"):
        save_adapters(model, tmp_path / "other")


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"units": 6}, "'body/kernel' has shape .8, 6., and .8, 8. in"),
        ({"seed": 4}, "8 of 10 weights|10 of 10 weights"),
        ({"name": "trunk"}, "has no weight 'body/kernel'"),
        ({"classes": 3}, "another head than the file"),
    ],
)
def test_a_wrong_base_is_refused_with_a_reason(wrong, reason, tmp_path):
    save_adapters(adapted(), tmp_path / "file")
    model = base(**wrong)
    before = testing.weights_snapshot(model)
    flags = [v.trainable for v in model.weights]
    with pytest.raises(ValueError, match=reason):
        load_adapters(model, tmp_path / "file")
    after = testing.weights_snapshot(model)
    assert list(before) == list(after)
    assert flags == [v.trainable for v in model.weights]


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2)}, str(tmp_path / "file"))
    with pytest.raises(ValueError, match="no file of `save_adapters`"):
        load_adapters(base(), tmp_path / "file")


def test_without_safetensors_the_extra_is_named(tmp_path, monkeypatch):
    model = adapted()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"finetune_keras\[text\]"):
        save_adapters(model, tmp_path / "file")


def unnamed(policy=None):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="relu", dtype=policy)(inputs)
    x = keras.layers.Dense(6, activation="relu", dtype=policy)(x)
    outputs = keras.layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs))


def test_layers_that_keras_numbers_are_found_again(tmp_path):
    model, other = unnamed(), unnamed()
    add_adapters(model, LoRA(rank=2))
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3)
    save_adapters(model, tmp_path / "file")
    load_adapters(other, tmp_path / "file")
    y = predict(other, x[:, 0])
    np.testing.assert_allclose(y, predict(model, x[:, 0]), atol=1e-5)


def test_loading_over_an_adapter_that_is_off_switches_it_on(tmp_path):
    model = adapted(name="law")
    save_adapters(model, tmp_path / "file")
    y = predict(model, x)
    add_adapters(model, LoRA(rank=2), name="other")
    load_adapters(model, tmp_path / "file")
    np.testing.assert_allclose(predict(model, x), y, atol=1e-5)
    trained = {v.path for v in model.trainable_variables if "adapter" in v.path}
    assert trained and all("adapter_law" in path for path in trained)


def test_what_cannot_stand_in_a_layer_is_refused_from_a_file_too(tmp_path):
    model = unnamed()
    add_adapters(model, LoRA(rank=2, variant="dora"))
    save_adapters(model, tmp_path / "file")
    other = unnamed()
    base_weights = {v.path for v in other.weights}
    other.layers[1].enable_lora(2)
    with pytest.raises(ValueError, match="another base|cannot have it"):
        load_adapters(other, tmp_path / "file")
    assert base_weights <= {v.path for v in other.weights}


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="adapter_config.json"):
        load_adapters(base(), tmp_path)
