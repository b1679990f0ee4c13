"""What is frozen stays so where layers take another name when loaded."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.engine import graph
from finetune_keras.testing.weights import randomize

layers = keras.layers
X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


@keras.saving.register_keras_serializable(package="hub_names_test")
class Block(layers.Layer):
    """As the blocks of KerasHub's MobileNet, it adds to its own name."""

    added = "_0"

    def __init__(self, name=None, **kwargs):
        name = f"{name}{self.added}"
        super().__init__(name=name, **kwargs)
        self.low = layers.Dense(3, name=f"{name}_low")
        self.top = layers.Dense(3, name=f"{name}_top")

    def build(self, shape):
        self.low.build(shape)
        self.top.build(shape)

    def call(self, x):
        return self.top(self.low(x))


def two_blocks():
    inputs = keras.Input((3,))
    left, right = Block(name="block_1")(inputs), Block(name="block_2")(inputs)
    both = layers.Concatenate()([left, right])
    model = keras.Model(inputs, layers.Dense(2, name="head")(both))
    return randomize(model)


def answer(model):
    return keras.ops.convert_to_numpy(model(X))


def frozen_names(model):
    """By what the user calls the layers, without what is added."""
    leaves = graph.leaf_layers(model).items()
    names = [path.split("/")[-1] for x, path in leaves if not x.trainable]
    return [name.replace("_0", "") for name in names]


@pytest.mark.parametrize("kept", ["low", "top"])
def test_layers_that_add_to_their_own_name_come_back_frozen(tmp_path, kept):
    """Also when loaded, saved and loaded again; and nothing else is frozen."""
    path, model = tmp_path / "model.keras", two_blocks()
    # One weight of one layer, and one layer of each block.
    ft.freeze(model, rf".*_1.*_{kept}|.*_2.*_low")
    graph.inner_layers(model.get_layer("block_2_0"))[1].bias.trainable = False
    expected = [f"block_1_{kept}", "block_2_low"]
    for _ in range(2):
        model.save(path)
        loaded = keras.models.load_model(path)
        assert frozen_names(loaded) == expected
        assert len(loaded.trainable_variables) == len(model.trainable_variables)
        np.testing.assert_allclose(answer(loaded), answer(model), atol=1e-6)
        model = loaded


def test_adapters_find_the_layers_that_add_to_their_own_name(tmp_path):
    """In the file of the model, and in a file of their own."""
    model, path = two_blocks(), tmp_path / "model.keras"
    model.save(path)
    base = keras.models.load_model(path)
    ft.add_adapters(model, ft.LoRA(rank=1), r".*_1.*_low")
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    model.save(path)
    ft.save_adapters(model, tmp_path / "law.safetensors")
    ft.load_adapters(base, tmp_path / "law.safetensors")
    for other in (keras.models.load_model(path), base):
        np.testing.assert_allclose(answer(other), answer(model), atol=1e-6)
        assert len(other.trainable_variables) == len(model.trainable_variables)


def test_frozen_layers_that_have_a_new_name_are_told(tmp_path, monkeypatch):
    """Which of the new names is meant is not guessed."""
    path, model = tmp_path / "model.keras", two_blocks()
    ft.freeze(model, r".*_low")
    model.save(path)
    monkeypatch.setattr(Block, "added", "_renamed")
    with pytest.warns(UserWarning, match="has other names.*block_1_0_low"):
        keras.models.load_model(path)


class Angles(layers.Layer):
    """Makes its weight as it is made, and is never built by its call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.angles = self.add_weight(shape=(3,), initializer="ones")

    def build(self, shape):
        super().build(shape)


class Attention(layers.Layer):
    """Tells its shape, so that a graph of it never calls what is inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.angles, self.dense = Angles(name="angles"), layers.Dense(3)

    def build(self, shape):
        self.dense.build(shape)

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return self.dense(x) * self.angles.angles


def test_a_layer_that_has_its_weights_though_unbuilt_can_be_frozen():
    """As the rotary embedding of KerasHub's SmolLM3."""
    inputs = keras.Input((3,))
    x = Attention(name="attention")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    angles = model.get_layer("attention").angles
    assert not angles.built
    for name in ("attention", "angles"):
        ft.unfreeze(model)
        ft.freeze(model, name)
        assert not angles.trainable_variables
