import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache.activation_store import (
    CacheRefused,
    cache_options,
)
from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.cache.open_stacks import stacks_of
from finetune_keras.cache.prefix_cache import PrefixCache
from finetune_keras.testing import randomize
from finetune_keras.training.inputs import Inputs

layers = keras.layers
X = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
Y = np.arange(6) % 3


def vit():
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    backbone = hub.models.ViTBackbone(
        image_shape=(8, 8, 3),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=4,
        mlp_dim=8,
    )
    model = hub.models.ViTImageClassifier(backbone, num_classes=3)
    randomize(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def values(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


@pytest.fixture(scope="module")
def classifier():
    return vit()


@pytest.mark.backends
@pytest.mark.parametrize(
    "groups, stored_shape",
    [
        # The last norm is in the head, which takes the first token.
        ("head", (6, 4)),
        (1, (6, 5, 4)),
    ],
)
def test_a_stack_is_cut_between_its_blocks(classifier, groups, stored_shape):
    ft.freeze(classifier)
    ft.unfreeze(classifier, groups)
    names = [layer.name for layer in classifier._flatten_layers()]
    cache = PrefixCache(
        FlatModel(ft.layer_groups(classifier)), cache_options("auto")
    )
    ((stored, *_),) = cache.store(Inputs((X, Y), classifier, "train", 3))
    assert stored.shape == stored_shape
    found = cache.suffix(stored)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found),
        keras.ops.convert_to_numpy(classifier(X)),
        atol=1e-5,
    )
    inside = [id(v) for v in cache.suffix.trainable_variables]
    assert inside == [id(v) for v in classifier.trainable_variables]
    assert names == [layer.name for layer in classifier._flatten_layers()]


@pytest.mark.usefixtures("op_by_op")
def test_cached_training_is_uncached_training():
    phases = [ft.Phase(where, 2, learning_rate=0.01) for where in ("head", 1)]
    ends, told = [], []
    for cache in ("memory", "off"):
        model = vit()
        before = [*values(model), 0.0]
        keras.utils.set_random_seed(1)
        options = {"batch_size": 3, "cache": cache, "verbose": 0}
        history = ft.fine_tune(model, ft.Plan(phases), (X, Y), **options)
        told.append([phase["cache"] for phase in history.phases])
        ends.append([*values(model), model.predict(X, verbose=0)])
    assert all("MiB of activations after" in one for one in told[0]), told
    moved = []
    for old, one, other in zip(before, *ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        frozen = np.array_equal(old, other)
        # A frozen weight is so to the bit.
        assert np.array_equal(old, one) == frozen
        moved.append(not frozen)
    assert 0 < sum(moved) < len(moved)


@keras.saving.register_keras_serializable(package="open_stacks_test")
class Stack(keras.layers.Layer):
    """Two blocks and a norm, with a loss that no graph of them shows."""

    def build(self, shape):
        self.blocks = [
            keras.Sequential([layers.LayerNormalization(), layers.Dense(4)])
            for _ in range(2)
        ]
        self.norm = layers.LayerNormalization()
        for layer in (*self.blocks, self.norm):
            layer.build(shape)

    def call(self, x):
        for block in self.blocks:
            x = x + block(x)
        self.add_loss(keras.ops.mean(x))
        return self.norm(x)


def test_a_stack_of_the_user_stays_closed():
    inputs = keras.Input((5, 4))
    x = Stack(name="stack")(inputs)[:, 0]
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    groups = ft.layer_groups(model)
    assert [x.name for x in groups[-1].layers] == ["head"]
    assert stacks_of(groups) == []
    ft.freeze(model)
    ft.unfreeze(model, 1)
    model.compile("sgd", "mse")
    with pytest.raises(CacheRefused, match="no tensor carries all"):
        PrefixCache(FlatModel(ft.layer_groups(model)), cache_options("auto"))
