"""What a `.keras` file keeps of adapters, and what other models see of them."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.engine import graph
from finetune_keras.testing.processes import FreshProcess

pytestmark = pytest.mark.usefixtures("op_by_op")
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.eye(8, 2, dtype="float32")


def small(name="model"):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="a")(inputs)
    x = keras.layers.Dense(4, name="b")(x)
    outputs = keras.layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs, name=name))


def fill(model):
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        noise = 0.3 * rng.standard_normal(variable.shape)
        variable.assign(variable + noise.astype("float32"))


def predict(model, x=X):
    return keras.ops.convert_to_numpy(model(x, training=False))


def reload(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def trained(model):
    paths = {id(v): path for path, v in graph.weights_by_path(model).items()}
    return [paths[id(v)] for v in model.trainable_variables]


@pytest.mark.backends
def test_other_models_of_the_layers_stay_right():
    model = small()
    features = keras.Model(model.input, model.get_layer("b").output)
    ft.add_adapters(model, ft.LoRA(rank=2), ["a", "b"])
    fill(model)
    before, own = predict(features), predict(model)
    ft.merge_adapters(model)
    np.testing.assert_allclose(predict(features), before, atol=1e-5)
    np.testing.assert_allclose(predict(model), own, atol=1e-5)

    ft.add_adapters(model, ft.LoRA(rank=2), "a")
    fill(model)
    features.compile()
    assert np.abs(predict(features) - before).max() > 1e-2
    ft.remove_adapters(model)
    np.testing.assert_allclose(predict(features), before, atol=1e-5)


@pytest.mark.parametrize("outer", ["a", "b"])
def test_adapters_of_an_inner_model_are_kept_once(outer, tmp_path):
    inner = small("inner")
    ft.add_adapters(inner, ft.LoRA(rank=2), "a", name="one")
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(2, name="top")(inner(inputs))
    model = keras.Model(inputs, outputs)
    ft.add_adapters(model, ft.LoRA(rank=2), outer, name="two")
    ft.unfreeze(model, "adapter_one")
    ft.set_adapter(model, {"one": 0.5, "two": 1.0})
    fill(model)
    loaded = reload(model, tmp_path)
    assert len(loaded.weights) == len(model.weights)
    assert trained(loaded) == trained(model)
    np.testing.assert_allclose(predict(loaded), predict(model), atol=1e-5)
    again = reload(loaded, tmp_path)
    ft.set_adapter(again, "two")
    ft.set_adapter(model, "two")
    np.testing.assert_allclose(predict(again), predict(model), atol=1e-5)
    alone = reload(inner, tmp_path)
    np.testing.assert_allclose(predict(alone), predict(inner), atol=1e-5)


def test_the_order_of_adapters_is_kept(tmp_path):
    model = small()
    ft.add_adapters(model, ft.LoRA(rank=2), "b", name="task_1")
    ft.add_adapters(model, ft.LoRA(rank=2), ["a", "b"], name="task_2")
    assert trained(reload(model, tmp_path)) == trained(model)

    ft.unfreeze(model, ["adapter_task_1", "adapter_task_2"])
    ft.set_adapter(model, {"task_1": 1.0, "task_2": 1.0})
    model.compile(keras.optimizers.Adam(0.05), "mse")
    options = {"epochs": 3, "shuffle": False, "verbose": 0}
    model.fit(X, Y, **options)
    loaded = reload(model, tmp_path)
    assert trained(loaded) == trained(model)
    # The moments of the optimizer belong to the same weights.
    model.fit(X, Y, **options)
    loaded.fit(X, Y, **options)
    np.testing.assert_allclose(predict(loaded), predict(model), atol=1e-5)


@keras.saving.register_keras_serializable(package="saved_model_test")
class Stack(keras.layers.Layer):
    """Blocks that all have one name, which Keras allows."""

    def build(self, shape):
        self.blocks = [keras.layers.Dense(4, name="same") for _ in range(3)]
        for block in self.blocks:
            block.build(shape)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_equal_paths_are_an_error():
    inputs = keras.Input((4,))
    x = Stack(name="stack")(inputs)
    outputs = keras.layers.Dense(2, name="head")(x)
    model = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match="3 layers .* path 'stack/same'"):
        ft.add_adapters(model, ft.LoRA(rank=2), ".*same")
    assert type(model) is type(keras.Model(inputs, outputs))


@pytest.mark.backends
def test_single_frozen_weights_stay_frozen(tmp_path):
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="a")]
    layers.append(keras.layers.Dense(2, name="head"))
    for model in (small(), keras.Sequential(layers)):
        ft.add_adapters(model, ft.LoRA(rank=2), "a")
        adapter = model.get_layer("a").adapter_default
        adapter.lora_a.kernel.trainable = False
        model.get_layer("head").bias.trainable = False
        assert len(trained(model)) == 2
        assert trained(reload(model, tmp_path)) == trained(model)


@pytest.mark.backends("True")
@pytest.mark.parametrize("loaded", [False, True])
def test_a_merged_model_needs_keras_alone(loaded, tmp_path):
    model = small()
    plain = type(model)
    ft.add_adapters(model, ft.LoRA(rank=2), "a")
    fill(model)
    if loaded:
        model = reload(model, tmp_path)
    ft.merge_adapters(model)
    assert type(model) is plain
    model.save(tmp_path / "merged.keras")
    np.save(tmp_path / "expected.npy", predict(model))
    np.save(tmp_path / "x.npy", X)
    code = (
        "import keras, numpy as np\n"
        "model = keras.models.load_model('merged.keras')\n"
        "found = model.predict(np.load('x.npy'), verbose=0)\n"
        "assert np.allclose(found, np.load('expected.npy'), atol=1e-5)\n"
        "assert len(model.trainable_variables) == 2\n"
    )
    process = FreshProcess("-c", code, cwd=tmp_path)
    assert process.wait() == 0, process.stderr


@keras.saving.register_keras_serializable(package="saved_model_test")
class OwnDense(keras.layers.Dense):
    pass


@pytest.mark.backends
def test_a_plain_model_of_adapted_layers_of_ones_own_loads(tmp_path):
    inputs = keras.Input((4,))
    x = OwnDense(4, name="own")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.LoRA(rank=2), "own")
    features = keras.Model(inputs, model.get_layer("own").output)
    base = model.get_layer("own").get_weights()[0]
    features.save(tmp_path / "features.keras")
    loaded = keras.models.load_model(tmp_path / "features.keras")
    assert isinstance(loaded.layers[-1], OwnDense)
    np.testing.assert_array_equal(loaded.layers[-1].kernel, base)
