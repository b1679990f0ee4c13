import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers


def net():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv>net")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(2, 3, name="second")(x)
    return ft.replace_head(keras.Model(inputs, x, name="net"), 3)


@pytest.mark.backends
def test_rows_and_totals():
    model = net()
    ft.freeze(model)
    ft.unfreeze(model, ["second", "head"])
    summary = ft.trainable_summary(model)
    assert [row["group"] for row in summary.rows][1:] == ["second", "head"]
    assert [row["parameters"] for row in summary.rows] == [112 + 16, 74, 9]
    assert [row["trainable"] for row in summary.rows] == [0, 74, 9]
    assert [row["batch_norm"] for row in summary.rows] == ["frozen", "-", "-"]
    assert summary.num_params == model.count_params()
    assert summary.num_trainable == 83
    assert "39.3 %" in str(summary)


@pytest.mark.backends
@pytest.mark.parametrize("name", ["adam", "sgd", "adafactor", "rmsprop"])
def test_bytes_of_the_optimizer_are_the_real_ones(name):
    model = net()
    optimizer = keras.optimizers.get(name)
    stated = ft.trainable_summary(model, optimizer).optimizer_bytes
    scalars = len(optimizer.variables)
    optimizer.build(model.trainable_variables)
    slots = optimizer.variables[scalars:]
    real = sum(keras.ops.convert_to_numpy(slot).nbytes for slot in slots)
    assert stated == real
    assert real > 0 or name == "sgd"


@pytest.mark.backends
def test_compiled_optimizer_is_the_default_and_stays_untouched():
    model = net()
    assert ft.trainable_summary(model).optimizer_bytes is None
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    summary = ft.trainable_summary(model)
    assert summary.optimizer_bytes == 4 * summary.num_trainable
    assert not model.optimizer.built
    model.fit(np.ones((2, 8, 8, 3)), np.ones((2, 3)), verbose=0)


def test_slots_are_built_for_whom_asks_for_their_bytes(monkeypatch):
    model = net()
    built = []
    build = keras.optimizers.Adam.build

    def counted(self, variables):
        built.append(len(variables))
        return build(self, variables)

    monkeypatch.setattr(keras.optimizers.Adam, "build", counted)
    summary = ft.trainable_summary(model, "adam")
    assert summary.num_trainable > 0 and built == []
    model.trainable = False
    # What has been counted is what was trainable then.
    assert summary.optimizer_bytes == 8 * summary.num_trainable
    assert built


def test_html_is_escaped():
    text = ft.trainable_summary(net())._repr_html_()
    assert "conv>net" not in text and "conv&gt;net" in text
    assert text.count("<tr>") == 4


def several():
    adam, sgd = keras.optimizers.Adam(), keras.optimizers.SGD()
    split = keras.optimizers.OptimizerMap(sgd, {"second/.*": adam})
    return keras.optimizers.MultiOptimizer(split)


def special_optimizer(name, model):
    """An optimizer, and how many scalars it makes when it is built."""
    adam = keras.optimizers.Adam
    return {
        "nadam": lambda: (keras.optimizers.Nadam(), 1),
        "loss scale": lambda: (keras.optimizers.LossScaleOptimizer(adam()), 2),
        "several": lambda: (several(), 0),
        "l2_sp": lambda: (ft.layerwise_optimizer(adam(), model, l2_sp=0.1), 0),
        "function": lambda: (adam(rate), 0),
    }[name]()


def rate():
    return 1e-3


@pytest.mark.needs("3.15", "several")
@pytest.mark.parametrize(
    "name", ["nadam", "loss scale", "several", "l2_sp", "function"]
)
def test_bytes_of_optimizers_of_special_kinds(name):
    model = net()
    optimizer, built_scalars = special_optimizer(name, model)
    stated = ft.trainable_summary(model, optimizer).optimizer_bytes
    scalars = len(optimizer.variables) + built_scalars
    optimizer.build(model.trainable_variables)
    slots = [v for v in optimizer.variables if tuple(v.shape)]
    assert len(optimizer.variables) - len(slots) == scalars
    real = sum(keras.ops.convert_to_numpy(slot).nbytes for slot in slots)
    assert stated == real > 0
