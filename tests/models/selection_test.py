import re

import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers
ATTENTION = ["query", "key", "value", "attention_output"]


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
        ("attention", [*ATTENTION, "norm"]),
        (r".*/(query|value)", ["query", "value"]),
        (re.compile(r"nor.*"), ["norm"]),
        ("head", ["logits"]),
        ("logits", ["logits"]),
        (layers.LayerNormalization, ["norm"]),
        (keras.layers.MultiHeadAttention, ATTENTION),
        (0, ["logits"]),
        (1, [*ATTENTION, "norm", "logits"]),
        (lambda layer: layer.name == "key", ["key"]),
        (["head", "norm", "norm"], ["norm", "logits"]),
    ],
)
def test_every_kind_of_specification(spec, names):
    assert selected(spec) == names


def test_backbone_and_all():
    model = model_with_attention()
    everything = ft.select_layers(model)
    backbone = ft.select_layers(model, "backbone")
    assert [x for x in everything if x not in backbone] == [model.layers[-1]]
    group = ft.layer_groups(model)[0]
    assert ft.select_layers(model, group) == group.layers
    assert ft.select_layers(model, "attention") == group.layers


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
        (-1, "last n groups"),
        (slice(-3, None), r"model.layers\[4:\]"),
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


def test_a_group_goes_before_a_layer_of_its_name():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="stem")(inputs)
    for name in ("mixed0", "mixed1"):
        branches = [
            layers.Conv2D(4, size, padding="same", name=f"{name}_{size}")(x)
            for size in (1, 3)
        ]
        x = layers.Concatenate(name=name)(branches)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    groups = ft.layer_groups(model)
    assert [group.name for group in groups][1:] == ["mixed0", "mixed1", "head"]
    for group in groups:
        assert ft.select_layers(model, group.name) == group.layers
    ft.freeze(model, "mixed1")
    assert len(model.trainable_variables) == 2 * (1 + 2 + 1)


def test_the_groups_that_hold_layers_of_a_plain_list():
    groups = ft.layer_groups(model_with_attention())
    last = groups.holding(groups.model.layers[-1:])
    assert last == [groups.head] and groups.holding(0) == last
    assert groups.holding("all") == list(groups)
