import keras
import numpy as np

import finetune_keras as ft
from finetune_keras.models.model import FineTuneModel
from finetune_keras.testing import randomize


@keras.saving.register_keras_serializable(package="trainable_set_test")
class Block(keras.layers.Layer):
    """Inner layers have the names that Keras counts."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = keras.layers.Dense(units, activation="relu")
        self.second = keras.layers.Dense(units)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((*input_shape[:-1], self.units))

    def call(self, inputs):
        return self.second(self.first(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def flags(model):
    return [variable.trainable for variable in model.weights]


def test_flags_survive_names_that_are_counted_anew(tmp_path):
    inputs = keras.Input((4,))
    x = Block(4, name="lower")(inputs)
    x = Block(4, name="upper")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    randomize(model)
    ft.freeze(model, "lower")
    ft.freeze(model, [model.get_layer("upper").second])
    assert isinstance(model, FineTuneModel)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    first = loaded.get_layer("lower").first
    assert first.name != model.get_layer("lower").first.name
    assert flags(loaded) == flags(model)
    assert sum(flags(model)) == 4
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected)
