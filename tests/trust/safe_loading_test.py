"""Files of strangers run nothing; one's own are loaded where one says so."""

import json
import zipfile

import keras
import numpy as np
import pytest

import finetune_keras as ft

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("SavedModels run on TensorFlow", allow_module_level=True)

X = np.linspace(-1, 1, 24).reshape(6, 4).astype("float32")
Y = np.arange(6) % 2


class Trap(tf.saved_model.experimental.TrackableResource):
    """Writes a file when the SavedModel that holds it is loaded."""

    def __init__(self, target):
        super().__init__()
        self.target = str(target)

    def _create_resource(self):
        return tf.raw_ops.MutableHashTableV2(
            key_dtype=tf.string, value_dtype=tf.string
        )

    def _initialize(self):
        tf.io.write_file(self.target, "written by a stranger")


class Hostile(tf.Module):
    """A SavedModel that works like any other, and holds the trap."""

    def __init__(self, target):
        super().__init__()
        self.kernel = tf.Variable(np.eye(4, 3, dtype="float32"), name="kernel")
        self.trap = Trap(target)

    @tf.function(input_signature=[tf.TensorSpec((None, 4))])
    def __call__(self, x):
        # Named here, so that it is part of what is saved.
        with tf.control_dependencies([self.trap.resource_handle]):
            return x @ self.kernel


@pytest.fixture
def trap(tmp_path):
    """A folder with a hostile SavedModel, and the file that it writes."""
    target = tmp_path / "pwned.txt"
    folder = tmp_path / "hostile"
    tf.saved_model.save(Hostile(target), str(folder))
    assert not target.exists()
    return folder, target


@pytest.fixture
def own(tmp_path):
    """A model on a SavedModel of one's own."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    inner.export(tmp_path / "own", format="tf_saved_model", verbose=False)
    return with_hub(tmp_path / "own")


def with_hub(folder):
    inputs = keras.Input((4,))
    hidden = ft.HubLayer(folder, name="hub")(inputs)
    hidden = keras.layers.Dense(3, name="body")(hidden)
    outputs = keras.layers.Dense(2, activation="softmax", name="head")(hidden)
    return keras.Model(inputs, outputs)


def redirected(path, handle):
    """Changes the handle in a file, as a stranger would."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    config = json.loads(members["config.json"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "HubLayer":
            layer["config"]["handle"] = str(handle)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def test_a_bundle_that_names_another_saved_model_is_refused(
    tmp_path, own, trap
):
    folder, target = trap
    path = tmp_path / "own.keras"
    ft.save_bundle(own, path, classes=["a", "b"])
    redirected(path, folder)
    for load in (ft.load_bundle, keras.models.load_model):
        with pytest.raises(ValueError, match="hostile") as caught:
            load(path)
        assert "safe_mode=False" in str(caught.value)
        assert not target.exists()
    # The trap is one: whoever trusts the file runs it. It has other weights.
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.models.load_model(path, safe_mode=False)
    assert target.exists()


def test_an_adapter_file_that_names_a_saved_model_is_refused(tmp_path, trap):
    safetensors = pytest.importorskip("safetensors.numpy")
    folder, target = trap
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    method = {
        "module": "finetune_keras.models.hub",
        "class_name": "HubLayer",
        "config": {"handle": str(folder)},
        "registered_name": "finetune_keras>HubLayer",
    }
    facts = {"name": "law", "method": method, "layers": ["body"], "base": {}}
    safetensors.save_file(
        {"adapter:x": X},
        tmp_path / "law",
        {"format": "finetune_keras.adapters.1", "facts": json.dumps(facts)},
    )
    before = model.get_weights()
    with pytest.raises(ValueError, match="HubLayer"):
        ft.load_adapters(model, tmp_path / "law")
    assert not target.exists()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_adapted_model_takes_its_methods_from_ours_alone(tmp_path, trap):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    ft.add_adapters(model, ft.LoRA(rank=1), "body")
    config = keras.saving.serialize_keras_object(model)
    (adapter,) = config["config"]["adapters"].values()
    for found in (keras.layers.Dense(2), keras.optimizers.SGD()):
        adapter["method"] = keras.saving.serialize_keras_object(found)
        with pytest.raises(ValueError, match="must be an adapter method"):
            keras.saving.deserialize_keras_object(config)


def test_ones_own_bundle_with_a_saved_model_loads_where_one_says_so(
    tmp_path, own
):
    own.compile("sgd", "sparse_categorical_crossentropy")
    own.fit(X, Y, verbose=0)
    ft.save_bundle(own, tmp_path / "own.keras", classes=["a", "b"])
    bundle = ft.load_bundle(tmp_path / "own.keras", safe_mode=False)
    np.testing.assert_allclose(
        bundle.predict(X).probabilities, own.predict(X, verbose=0), atol=1e-6
    )


def test_what_copies_a_saved_model_at_work_goes_on(tmp_path, own):
    expected = own.predict(X, verbose=0)
    copy = keras.models.clone_model(own)
    copy.set_weights(own.get_weights())
    nested = keras.Sequential([keras.Input((4,)), own])
    for model in (copy, ft.inline_models(nested)):
        np.testing.assert_allclose(
            model.predict(X, verbose=0), expected, atol=1e-6
        )
    ft.add_adapters(own, ft.LoRA(rank=1), "body")
    plan = ft.Plan([ft.Phase("head", 1, 1e-2), ft.Phase("all", 1, 1e-3)])
    for stop_after in (1, None):
        history = ft.fine_tune(
            own,
            plan,
            (X, Y),
            checkpoint_dir=tmp_path / "run",
            stop_after=stop_after,
            verbose=0,
        )
    assert len(history.epochs) == 2
