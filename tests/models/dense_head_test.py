"""Segmenters get other classes, and keep every other weight to the bit."""

import keras
import numpy as np
import pytest
from keras import layers

import finetune_keras as ft
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.testing.weights import randomize
from tests.trust import hub_classes

pytestmark = pytest.mark.usefixtures("op_by_op")


def unet(ending, classes=3, kernel=1):
    inputs = keras.Input((16, 16, 3))
    one = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    two = layers.Conv2D(6, 3, strides=2, padding="same")(one)
    two = layers.BatchNormalization()(two)
    up = layers.Conv2DTranspose(4, 2, strides=2)(two)
    x = layers.Concatenate()([one, up])
    outside = {
        "layer": layers.Activation("softmax"),
        "softmax layer": layers.Softmax(),
        "operation": keras.ops.softmax,
        "resized": layers.Resizing(32, 32),
    }
    inside = None if ending in outside else ending
    options = {"padding": "same", "activation": inside}
    x = layers.Conv2D(classes, kernel, **options)(x)
    model = keras.Model(inputs, outside.get(ending, lambda x: x)(x))
    randomize(model)
    return model


@pytest.mark.backends
@pytest.mark.parametrize(
    ("ending", "kernel"),
    [
        ("softmax", 1),
        ("softmax", 3),
        ("layer", 1),
        ("softmax layer", 1),
        ("operation", 1),
        ("resized", 3),
        (None, 1),
    ],
)
def test_other_classes_leave_all_else_to_the_bit(ending, kernel):
    model = unet(ending, kernel=kernel)
    before = [np.array(weight) for weight in model.get_weights()]
    new = ft.replace_head(model, num_classes=5)
    assert new.output_shape == (*model.output_shape[:3], 5)
    kept = list(zip(model.weights[:-2], new.weights[:-2], strict=True))
    assert all(one is other for one, other in kept)
    assert new.weights[-2].shape == (kernel, kernel, 8, 5)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    outputs = new.predict(x, verbose=0)
    ones = np.allclose(outputs.sum(-1), 1, atol=1e-5)
    assert ones == (ending not in ("resized", None))
    assert ft.replace_head(new, 3).output_shape == model.output_shape


@pytest.mark.parametrize(
    ("ending", "old", "new", "expected"),
    [
        ("softmax", 3, 1, "sigmoid"),
        ("sigmoid", 1, 4, "softmax"),
        ("sigmoid", 1, 1, "sigmoid"),
    ],
)
def test_one_class_is_a_sigmoid_and_several_a_softmax(
    ending, old, new, expected
):
    model = ft.replace_head(unet(ending, old), new)
    assert model.layers[-1].activation.__name__ == expected


def test_options_of_pooled_heads_are_refused_and_a_classifier_is_asked_for():
    model = unet("softmax")
    for options in ({"dropout": 0.1}, {"hidden_units": [3]}):
        with pytest.raises(ValueError, match="no `pooling`"):
            ft.replace_head(model, 5, **options)
    classifier = ft.replace_head(model, 5, task="classification")
    assert classifier.output_shape == (None, 5)
    backbone = ft.remove_head(classifier)
    with pytest.raises(ValueError, match="gives none"):
        ft.replace_head(backbone, 5, task="segmentation")
    with pytest.raises(ValueError, match="gives no masks"):
        ft.image_classifier(model, 5, task="segmentation")


def test_maps_that_no_single_convolution_gives_are_refused():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 1)(inputs) + layers.Conv2D(2, 1)(inputs)
    model = keras.Model(inputs, layers.Softmax()(x))
    with pytest.raises(ValueError, match="one last convolution alone"):
        ft.replace_head(model, 3)


def test_masks_that_overlap_become_no_image_classifier():
    with pytest.raises(ValueError, match="masks that overlap, a sigmoid"):
        ft.replace_head(unet("sigmoid"), 2)


def test_features_at_each_place_are_no_masks():
    inputs = keras.Input((8, 8, 3))
    for layer in (
        layers.Conv2D(4, 1, activation="relu"),
        layers.Conv2D(4, 3, strides=2),
    ):
        backbone = keras.Model(inputs, layer(inputs))
        assert ft.replace_head(backbone, 2).output_shape == (None, 2)


LOAD = """
import sys
import keras, numpy as np
import finetune_keras
model = keras.models.load_model(sys.argv[1] + "/m.keras")
x = np.load(sys.argv[1] + "/x.npy")
np.save(sys.argv[1] + "/y.npy", model.predict(x, verbose=0))
print(model.task)
"""


def test_logits_stay_those_of_masks_in_a_file(tmp_path):
    model = ft.replace_head(unet(None), 2)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    np.save(tmp_path / "x.npy", x)
    model.save(tmp_path / "m.keras")
    process = FreshProcess("-c", LOAD, tmp_path)
    assert process.wait() == 0, process.stderr[-3000:]
    assert process.stdout.split()[-1] == "segmentation"
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)


def test_a_segmenter_of_keras_hub_keeps_all_but_its_last_weights():
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    backbone = hub_classes.build(hub, "DeepLabV3Backbone")
    model = hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=3)
    new = ft.replace_head(model, 5)
    assert new.task == "segmentation" and new.output_shape[-1] == 5
    old = {id(weight) for weight in model.weights}
    fresh = [weight for weight in new.weights if id(weight) not in old]
    assert len(new.weights) == len(model.weights)
    (head,) = (x for x in new.layers if x.name == "head_predictions")
    assert len(fresh) == 1 and fresh[0] is head.kernel
