import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.training.activation_store import (
    CacheRefused,
    cache_options,
)
from finetune_keras.training.inputs import Inputs
from finetune_keras.training.prefix_cache import PrefixCache

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
    return PrefixCache(model, {**cache_options("auto"), **options})


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
    inputs = Inputs(dataset.shuffle(9), model, "train")
    cut(model).store(inputs)
    assert inputs.shuffled is True


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


def test_disk_and_bfloat16(tmp_path):
    model = network()
    ft.unfreeze(model, "block2")
    options = {**cache_options("disk"), "dtype": "bfloat16"}
    cache = PrefixCache(model, options, str(tmp_path))
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
