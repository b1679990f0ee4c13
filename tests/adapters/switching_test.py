"""Many tasks from one base: hundreds of switches in a compiled `predict`."""

import gc
import pathlib

import keras
import numpy as np

from finetune_keras import testing
from finetune_keras.adapters.adapter import (
    add_adapters,
    disable_adapters,
    set_adapter,
)
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.scales_and_biases import IA3

COUNT = 10
SWITCHES = 400
rng = np.random.default_rng(0)


class Traces(keras.layers.Layer):
    """Counts how often Python runs through it; compiled code does not."""

    count = 0

    def call(self, inputs):
        self.count += 1
        return inputs + 0.0


def served():
    inputs = keras.Input((6,))
    x = Traces(name="traces")(inputs)
    x = keras.layers.Dense(8, activation="tanh", name="one")(x)
    x = keras.layers.Dense(8, activation="tanh", name="two")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    testing.randomize(model)
    for i in range(COUNT):
        method = LoRA(rank=2) if i % 2 else IA3()
        add_adapters(model, method, ["one", "two"], name=f"task_{i}")
        for variable in model.trainable_variables:
            if "adapter_" in variable.path:
                noise = 0.5 * rng.standard_normal(variable.shape)
                variable.assign(variable + noise.astype("float32"))
    return model


def resident():
    """Bytes of memory in use, 0 where the system does not tell."""
    file = pathlib.Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * 4096 if file.exists() else 0


def test_hundreds_of_switches_cost_no_trace_and_no_memory():
    model = served()
    x = rng.standard_normal((4, 6)).astype("float32")
    expected = {}
    for i in range(COUNT):
        set_adapter(model, f"task_{i}")
        y = model(x, training=False)
        expected[f"task_{i}"] = keras.ops.convert_to_numpy(y)
    with disable_adapters(model):
        y = model(x, training=False)
        expected["off"] = keras.ops.convert_to_numpy(y)
    outputs = np.stack(list(expected.values()))
    apart = np.abs(outputs[:, None] - outputs).max((2, 3))
    assert apart[~np.eye(len(apart), dtype=bool)].min() > 1e-2

    def check(name):
        y = model.predict_on_batch(x)
        np.testing.assert_allclose(y, expected[name], rtol=1e-4, atol=1e-5)

    names = rng.choice(list(expected), SWITCHES)
    memory = []
    for step, name in enumerate(names):
        if step % 100 == 0 and step:
            memory.append(resident())
        if step == 100:
            gc.collect()
            traces = model.get_layer("traces").count
            function = model.predict_function
            objects = len(gc.get_objects())
        if name == "off":
            with disable_adapters(model):
                check(name)
        else:
            set_adapter(model, str(name))
            check(name)
    gc.collect()
    assert model.predict_function is function
    if keras.backend.backend() != "torch":
        assert model.get_layer("traces").count == traces
    assert len(gc.get_objects()) - objects < 75
    # The process around it may grow once; a leak grows all the time.
    assert np.median(np.diff([*memory, resident()])) < 1e6
    np.testing.assert_allclose(
        model.predict(x, verbose=0), model.predict_on_batch(x), atol=1e-6
    )
