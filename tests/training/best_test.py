
import keras
import pytest

import finetune_keras as ft
from finetune_keras.training.best import Best, check_monitor

pytestmark = pytest.mark.backends
layers = keras.layers


def test_losses_are_compared_without_what_regularisers_add():
    inputs = keras.Input((3,))
    regularizer = keras.regularizers.L2(0.5)
    x = layers.Dense(2, kernel_regularizer=regularizer, name="low")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    model.get_layer("low").kernel.assign(keras.ops.full((3, 2), 2.0))
    model.compile("sgd", "mse")
    best = Best("val_loss", ft.layer_groups(model))
    kept = []
    for phase, value in (("head", 3.0), ("all", 14.0)):
        ft.freeze(model)
        ft.unfreeze(model, phase)
        best.begin_phase(ft.Phase(phase))
        best.end_epoch(0, {"val_loss": value})
        kept.append(best.value)
    assert kept == [3.0, 2.0]


def test_epochs_without_validation_are_left_out_if_asked():
    logs = {"loss": 1.0}
    assert Best("val_loss", may_skip=True).value_of(logs) is None
    with pytest.raises(ValueError, match="monitor='val_loss'"):
        Best("val_loss").value_of(logs)
    with pytest.raises(ValueError, match="monitor='val_error'"):
        Best("val_error", may_skip=True).value_of({"val_loss": 1.0})
    with pytest.raises(ValueError, match="validation=None"):
        check_monitor([], "val_accuracy", None)


def test_mode():
    assert Best("val_loss", mode="max").is_better(2.0, 1.0)
    assert Best("val_Accuracy").is_better(2.0, 1.0)
    with pytest.raises(ValueError, match="monitor='val_thing'"):
        Best("val_thing")
