import re

import keras
import pytest

from finetune_keras.adapters import targets
from finetune_keras.adapters.adapter import add_adapters, set_adapter
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.targets import find_targets
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.models.layer_groups import layer_groups


def cnn():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(6, 1, name="pointwise")(x)
    x = keras.layers.Conv2DTranspose(4, 3, name="up")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(5, name="mix")(x[:, None])[:, 0]
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x))


def transformer():
    inputs = keras.Input((5, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.Dense(8, name="mlp")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x))


def paths(model, layers=None, **arguments):
    return list(find_targets(model, LoRA(**arguments), layers).values())


def test_defaults():
    assert paths(transformer()) == ["attention/query", "attention/value"]
    assert "pointwise" in paths(cnn())
    assert not {"head", "stem", "up", "norm"} & set(paths(cnn()))


@pytest.mark.parametrize(
    "name, meant",
    [
        ("query", True),
        ("value_dense", True),
        ("layer_query", True),
        ("q_proj", True),
        ("v_proj", True),
        ("key", False),
        ("values_head", False),
        ("output", False),
    ],
)
def test_names_of_projections(name, meant):
    inputs = keras.Input((5, 8))
    x = keras.layers.Dense(8, name=name)(inputs)
    x = keras.layers.Dense(8, name="query_2")(x)
    model = keras.Model(inputs, keras.layers.Dense(8, name="last")(x))
    assert (name in paths(model)) == meant


def test_plain_convolutions_get_it_where_nothing_is_pointwise():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="one")(inputs)
    x = keras.layers.Conv2D(4, 3, name="two")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    assert paths(model) == ["one", "two"]


@pytest.mark.parametrize(
    "selection, expected",
    [
        ("stem", ["stem"]),
        (keras.layers.Conv2D, ["stem", "pointwise"]),
        (r"(stem|norm)", ["stem"]),
        (re.compile("point.*"), ["pointwise"]),
        (lambda layer: layer.name == "mix", ["mix"]),
        (["stem", "head"], ["stem", "head"]),
    ],
)
def test_selections_are_those_of_freezing(selection, expected):
    assert paths(cnn(), selection) == expected


@pytest.mark.parametrize("selection", ["norm", "up", ["norm", "pool"]])
def test_layers_without_the_method_are_an_error_that_names_others(selection):
    with pytest.raises(ValueError, match="'stem', 'pointwise'") as error:
        find_targets(cnn(), LoRA(), selection)
    assert "No layer that LoRA can go into" in str(error.value)
    assert repr(selection) in str(error.value)


@pytest.mark.parametrize("selection", ["pointwize", [], r"block\d"])
def test_selections_of_nothing_are_the_error_of_freezing(selection):
    with pytest.raises(ValueError, match="layers="):
        find_targets(cnn(), LoRA(), selection)


def test_a_model_without_targets():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.LayerNormalization()(inputs))
    with pytest.raises(ValueError, match="in .'LayerNormalization'"):
        find_targets(model, LoRA())


def test_dora_leaves_embeddings_out():
    inputs = keras.Input((3,), dtype="int32")
    x = keras.layers.Embedding(5, 4, name="table")(inputs)
    x = keras.layers.Dense(4, name="body")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="head")(x))
    assert paths(model, "all") == ["table", "body"]
    assert paths(model, "all", variant="dora") == ["body"]
    with pytest.raises(ValueError, match="LoRA can go into.*'body'"):
        add_adapters(model, LoRA(variant="dora"), "table")
    assert not adapters_by_name(model)


def test_adapters_get_no_adapters():
    model = add_adapters(transformer(), LoRA(rank=2), name="one")
    add_adapters(model, LoRA(rank=2), "attention", name="two")
    found = adapters_by_name(model)
    assert list(found["two"]) == [
        f"attention/{part}"
        for part in ("query", "key", "value", "attention_output")
    ]


def test_layers_with_keras_lora_are_left_alone():
    model = transformer()
    model.get_layer("mlp").enable_lora(2)
    assert paths(model, "backbone") == [
        "attention/query",
        "attention/key",
        "attention/value",
        "attention/attention_output",
    ]


@pytest.mark.backends
def test_the_head_is_looked_for_where_layers_have_changed_alone(monkeypatch):
    searches = []

    def search(model):
        searches.append(model)
        return layer_groups(model)

    monkeypatch.setattr(targets, "layer_groups", search)
    layers = keras.layers
    body, head = layers.Dense(4, name="body"), layers.Dense(2, name="head")
    model = keras.Sequential([keras.Input((3,)), body, head])
    for name in ("one", "two"):
        add_adapters(model, LoRA(rank=1), "body", name=name)
    searches.clear()
    for name in ("one", "two", "one"):
        set_adapter(model, name)
    assert searches == [] and targets.head_layers(model) == {head}
    model.pop()
    model.add(layers.Dense(5, name="other"))
    assert targets.head_layers(model) == {model.layers[-1]}
    assert searches == [model]
