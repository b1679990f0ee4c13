"""Plans, resuming and methods of one's own, with adapters."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.adapters.adapter import add_adapters
from finetune_keras.adapters.layer import AdapterLayer
from finetune_keras.adapters.lora import LoRA, lora_plus_multipliers
from finetune_keras.adapters.merge import merge_adapters
from finetune_keras.adapters.method import Method

rng = np.random.default_rng(3)
x = rng.standard_normal((16, 4)).astype("float32")
y = np.eye(16, 2)
PLAN = ft.Plan(
    [
        ft.Phase("head", epochs=1, learning_rate=1e-2),
        ft.Phase(["adapter_default", "head"], epochs=3, learning_rate=1e-2),
        ft.Phase("all", epochs=1, learning_rate=1e-3, layerwise_lr_decay=0.5),
    ]
)


def adapted():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    z = keras.layers.Dense(6, activation="tanh", name="body")(inputs)
    outputs = keras.layers.Dense(2, name="head")(z)
    model = testing.randomize(keras.Model(inputs, outputs))
    add_adapters(model, LoRA(rank=2, dropout=0.1), "body")
    model.compile("adam", "mse")
    return model


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = adapted()
    keras.utils.set_random_seed(7)
    ft.fine_tune(
        whole, PLAN, (x, y), verbose=0, checkpoint_dir=tmp_path / "whole"
    )
    model = adapted()
    keras.utils.set_random_seed(7)
    with pytest.raises(KeyboardInterrupt):
        ft.fine_tune(
            model,
            PLAN,
            (x, y),
            verbose=0,
            checkpoint_dir=tmp_path / "killed",
            callbacks=[Kill()],
        )
    again = adapted()
    ft.fine_tune(
        again, PLAN, (x, y), verbose=0, checkpoint_dir=tmp_path / "killed"
    )
    expected = testing.weights_snapshot(whole)
    for path, value in testing.weights_snapshot(again).items():
        np.testing.assert_allclose(value, expected[path], atol=1e-6)


def test_the_summary_and_the_layer_groups_count_adapters():
    model = adapted()
    body, head = ft.layer_groups(model)
    assert [layer.name for layer in body.layers] == [
        "body",
        "adapter_default",
        "lora_a",
        "lora_b",
    ]
    text = str(ft.trainable_summary(model))
    assert "Trainable: 34 of 65 parameters" in text
    assert head.name == "head"


def test_layer_groups_keep_their_names():
    base = ft.backbone(
        "MobileNet", weights=None, alpha=0.25, input_shape=(32, 32, 3)
    )
    model = ft.replace_head(base, 2)
    before = [group.name for group in ft.layer_groups(model)]
    add_adapters(model, LoRA(rank=2))
    assert [group.name for group in ft.layer_groups(model)] == before


def test_lora_plus_rates_are_kept_by_a_plan():
    model = adapted()
    optimizer = ft.layerwise_optimizer(
        "adam", model, multipliers=lora_plus_multipliers(model, 8)
    )
    model.compile(optimizer, "mse")
    ft.fine_tune(model, ft.Plan(PLAN[:2]), (x, y), verbose=0)
    rates = {
        variable.path: optimizer.learning_rate_multiplier(variable)
        for variable in model.trainable_variables
    }
    assert rates == {
        "body/adapter_default/lora_a/kernel": 1.0,
        "body/adapter_default/lora_b/kernel": 8.0,
        "head/kernel": 1.0,
        "head/bias": 1.0,
    }


class Gain(AdapterLayer):
    def build(self, input_shape):
        super().build(input_shape)
        self.gain = self.add_weight((1,), "zeros", name="gain")

    def change(self, inputs, outputs):
        return outputs * self.gain

    def weight_changes(self):
        base = self._base()
        return [(v, v * self.gain) for v in (base.kernel, base.bias)]


@keras.saving.register_keras_serializable(package="plan_test")
class GainMethod(Method):
    def supports(self, layer):
        return isinstance(layer, keras.layers.Dense)

    def layer_for(self, layer, name):
        return Gain(layer, self, name)


def test_a_method_of_ones_own_lives_the_same_life(tmp_path):
    model = adapted()
    merge_adapters(model)
    start = model.predict(x, verbose=0)
    add_adapters(model, GainMethod(), name="gain")
    np.testing.assert_allclose(model.predict(x, verbose=0), start, atol=1e-6)
    model.compile("sgd", "mse")
    model.fit(x, y, epochs=3, verbose=0)
    trained = model.predict(x, verbose=0)
    assert float(model.get_layer("body").adapter_gain.gain[0]) != 0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), trained, atol=1e-6)
    merge_adapters(model)
    np.testing.assert_allclose(model.predict(x, verbose=0), trained, atol=1e-5)
