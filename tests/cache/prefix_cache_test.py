import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache.activation_store import (
    CacheRefused,
    cache_options,
)
from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.cache.prefix_cache import PrefixCache
from finetune_keras.data.buckets import Buckets
from finetune_keras.testing import randomize
from finetune_keras.training.inputs import Inputs

layers = keras.layers


def network(first=None):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((8, 8, 3))
    x = first(inputs) if first else inputs
    for i in range(3):
        x = layers.Conv2D(5, 3, padding="same", name=f"block{i}_conv")(x)
        x = layers.BatchNormalization(name=f"block{i}_norm")(x)
        x = layers.ReLU(name=f"block{i}_relu")(x)
    model = ft.replace_head(keras.Model(inputs, x), 3, dropout=0.5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    ft.freeze(model)
    return model


def photos(number=21):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(number, 8, 8, 3)).astype("float32")
    return x, np.arange(number) % 3


def cut(model, **options):
    flat = FlatModel(ft.layer_groups(model))
    return PrefixCache(flat, {**cache_options("auto"), **options})


@pytest.mark.parametrize(
    "trained, size", [("head", 5), ("block2", 8 * 8 * 5), ("block1", 320)]
)
def test_prefix_and_suffix_are_the_model(trained, size):
    model = network()
    ft.unfreeze(model, trained)
    cache = cut(model)
    (stored,) = cache.store(Inputs(photos(), model, "train", 4))
    assert stored[0][0].size == size
    outputs = cache.suffix.predict(stored[0], verbose=0)
    expected = model.predict(photos()[0], verbose=0)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    inside = {id(v) for v in cache.suffix.trainable_variables}
    assert inside == {id(v) for v in model.trainable_variables}


@pytest.mark.backends
def test_a_dataset_is_stored_in_its_order():
    import tensorflow as tf

    model = network()
    ft.unfreeze(model, "head")
    x, y = photos()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    inputs = Inputs(dataset, model, "train")
    cache = cut(model)
    ((stored, labels),) = cache.store(inputs)
    np.testing.assert_array_equal(labels, y)
    assert inputs.batch_size == 8 and inputs.shuffled is False
    expected = model.predict(x, verbose=0)
    outputs = cache.suffix.predict(stored, verbose=0)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    examples = dataset.unbatch()
    inputs = Inputs(examples.shuffle(9).batch(8), model, "train")
    cut(model).store(inputs)
    assert inputs.shuffled is True
    # Shuffled once, it has one order.
    dataset = examples.shuffle(9, reshuffle_each_iteration=False)
    inputs = Inputs(dataset.batch(8), model, "train")
    cut(model).store(inputs)
    assert inputs.shuffled is False


@pytest.mark.parametrize("sizes", [(4, 8, 8), (8, 4, 8)])
def test_batches_of_several_sizes_are_refused(sizes):
    import tensorflow as tf

    model = network()
    ft.unfreeze(model, "head")
    x, y = photos(20)
    starts = np.cumsum(sizes) - sizes
    datasets = [
        tf.data.Dataset.from_tensors((x[i : i + n], y[i : i + n]))
        for i, n in zip(starts, sizes, strict=True)
    ]
    dataset = datasets[0].concatenate(datasets[1]).concatenate(datasets[2])
    with pytest.raises(CacheRefused, match="differ in size"):
        cut(model).store(Inputs(dataset, model, "train"))


def test_labels_of_several_lengths_are_refused():
    import tensorflow as tf

    model = network()
    ft.unfreeze(model, "head")
    x, _ = photos(16)
    batches = [
        tf.data.Dataset.from_tensors((x[:8], np.zeros((8, n)))) for n in (2, 3)
    ]
    inputs = Inputs(batches[0].concatenate(batches[1]), model, "train")
    with pytest.raises(CacheRefused, match="labels have no fixed shape"):
        cut(model).store(inputs)


def test_each_view_of_buckets_is_stored():
    inputs = keras.Input((None, 3))
    x = layers.Dense(4, name="below")(layers.GaussianNoise(0.5)(inputs))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model.compile("sgd", "sparse_categorical_crossentropy")
    ft.freeze(model)
    ft.unfreeze(model, "head")
    x = np.ones((8, 5, 3), "float32")
    buckets = Buckets([(x[:4, :2], np.zeros(4)), (x[4:], np.ones(4))], 4)
    views = cut(model, views=3).store(Inputs(buckets, model, "train"))
    assert len(views) == 3
    first, second = (view.parts[0][0] for view in views[:2])
    assert np.abs(first - second).max() > 0


def test_a_pipeline_that_augments_is_refused():
    import tensorflow as tf

    model = network()
    ft.unfreeze(model, "head")
    noise = tf.random.Generator.from_seed(1)
    dataset = tf.data.Dataset.from_tensor_slices(photos())
    dataset = dataset.map(lambda x, y: (x + noise.normal([8, 8, 3]), y))
    inputs = Inputs(dataset.batch(8), model, "train")
    with pytest.raises(CacheRefused, match="other examples at each pass"):
        cut(model).store(inputs)
    first, second = cut(model, views=2).store(inputs)
    assert np.abs(first[0] - second[0]).max() > 0


def test_a_pipeline_that_changes_unseen_is_refused():
    """Nothing random in its graph: told by what it gives."""
    import tensorflow as tf

    model = network()
    ft.unfreeze(model, "head")
    x, y = photos(8)

    def noise():
        rng = np.random.default_rng()
        yield x + rng.normal(size=x.shape).astype("float32"), y

    signature = (tf.TensorSpec(x.shape), tf.TensorSpec(y.shape, "int64"))
    dataset = tf.data.Dataset.from_generator(noise, output_signature=signature)
    inputs = Inputs(dataset, model, "train")
    with pytest.raises(CacheRefused, match="other examples at each pass"):
        cut(model).store(inputs)


def refused(model, **options):
    with pytest.raises(CacheRefused) as reason:
        cache = cut(model, **options)
        cache.store(Inputs(photos(), model, "train", 4))
    return str(reason.value)


def test_what_would_change_the_result_is_refused():
    model = network(layers.GaussianNoise(0.1))
    ft.unfreeze(model, "head")
    assert "random layers" in refused(model)

    model = network()
    ft.unfreeze(model, "head")
    model.get_layer("block0_norm").trainable = True
    model.get_layer("block0_norm").gamma.trainable = False
    model.get_layer("block0_norm").beta.trainable = False
    assert "statistics of 'block0_norm'" in refused(model)

    model = network(layers.ActivityRegularization(l2=0.1))
    ft.unfreeze(model, "head")
    assert "adds to the loss" in refused(model)

    model = network()
    ft.unfreeze(model)
    assert "no tensor" in refused(model)
    assert "switched off" in refused(model, storage="off")
    ft.freeze(model, "backbone")
    assert "over the budget" in refused(model, budget=10)


class Noise(layers.Layer):
    """Draws from Keras's own generator, at all times."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), 0, 0.1)


class Doubled(layers.Layer):
    def call(self, x, training=False):
        return x * 2 if training else x


class Costly(layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


class Tracker(layers.Layer):
    def build(self, _):
        self.mean = self.add_weight(shape=(), trainable=False)

    def call(self, x, training=False):
        if training:
            self.mean.assign(self.mean + 1)
        return x


class Harmless(layers.Layer):
    def call(self, x):
        return keras.ops.tanh(x)


@pytest.mark.backends("Noise")
@pytest.mark.parametrize("kind", [Noise, Doubled, Costly, Tracker])
def test_a_layer_that_is_otherwise_in_training_is_refused(kind):
    if kind is Noise and keras.backend.backend() == "jax":
        pytest.skip("JAX takes no random numbers without a seed")
    model = network(kind())
    ft.unfreeze(model, "head")
    before = model.get_weights()
    reason = "adds to the loss" if kind is Costly else "differs in training"
    assert reason in refused(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.backends("bfloat16")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_layer_of_the_users_that_is_alike_is_cached(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = network(Harmless())
    finally:
        keras.config.set_dtype_policy("float32")
    ft.unfreeze(model, "head")
    cache = cut(model)
    cache.store(Inputs(photos(), model, "train", 4))
    assert "in memory" in cache.report


def test_views_may_differ_in_training():
    model = network(layers.Pipeline([Harmless(), layers.GaussianNoise(0.1)]))
    ft.unfreeze(model, "head")
    views = cut(model, views=2).store(Inputs(photos(), model, "train", 4))
    assert len(views) == 2


class OwnStep(keras.Model):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


class OwnCall(keras.Model):
    def call(self, inputs, training=False):
        return 2 * super().call(inputs, training=training)


def test_methods_of_the_users_are_not_lost():
    model = network()
    model = OwnStep(model.inputs, model.outputs)
    model.compile("sgd", "mse")
    assert "`train_step` of its own" in refused(model)
    inner = OwnCall(model.inputs, model.outputs, name="inner")
    model = keras.Model(model.inputs, inner(model.inputs))
    model.compile("sgd", "mse")
    assert "'inner' has a `call` of its own" in refused(model)


def inner_model(size, *names):
    inputs = x = keras.Input((size,))
    for name in names:
        x = layers.Dense(6, "tanh", name=name)(x)
    return keras.Model(inputs, x, name=names[0] + "s")


def test_weights_that_would_train_in_another_order_are_refused():
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="stem")(inputs)
    branches = [inner_model(6, name, name + "1")(x) for name in ("a", "b")]
    x = layers.Dense(3, name="head")(layers.Add()(branches))
    model = keras.Model(inputs, x)
    ft.freeze(model, "stem")
    assert "in another order" in refused(model)
    ft.freeze(model)
    ft.unfreeze(model, "head")
    assert cut(model).suffix.count_params() == 21


@pytest.mark.backends("all")
@pytest.mark.parametrize("trained", ["head", "all"])
def test_layers_keep_their_names(trained):
    inputs = keras.Input((6,))
    x = inner_model(6, "dense", "other")(inputs)
    x = layers.Dense(6, name="dense")(x)
    x = layers.Dense(2, "softmax", name="head")(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(8, 6)).astype("float32"), np.arange(8) % 2
    later = ["denses/dense", "head"]
    plan = ft.Plan([ft.Phase(trained, 1, 0.1), ft.Phase(later, 1, 0.1)])
    history = ft.fine_tune(model, plan, data, data, verbose=0)
    assert ("memory" in history.phases[0]["cache"]) == (trained == "head")
    assert model.get_layer("denses").get_layer("dense").name == "dense"
    assert len(history.epochs) == 2


def test_disk_and_bfloat16(tmp_path):
    model = network()
    ft.unfreeze(model, "block2")
    options = {**cache_options("disk"), "dtype": "bfloat16"}
    flat = FlatModel(ft.layer_groups(model))
    cache = PrefixCache(flat, options, str(tmp_path))
    ((stored, labels),) = cache.store(Inputs(photos(), model, "train", 4))
    assert isinstance(stored, np.memmap)
    assert stored.dtype.itemsize == 2 and "on disk" in cache.report
    assert not list(tmp_path.iterdir())
    outputs = cache.suffix.predict(np.asarray(stored, "float32"), verbose=0)
    expected = model.predict(photos()[0], verbose=0)
    np.testing.assert_allclose(outputs, expected, atol=2e-2)


@pytest.mark.parametrize(
    "bad", ["ram", {"views": 0}, {"dtype": "float16"}, {"size": 3}]
)
def test_bad_options(bad):
    with pytest.raises(ValueError, match="cache"):
        cache_options(bad)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_sequences_without_a_fixed_length_are_not_cached(as_dataset):
    """A convolution shortens them, and batches may differ in length."""
    inputs = keras.Input((None, 3))
    x = layers.Conv1D(4, 3, strides=2, name="block1_conv")(inputs)
    x = layers.Conv1D(4, 3, padding="same", name="block2_conv")(x)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    rng = np.random.default_rng(0)
    batches = [
        (rng.normal(size=(4, length, 3)).astype("float32"), np.arange(4) % 2)
        for length in (9, 15)
    ]
    data = batches[0]
    if as_dataset:
        import tensorflow as tf

        spec = (
            tf.TensorSpec((None, None, 3), "float32"),
            tf.TensorSpec((None,), "int64"),
        )
        data = tf.data.Dataset.from_generator(
            lambda: iter(batches), output_signature=spec
        )
    plan = ft.Plan([ft.Phase(1, 1, learning_rate=1e-3)])
    history = ft.fine_tune(model, plan, data, verbose=0)
    assert "no fixed shape" in history.phases[0]["cache"]


@pytest.mark.backends("attention")
@pytest.mark.parametrize("reads", ["attention", "recurrent", "pooling"])
def test_a_mask_that_goes_with_the_tensors_is_not_lost(reads):
    layers = keras.layers
    tokens = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0]] * 8)
    data = tokens, np.arange(16) % 2

    def trained(cache):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((5,), dtype="int32")
        x = layers.Embedding(6, 4, mask_zero=True, name="embedding")(inputs)
        if reads == "attention":
            x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
        if reads == "recurrent":
            x = layers.GRU(4, return_sequences=True, name="recurrent")(x)
        x = layers.Dense(4, "tanh", name="upper")(x)
        x = layers.GlobalAveragePooling1D(name="pool")(x)
        outputs = layers.Dense(2, "softmax", name="head")(x)
        model = keras.Model(inputs, outputs)
        randomize(model)
        model.compile("sgd", "sparse_categorical_crossentropy")
        layers_above = [x for x in model.layers if x.name != "embedding"]
        names = [layer.name for layer in layers_above if layer.weights]
        plan = ft.Plan([ft.Phase(names, epochs=2, learning_rate=0.1)])
        ft.fine_tune(model, plan, data, cache=cache, batch_size=8, verbose=0)
        return model.get_weights()

    for one, other in zip(trained("off"), trained("memory"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
