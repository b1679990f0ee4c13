import keras
import numpy as np
import pytest

from finetune_keras.data.augmentation import Augmentation
from finetune_keras.data.image_augmentation import (
    RandomAffine,
    RandomCutout,
    image_augmentation,
)
from finetune_keras.data.sequence_augmentation import sequence_augmentation
from finetune_keras.data.table_augmentation import table_augmentation
from finetune_keras.engine import graph
from finetune_keras.testing.fresh_process import reload

BACKEND = keras.backend.backend()
STRENGTHS = ["light", "medium", "strong"]
SHAPES = {
    image_augmentation: (6, 16, 20, 3),
    sequence_augmentation: (6, 40, 12),
    table_augmentation: (6, 5),
}
KINDS = [(make, strength) for make in SHAPES for strength in STRENGTHS]


def batch(make, seed=0):
    rng = np.random.default_rng(seed)
    shape = SHAPES[make]
    if len(shape) == 4:
        return rng.integers(0, 256, shape).astype("float32")
    return rng.normal(2, 3, shape).astype("float32")


def numbers(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.backends(
    "image_augmentation-strong",
)
@pytest.mark.parametrize("make, strength", KINDS)
def test_it_acts_in_training_only(make, strength):
    layer, x = make(strength, seed=1), batch(make)
    np.testing.assert_array_equal(numbers(layer(x)), x)
    np.testing.assert_array_equal(numbers(layer(x, training=False)), x)
    first, second = (numbers(layer(x, training=True)) for _ in range(2))
    assert first.shape == x.shape and np.isfinite(first).all()
    assert np.abs(first - x).max() > 0.01
    assert np.abs(first - second).max() > 0.01
    assert graph.is_random(layer)


@pytest.mark.backends(
    "image_augmentation-strong",
    "sequence_augmentation-strong",
    "table_augmentation-strong",
)
@pytest.mark.parametrize("make, strength", KINDS)
def test_the_same_seed_gives_the_same_batches(make, strength):
    x = batch(make)
    layer = make(strength, seed=3)
    again = Augmentation.from_config(layer.get_config())
    other = make(strength, seed=4)
    for _ in range(2):
        expected = numbers(layer(x, training=True))
        same = numbers(again(x, training=True))
        np.testing.assert_array_equal(same, expected)
        assert np.abs(numbers(other(x, training=True)) - expected).max() > 0.01


@pytest.mark.backends("image")
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("make", SHAPES)
def test_a_model_augments_in_fit_alone(make):
    """The one weight learns the mean of what it sees."""
    x = batch(make)
    inputs = keras.Input(x.shape[1:])
    augmented = make("strong", seed=0)(inputs)
    model = keras.Model(inputs, keras.layers.Flatten()(augmented))
    for outputs in (model(x), model.predict(x, verbose=0)):
        np.testing.assert_array_equal(numbers(outputs), x.reshape(6, -1))
    model.compile("sgd", "mse")
    assert model.evaluate(x, x.reshape(6, -1), verbose=0) == 0
    trained = numbers(model(x, training=True))
    assert np.abs(trained - x.reshape(6, -1)).max() > 0.01


@pytest.mark.backends("sequence")
@pytest.mark.parametrize("make", SHAPES)
def test_it_is_saved_with_the_model(make, tmp_path):
    x = batch(make)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, make("strong", seed=5)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numbers(loaded(x)), x)
    expected = numbers(make("strong", seed=5)(x, training=True))
    np.testing.assert_allclose(
        numbers(loaded(x, training=True)), expected, atol=1e-4
    )


def test_it_loads_in_a_fresh_process():
    x = batch(image_augmentation)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, image_augmentation("strong")(inputs))
    found = reload(model, x, ["finetune_keras"])["outputs"][0]
    np.testing.assert_array_equal(found, x)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel")
def test_an_exported_model_never_augments(tmp_path):
    import tensorflow as tf

    x = batch(image_augmentation)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, image_augmentation("strong")(inputs))
    model.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_array_equal(served.serve(tf.constant(x)), x)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a tf.data pipeline")
def test_it_works_in_a_pipeline_on_uint8():
    import tensorflow as tf

    pixels = batch(image_augmentation).astype("uint8")
    layer = image_augmentation("strong", seed=0)
    dataset = tf.data.Dataset.from_tensor_slices(pixels).batch(3)
    dataset = dataset.map(lambda x: layer(x, training=True))
    for images in dataset:
        assert images.dtype == tf.float32
        assert images.shape == (3, 16, 20, 3)
        assert images.numpy().min() >= 0 and images.numpy().max() <= 255


@pytest.mark.backends("strong")
@pytest.mark.parametrize("strength", STRENGTHS)
def test_pixels_stay_in_range_and_single_images_pass(strength):
    layer = image_augmentation(strength, seed=0)
    for seed in range(3):
        x = numbers(layer(batch(image_augmentation, seed), training=True))
        assert x.min() >= -1e-3 and x.max() <= 255 + 1e-3
    one = numbers(layer(batch(image_augmentation)[0], training=True))
    assert one.shape == (16, 20, 3)


@pytest.mark.backends
def test_a_flip_without_moves_is_a_mirror():
    x = batch(image_augmentation)
    layer = RandomAffine(0.0, 0.0, 0.0, "horizontal", seed=0)
    found = numbers(layer(x, training=True))
    mirrored = 0
    for image, original in zip(found, x, strict=True):
        mirror = np.abs(image - original[:, ::-1]).max() < 0.1
        assert mirror or np.abs(image - original).max() < 0.1
        mirrored += mirror
    assert 0 < mirrored < 6
    still = RandomAffine(0.0, 0.0, 0.0, None, seed=0)
    np.testing.assert_allclose(numbers(still(x, training=True)), x, atol=0.01)


@pytest.mark.backends
def test_a_shift_moves_the_picture_by_its_share():
    x = np.zeros((200, 21, 21, 1), "float32")
    x[:, 10, 10] = 255
    layer = RandomAffine(0.0, 0.0, 0.2, None, seed=0)
    found = numbers(layer(x, training=True))[..., 0]
    rows = found.sum(2) @ np.arange(21) / found.sum((1, 2))
    columns = found.sum(1) @ np.arange(21) / found.sum((1, 2))
    for places in (rows, columns):
        shift = places - 10
        assert 3.5 < np.abs(shift).max() <= 4.3
        assert np.abs(shift.mean()) < 0.6


@pytest.mark.backends
def test_cutout_hides_as_many_and_as_much_as_it_says():
    x = np.zeros((300, 32, 32, 1), "float32")
    layer = RandomCutout(0.5, scale=(0.05, 0.2), seed=0)
    hidden = numbers(layer(x, training=True))[..., 0] == 127.5
    share = hidden.mean((1, 2))
    assert 0.4 < np.mean(share > 0) < 0.6
    assert 0.08 < share[share > 0].mean() < 0.16
    assert share.max() < 0.25


def test_half_precision_keeps_its_type():
    keras.config.set_dtype_policy("mixed_float16")
    x = batch(image_augmentation)
    layer = image_augmentation("medium", seed=0)
    outputs = layer(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert numbers(outputs).max() > 100


def test_layers_that_change_the_shape_are_refused():
    layer = Augmentation([keras.layers.RandomCrop(8, 8)])
    with pytest.raises(ValueError, match="keep the shape"):
        layer(keras.Input((16, 16, 3)))


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: image_augmentation("huge"), "strength"),
        (lambda: image_augmentation(flip="left"), "flip"),
        (lambda: Augmentation([]), "at least one"),
        (lambda: Augmentation(keras.layers.RandomFlip()), "list"),
        (lambda: image_augmentation(seed="a"), "seed"),
        (lambda: RandomAffine(zoom=1.5), "zoom"),
        (lambda: RandomCutout(rate=2), "rate"),
        (lambda: sequence_augmentation("huge"), "strength"),
        (lambda: table_augmentation("huge"), "strength"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
