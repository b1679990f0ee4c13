import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache.activation_store import cache_options
from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.training.inputs import Inputs
from finetune_keras.training.phase_work import PhaseWork

pytestmark = pytest.mark.usefixtures("op_by_op")
layers = keras.layers


def data(number=20):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(number, 6)).astype("float32")
    return x, np.arange(number) % 3


def network(compiled=True):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    x = layers.Dense(5, "tanh", name="body1")(inputs)
    x = layers.Dense(5, "tanh", name="body2")(x)
    x = layers.Dense(3, "softmax", name="head")(x)
    model = keras.Model(inputs, x)
    if compiled:
        model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def work_of(model, train, validation=None, trained="head", **options):
    ft.freeze(model)
    ft.unfreeze(model, trained)
    train = Inputs(train, model, "train", 8)
    if validation is not None:
        validation = Inputs(*validation)
    cache = {**cache_options("memory"), **options}
    flat = FlatModel(ft.layer_groups(model))
    return PhaseWork(flat, train, validation, cache, None)


class Endless(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return data(8)


def test_validation_is_refused_before_the_prefix_runs(monkeypatch):
    model = network()
    validation = Endless(), model, "validation"
    monkeypatch.setattr(
        "finetune_keras.cache.prefix_cache.PrefixCache._run",
        lambda *_: pytest.fail("the prefix ran"),
    )
    work = work_of(model, data(), validation)
    assert "`validation` is neither arrays" in work.report


def test_an_endless_dataset_is_judged_on_its_steps():
    import tensorflow as tf

    model = network()
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(5).repeat()
    validation = dataset, model, "validation", None, 4
    work = work_of(model, data(), validation)
    expected = model.evaluate(*data(), batch_size=5, return_dict=True)
    assert work.evaluate() == pytest.approx(expected)


@pytest.mark.backends
def test_losses_may_be_named_after_an_inner_model():
    inner = keras.Input((6,))
    logits = layers.Dense(3, "softmax", name="logits")(inner)
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="stem")(inputs)
    x = keras.Model(inner, logits, name="classifier")(x)
    model = keras.Model(inputs, x)
    loss = {"classifier": "sparse_categorical_crossentropy"}
    model.compile("sgd", loss, metrics={"classifier": ["accuracy"]})
    work = work_of(model, data(), trained="logits")
    history = work.target.fit(**work.fit_arguments(0, {"verbose": 0}))
    assert work.target is not model and "accuracy" in history.history


@pytest.mark.backends
def test_an_uncached_phase_after_a_cached_one_keeps_its_order():
    plan = ft.Plan([ft.Phase("head", 1, 1e-2), ft.Phase("all", 2, 1e-2)])
    weights = []
    for cache in ("off", "memory"):
        model = network()
        ft.fine_tune(model, plan, data(), cache=cache, batch_size=4, verbose=0)
        weights.append(model.get_weights())
    for plain, cached in zip(*weights, strict=True):
        np.testing.assert_allclose(plain, cached, atol=1e-6)


class Reader(keras.callbacks.Callback):
    def __init__(self, path):
        super().__init__()
        self.path, self.kernels = path, []

    def on_train_batch_end(self, batch, logs=None):
        self.model.save_weights(self.path)
        kernel = self.model.get_layer("head").kernel
        self.kernels.append(np.array(keras.ops.convert_to_numpy(kernel)))


@pytest.mark.backends
def test_callbacks_save_the_whole_model_within_an_epoch(tmp_path):
    model = network()
    work = work_of(model, data())
    reader = Reader(str(tmp_path / "model.weights.h5"))
    callbacks = keras.callbacks.CallbackList([reader], model=model)
    work.target.history = None  # `fit` looks for that of its own list
    with work.readable():
        work.target.fit(
            **work.fit_arguments(0, {"verbose": 0}), callbacks=callbacks
        )
    assert len(reader.kernels) == 3
    assert not np.array_equal(*reader.kernels[1:])
    last = keras.ops.convert_to_numpy(model.get_layer("head").kernel)
    np.testing.assert_array_equal(reader.kernels[-1], last)
    other = network(compiled=False)
    other.load_weights(reader.path)
    for saved, own in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(saved, own)


def labelled(kind):
    y = data()[1]
    values = np.linspace(-1, 1, 20)[:, None]
    return {"a": y, "b": values} if kind is dict else kind([y, values])


@pytest.mark.backends("dict-True", "tuple-False")
@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_several_outputs_train_alike_with_and_without_cache(kind, as_dataset):
    import tensorflow as tf

    train = data()[0], labelled(kind)
    if as_dataset:
        if kind is list:
            pytest.skip("a list is one tensor to a dataset")
        train = tf.data.Dataset.from_tensor_slices(train).batch(6)
    losses = ["sparse_categorical_crossentropy", "mse"]
    weights = []
    for cache in ("off", "memory"):
        base = network(compiled=False)
        body = base.get_layer("body2").output
        heads = [
            layers.Dense(3, "softmax", name="a")(body),
            layers.Dense(1, name="b")(body),
        ]
        if kind is dict:
            heads = dict(zip("ab", heads, strict=True))
        model = keras.Model(base.input, heads)
        loss = dict(zip("ab", losses, strict=True)) if kind is dict else losses
        model.compile("sgd", loss)
        plan = ft.Plan([ft.Phase(["a", "b"], 2, 1e-2)])
        options = {"cache": cache, "verbose": 0}
        history = ft.fine_tune(model, plan, train, train, **options)
        weights.append(model.get_weights())
    assert "in memory" in history.phases[0]["cache"]
    for plain, cached in zip(*weights, strict=True):
        np.testing.assert_allclose(plain, cached, atol=1e-6)


def test_a_head_is_solved_on_a_dataset_without_a_cache():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(6)
    plan = ft.Plan([ft.Phase("all", 1, 1e-3)], head_initializer="ridge")
    history = ft.fine_tune(network(), plan, dataset, cache="off", verbose=0)
    assert "ridge" in history.phases[0]["head_initializer"]


class Counts(layers.Layer):
    """Counts how often Python runs through it; compiled code does not."""

    count = 0

    def call(self, x):
        self.count += 1
        return x


@pytest.mark.traced
@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize("chain", [False, True])
def test_the_first_step_is_traced_once(chain, as_dataset):
    counts, head = Counts(), layers.Dense(3, "softmax")
    inputs = keras.Input((6,))
    if chain:
        model = keras.Sequential([inputs, counts, head])
    else:
        model = keras.Model(inputs, head(counts(inputs)))
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"])
    train = data()
    if as_dataset:
        tf = pytest.importorskip("tensorflow")
        train = tf.data.Dataset.from_tensor_slices(train).batch(8)
    counts.count = 0
    ft.fine_tune(model, ft.plans.full(epochs=2), train, verbose=0)
    assert counts.count == 1
