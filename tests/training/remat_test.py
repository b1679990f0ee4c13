"""Blocks that are computed again: the same gradients."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing

rng = np.random.default_rng(3)
X = rng.standard_normal((8, 5, 8)).astype("float32")
Y = rng.standard_normal((8, 2)).astype("float32")
CALLS = []


@keras.saving.register_keras_serializable("remat_test")
class Block(keras.layers.Layer):
    """As those of transformers: layers inside, a mask by name."""

    def __init__(self, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
        self.mlp = keras.layers.Dense(8, activation="tanh", name="mlp")
        self.drop = keras.layers.Dropout(rate, name="drop")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.mlp.build(shape)

    def call(self, x, scale=None, training=False):
        if training:
            CALLS.append(self.name)
        x = x + self.attention(x * scale, x)
        return x + self.drop(self.mlp(x), training=training)


def model_of(rate=0.0):
    inputs = keras.Input((5, 8))
    scale = keras.layers.Dense(1, name="scale")(inputs)
    x = Block(rate, name="block_1")(inputs, scale=scale)
    x = Block(rate, name="block_2")(x, scale=scale)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    testing.randomize(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


PLAN = ft.Plan([ft.Phase("all", epochs=2, learning_rate=1e-3)])


@pytest.mark.backends
def test_gradients_are_the_same_and_blocks_are_computed_again():
    weights = {}
    for remat in (False, True):
        CALLS.clear()
        model = model_of()
        ft.fine_tune(
            model, PLAN, (X, Y), batch_size=4, shuffle=False, remat=remat,
            verbose=0,
        )  # fmt: skip
        weights[remat] = testing.weights_snapshot(model)
        assert "call" not in vars(model.get_layer("block_1"))
    for path, value in weights[False].items():
        np.testing.assert_allclose(weights[True][path], value, atol=1e-6)


@pytest.mark.usefixtures("op_by_op")
def test_each_step_computes_blocks_twice():
    counts = {}
    for remat in (False, True):
        model = model_of()
        CALLS.clear()
        ft.fine_tune(model, PLAN, (X, Y), batch_size=4, remat=remat, verbose=0)
        counts[remat] = CALLS.count("block_1")
    assert counts == {False: 4, True: 8}


def test_what_cannot_be_computed_again_is_refused():
    with pytest.raises(ValueError, match="'block_1' holds 'drop'"):
        ft.fine_tune(model_of(0.1), PLAN, (X, Y), remat=True)
    inputs = keras.Input((8,))
    plain = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="the model has none"):
        ft.fine_tune(plain, PLAN, (X[:, 0], Y), remat=True)
    with pytest.raises(ValueError, match="remat='full'"):
        ft.fine_tune(plain, PLAN, (X[:, 0], Y), remat="full")
