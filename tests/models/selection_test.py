import re

import keras
import numpy as np
import pytest

import finetune_keras as ft

pytestmark = pytest.mark.backends
layers = keras.layers


def model_with_attention():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    x = attention(inputs, inputs)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def selected(layer_spec):
    found = ft.select_layers(model_with_attention(), layer_spec)
    return [layer.name for layer in found if layer.weights]


@pytest.mark.parametrize(
    "spec, names",
    [
        ("attention", ["query", "key", "value", "attention_output"]),
        (r".*/(query|value)", ["query", "value"]),
        (re.compile(r"nor.*"), ["norm"]),
        ("head", ["logits"]),
        ("logits", ["logits"]),
        (layers.LayerNormalization, ["norm"]),
        (keras.layers.MultiHeadAttention, None),
        (-1, ["logits"]),
        (slice(-3, None), ["norm", "logits"]),
        (lambda layer: layer.name == "key", ["key"]),
        (["head", "norm", "norm"], ["norm", "logits"]),
    ],
)
def test_every_kind_of_specification(spec, names):
    if names is None:
        names = ["query", "key", "value", "attention_output"]
    assert selected(spec) == names


def test_backbone_and_all():
    model = model_with_attention()
    everything = ft.select_layers(model)
    backbone = ft.select_layers(model, "backbone")
    assert [x for x in everything if x not in backbone] == [model.layers[-1]]
    group = ft.layer_groups(model)[0]
    assert ft.select_layers(model, group) == group.layers
    attention = ft.select_layers(model, model.layers[1])
    assert attention == ft.select_layers(model, "attention")


def test_input_layers_in_a_list_select_nothing():
    model = model_with_attention()
    found = ft.select_layers(model, model.layers[:-1])
    assert found and model.layers[0] not in found


@pytest.mark.parametrize(
    "spec, message",
    [
        ("atention", r"attention"),
        ("norm_", "'norm'"),
        (r".*/nothing", "layer groups are"),
        ("(", "regular expression"),
        (17, "17"),
        ([], "empty"),
        (slice(9, 12), "No layer"),
        (layers.Conv2D, "Conv2D"),
        (lambda layer: False, "No layer"),
        (["head", "nope"], "nope"),
        (True, "True"),
        (None, "None"),
        (3.5, "3.5"),
    ],
)
def test_no_match_is_an_error_that_helps(spec, message):
    with pytest.raises(ValueError, match=message):
        ft.select_layers(model_with_attention(), spec)


def test_layer_of_another_model_is_refused():
    stranger = layers.Dense(2, name="stranger")
    stranger(np.ones((1, 2)))
    with pytest.raises(ValueError, match="stranger"):
        ft.select_layers(model_with_attention(), stranger)
