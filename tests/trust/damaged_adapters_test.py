"""A damaged adapter file is told, and leaves the model as it was."""

import json

import keras
import numpy as np
import pytest

import finetune_keras as ft

safetensors = pytest.importorskip("safetensors.numpy")

ABSENT = object()
VALUES = [ABSENT, None, -1, ["body", "body"], {"a": 1}]


def base():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="body")(inputs)
    outputs = keras.layers.Dense(2, name="head")(hidden)
    model = keras.Model(inputs, outputs)
    for variable in model.weights:
        values = np.linspace(-1, 1, int(np.prod(variable.shape)))
        variable.assign(values.reshape(variable.shape))
    return model


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """What a good file holds: its metadata and its arrays."""
    model = base()
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    path = tmp_path_factory.mktemp("adapter") / "law"
    ft.save_adapters(model, path)
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        arrays = {k: file.get_tensor(k) for k in list(file.keys())}
        return path, file.metadata(), arrays


def state(model):
    return (
        type(model),
        [(v.path, v.trainable, v.numpy().tolist()) for v in model.weights],
    )


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def changed(facts, path, value):
    facts = json.loads(json.dumps(facts))
    here = facts
    for key in path[:-1]:
        here = here[key]
    if value is ABSENT:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return facts


def assert_told(load, model, target):
    """A clear error, and the model as before; or it was no harm."""
    before = state(model)
    try:
        load(model, target)
    except ValueError as error:
        assert str(target) in str(error) and "Received" in str(error)
        assert state(model) == before
        return True
    return False


def test_any_damage_to_the_facts_is_told_or_does_no_harm(stored, tmp_path):
    _, metadata, arrays = stored
    facts = json.loads(metadata["facts"])
    target, refused, let_in = tmp_path / "law", 0, 0
    model = base()
    # The weights of the base are alike.
    alike = [("base", key) for key in list(facts["base"])[1:]]
    for path in list(places(facts))[1:]:
        if path[:2] in alike:
            continue
        for value in VALUES:
            text = json.dumps(changed(facts, path, value))
            data = safetensors.save(arrays, {**metadata, "facts": text})
            target.write_bytes(data)
            if assert_told(ft.load_adapters, model, target):
                refused += 1
            else:
                let_in += 1
                assert np.isfinite(model(np.ones((1, 4)))).all()
                model = base()
    assert refused > 2 * let_in > 0


def test_facts_that_are_none_are_told(stored, tmp_path):
    _, metadata, arrays = stored
    target = tmp_path / "law"
    for text in ("", "{", "[]", "null", "3", '"x"', "[" * 100_000):
        target.write_bytes(
            safetensors.save(arrays, {**metadata, "facts": text})
        )
        assert assert_told(ft.load_adapters, base(), target), text
    for other in (None, {}, {"format": "pt"}, {"format": metadata["format"]}):
        target.write_bytes(safetensors.save(arrays, other))
        assert assert_told(ft.load_adapters, base(), target), other


def test_weights_that_lack_or_do_not_fit_are_told(stored, tmp_path):
    _, metadata, arrays = stored
    target = tmp_path / "law"
    for name in arrays:
        rest = {k: v for k, v in arrays.items() if k != name}
        for other in (
            rest,
            {**rest, name: np.zeros((2, 9), "float32")},
            {**arrays, f"{name}x": arrays[name]},
            {**arrays, "nothing": arrays[name]},
        ):
            target.write_bytes(safetensors.save(other, metadata))
            assert assert_told(ft.load_adapters, base(), target), name


def test_a_file_that_is_cut_off_is_told(stored, tmp_path):
    data = stored[0].read_bytes()
    target = tmp_path / "law"
    for size in (0, 4, 100, len(data) // 2, len(data) - 1):
        target.write_bytes(data[:size])
        assert assert_told(ft.load_adapters, base(), target), size


def test_a_damaged_folder_of_peft_is_told(small_bert, tmp_path):
    model = ft.replace_head(small_bert[0], 2, pooling="token")
    ft.add_adapters(model, ft.LoRA(rank=2))
    ft.save_adapters(model, tmp_path, format="peft")
    config = tmp_path / "adapter_config.json"
    weights = tmp_path / "adapter_model.safetensors"
    good = config.read_text(), weights.read_bytes()
    ft.remove_adapters(model)
    for text in ("", "[]", "null", '{"peft_type": "LORA"}'):
        config.write_text(text)
        assert assert_told(ft.load_adapters, model, tmp_path), text
    for value in (None, "x", -1, 0, [2], 1.5):
        text = json.dumps({**json.loads(good[0]), "r": value})
        config.write_text(text)
        assert assert_told(ft.load_adapters, model, tmp_path), value
    config.write_text(good[0])
    for data in (b"", good[1][:200], good[1][:-1]):
        weights.write_bytes(data)
        assert assert_told(ft.load_adapters, model, tmp_path)
    weights.write_bytes(good[1])
    assert not assert_told(ft.load_adapters, model, tmp_path)
