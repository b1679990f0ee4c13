"""Class weights of masks become weights of pixels; 255 reaches the loss."""

import keras
import numpy as np
import pytest
import scipy
from keras import layers

import finetune_keras as ft
from finetune_keras.training.compiled import ensure_compiled
from finetune_keras.training.pixel_weights import with_pixel_weights

pytestmark = pytest.mark.usefixtures("op_by_op")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, (4, 6, 6)).astype("uint8")
WEIGHT = {0: 1.0, 1: 5.0, 2: 0.0}


def segmenter(activation="softmax"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    outputs = layers.Conv2D(3, 1, activation=activation)(inputs)
    return keras.Model(inputs, outputs)


def dataset(*parts):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(parts).batch(2)


@pytest.mark.backends("columns")
@pytest.mark.parametrize("form", ["ids", "columns", "one-hot"])
def test_classes_weigh_by_pixel_in_arrays_and_datasets(form):
    y = {"ids": Y, "columns": Y[..., None], "one-hot": np.eye(3)[Y]}[form]
    expected = np.array([1.0, 5.0, 0.0])[Y]
    model, fit = segmenter(), {"class_weight": WEIGHT, "epochs": 3}
    (_, _, weight), rest = with_pixel_weights(model, (X, y), fit)
    np.testing.assert_array_equal(weight, expected)
    assert rest == {"epochs": 3}
    found, _ = with_pixel_weights(model, dataset(X, y), fit)
    weights = [np.asarray(batch[2]) for batch in found]
    np.testing.assert_array_equal(np.concatenate(weights), expected)


@pytest.mark.backends
def test_a_run_learns_from_the_classes_that_weigh():
    # On PyTorch 2.13 Keras cannot train a softmax of a convolution.
    model, plan = segmenter(None), ft.plans.full(epochs=1, learning_rate=0.1)
    options = {"class_weight": WEIGHT, "shuffle": False, "verbose": 0}
    history = ft.fine_tune(model, plan, (X, Y), **options)
    assert "mean_iou" in history.history
    scores = scipy.special.softmax(segmenter(None).predict(X, verbose=0), -1)
    likely = np.take_along_axis(scores, Y[..., None].astype(int), -1)[..., 0]
    expected = (-np.log(likely) * np.array([1.0, 5.0, 0.0])[Y]).mean()
    assert history.history["loss"] == pytest.approx([expected], rel=1e-5)


def test_other_models_and_data_are_left_or_refused():
    model = segmenter()
    assert with_pixel_weights(model, (X, Y), {}) == ((X, Y), {})
    fit = {"class_weight": WEIGHT}
    head = keras.Sequential([keras.Input((2,)), layers.Dense(3, "softmax")])
    assert with_pixel_weights(head, (X, Y), fit) == ((X, Y), fit)
    with pytest.raises(ValueError, match="weights of pixels"):
        with_pixel_weights(model, iter([(X, Y)]), fit)
    one = with_pixel_weights(model, dataset(X, Y), fit)[0]
    assert "5.0" in one.fingerprint


def test_pixels_of_no_class_are_left_out_where_the_data_say_so():
    y = Y.copy()
    y[:, :3] = 255
    plan, data = ft.plans.full(epochs=1), dataset(X, y)
    with pytest.raises(ValueError, match="hold 255"):
        ft.fine_tune(segmenter(), plan, data, verbose=0)
    data.ignore_class = 255
    model = segmenter()
    ft.dry_run(model, plan, data)
    ensure_compiled(model, plan, 3, data.ignore_class)
    assert model.loss.ignore_class == 255
    single = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(1, 1, activation="sigmoid")]
    )
    with pytest.raises(ValueError, match="no `ignore_class`"):
        ensure_compiled(single, plan, 3, data.ignore_class)
