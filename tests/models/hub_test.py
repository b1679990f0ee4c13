import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("SavedModels run on TensorFlow", allow_module_level=True)
Y = np.arange(6) % 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A BERT as a SavedModel: its folder, its inputs, its outputs."""
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    bert = hub.models.BertBackbone(
        vocabulary_size=25,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=32,
    )
    randomize(bert)
    inner = keras.Model(bert.input, bert.output["pooled_output"])
    folder = tmp_path_factory.mktemp("exported") / "bert"
    inner.export(folder, format="tf_saved_model", verbose=False)
    rng = np.random.default_rng(0)
    x = {
        "token_ids": rng.integers(1, 25, (6, 9)).astype("int32"),
        "segment_ids": np.zeros((6, 9), "int32"),
        "padding_mask": np.ones((6, 9), "int32"),
    }
    return folder, x, inner.predict(x, verbose=0)


def build(folder, x):
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name) for name in x
    }
    layer = ft.HubLayer(folder, name="bert")
    outputs = keras.layers.Dense(2, activation="softmax", name="head")(
        layer(inputs)
    )
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    return layer, model


def values(layer):
    return [variable.numpy() for variable in layer.weights]


def test_outputs_are_those_of_the_exported_model(exported):
    folder, x, expected = exported
    layer, _ = build(folder, x)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_gradients_flow_and_a_step_moves_it(exported):
    folder, x, _ = exported
    layer, model = build(folder, x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x)[:, 0] ** 2)
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_weights])
    assert all(gradient is not None for gradient in gradients)
    before = values(layer)
    model.fit(x, Y, verbose=0)
    moved = [(a != b).any() for a, b in zip(values(layer), before, strict=True)]
    assert sum(moved) >= len(layer.trainable_weights) - 3 > 15


def test_frozen_stays_bit_equal(exported):
    folder, x, _ = exported
    layer, model = build(folder, x)
    ft.freeze(model, "bert")
    model.compile("adam", "sparse_categorical_crossentropy")
    before, head = values(layer), model.get_layer("head").get_weights()
    model.fit(x, Y, epochs=2, verbose=0)
    for a, b in zip(values(layer), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (model.get_layer("head").get_weights()[0] != head[0]).any()


def test_round_trip_in_a_fresh_process(exported):
    from finetune_keras.testing import fresh_process

    folder, x, _ = exported
    layer, model = build(folder, x)
    model.fit(x, Y, verbose=0)
    loaded = fresh_process.reload(model, x, ["finetune_keras"])
    (outputs,) = loaded["outputs"]
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-5)
    assert len(loaded["trainable"]) == len(model.trainable_weights)


def test_plans_run_on_it(exported):
    folder, x, _ = exported
    layer, model = build(folder, x)
    plan = ft.Plan([ft.Phase("head", 1, 1e-2), ft.Phase("all", 1, 1e-3)])
    before = values(layer)
    history = ft.fine_tune(model, plan, (x, Y), verbose=0)
    assert len(history.ledger) == 2
    pairs = zip(values(layer), before, strict=True)
    assert any((a != b).any() for a, b in pairs)


class Scaled(tf.Module):
    """A reusable SavedModel that counts its calls in training."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.random.normal((4, 3)), name="a/kernel")
        self.count = tf.Variable(0.0, trainable=False, name="count")

    @tf.function
    def __call__(self, x, training=False):
        if training:
            self.count.assign_add(1.0)
        return x @ self.kernel


@pytest.fixture
def reusable(tmp_path):
    module, spec = Scaled(), tf.TensorSpec((None, 4))
    for training in (True, False):
        module.__call__.get_concrete_function(spec, training=training)
    tf.saved_model.save(module, str(tmp_path / "scaled"))
    return tmp_path / "scaled", module


def test_training_is_passed_on_unless_frozen(reusable):
    folder, module = reusable
    layer = ft.HubLayer(folder)
    assert len(layer.trainable_weights) == 1 and len(layer.weights) == 2
    x = tf.random.normal((2, 4))
    np.testing.assert_allclose(layer(x), x @ module.kernel, atol=1e-6)
    layer(x, training=True)
    (count,) = layer.non_trainable_weights
    assert float(count.value) == 1.0
    layer.trainable = False
    layer(x, training=True)
    assert float(count.value) == 1.0


def test_under_a_mirrored_strategy(reusable):
    folder, _ = reusable
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((4,)), ft.HubLayer(folder), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.ones(8), verbose=0)


def test_mixed_precision_leaves_it_in_float32(reusable):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = ft.HubLayer(reusable[0])
    assert layer(tf.ones((2, 4), tf.bfloat16)).dtype == tf.float32


def test_signatures_and_output_keys(exported, reusable):
    folder, x, expected = exported
    layer = ft.HubLayer(folder, signature="serving_default")
    key = next(iter(layer(x)))
    layer = ft.HubLayer(folder, signature="serving_default", output_key=key)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="no signature 'train'"):
        ft.HubLayer(folder, signature="train")
    with pytest.raises(ValueError, match="output_key='x'"):
        ft.HubLayer(folder, "serving_default", "x")(x)


def test_missing_models_are_told(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        ft.HubLayer(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no saved_model.pb"):
        ft.HubLayer(tmp_path)


def test_handles_need_tensorflow_hub(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(ImportError, match=r"finetune_keras\[hub\]"):
        ft.HubLayer("https://tfhub.dev/google/nnlm/1")


class OneWave(tf.Module):
    """As YAMNet: a waveform without a batch to scores and embeddings."""

    def __init__(self):
        super().__init__()
        kernel = np.random.default_rng(0).normal(size=(8, 3))
        self.kernel = tf.Variable(kernel.astype("float32"), name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None], "float32")])
    def __call__(self, wave):
        frames = tf.signal.frame(wave, 8, 4)
        embeddings = tf.tanh(frames @ self.kernel)
        return tf.reduce_mean(embeddings, 0), embeddings, frames


@pytest.mark.usefixtures("op_by_op")
def test_one_example_after_the_other(tmp_path):
    """What takes no batch is trained, saved and loaded all the same."""
    tf.saved_model.save(OneWave(), tmp_path / "wave")
    layer = ft.HubLayer(
        tmp_path / "wave", output_key=1, per_example=True, name="wave"
    )
    inputs = keras.Input((40,))
    model = ft.replace_head(keras.Model(inputs, layer(inputs)), 2)
    assert model.get_layer("wave").output.shape == (None, 9, 3)
    x = np.random.default_rng(1).normal(size=(5, 40)).astype("float32")
    frames = np.stack([x[:, i : i + 8] for i in range(0, 33, 4)], 1)
    expected = np.tanh(frames @ OneWave().kernel.numpy())
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x)[:, 0])
    (gradient,) = tape.gradient(loss, [layer.weights[0].value])
    assert np.abs(gradient).max() > 0
    again = ft.HubLayer.from_config(layer.get_config())
    np.testing.assert_array_equal(again(x), layer(x))
    with pytest.raises(ValueError, match=r"outputs \[0, 1, 2\]"):
        ft.HubLayer(tmp_path / "wave", output_key=3, per_example=True)(x)
