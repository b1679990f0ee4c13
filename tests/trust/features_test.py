"""Feature models by `get_layer(name).output`, of what we return."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))


array = keras.ops.convert_to_numpy


def values_of(model):
    return array(model(PIXELS.astype("float32")))


def base_model():
    keras.utils.set_random_seed(4)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.Conv2D(4, 3, activation="relu", name="last_conv")(x)
    return keras.Model(inputs, x, name="base")


def nested(base):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            base,
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="old"),
        ]
    )


def flattened(base):
    return ft.inline_models(nested(base))


def with_new_head(base):
    return ft.replace_head(nested(base), 3)


def without_head(base):
    return ft.remove_head(nested(base))


def augmented(base):
    return ft.image_classifier(base, 3, augmentation="light")


def augmented_of_a_backbone(base):
    return ft.image_classifier(ft.backbone(base), 3, augmentation="light")


MAKERS = [
    flattened,
    with_new_head,
    without_head,
    augmented,
    augmented_of_a_backbone,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_feature_models_of_every_layer_are_connected(make):
    model = make(base_model())
    names = [layer.name for layer in model.layers]
    assert {"conv", "last_conv"} <= set(names)
    outputs = [model.get_layer(name).output for name in names]
    features = keras.Model(model.input, [*outputs, model.output])
    *found, last = features.predict(PIXELS, verbose=0)
    np.testing.assert_array_equal(last, model.predict(PIXELS, verbose=0))
    # The same numbers as of the layers called one after the other.
    place = names.index("last_conv")
    x = found[names.index("conv")]
    expected = array(model.get_layer("last_conv")(x))
    np.testing.assert_allclose(found[place], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("make", [with_new_head, augmented])
def test_grad_cam_by_the_recipe_of_the_guide(make):
    """A model to the last convolution, and one from there on."""
    model = make(base_model())
    conv = model.get_layer("last_conv")
    features = keras.Model(model.input, conv.output)
    x = start = keras.Input(conv.output.shape[1:])
    after = model.layers[model.layers.index(conv) + 1 :]
    for layer in after:
        x = layer(x)
    rest = keras.Model(start, x)
    expected = model.predict(PIXELS, verbose=0)
    found = array(rest(features(PIXELS)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [flattened, with_new_head, augmented])
def test_the_old_and_the_new_model_are_saved_and_loaded_equal(make, tmp_path):
    base = base_model()
    outer = nested(base)
    part = keras.Model(base.input, base.get_layer("conv").output)
    before = [values_of(m) for m in (base, outer, part)]
    model = make(base)
    models = [base, outer, part, model]
    expected = [*before, values_of(model)]
    for number, (one, values) in enumerate(zip(models, expected, strict=True)):
        np.testing.assert_array_equal(values_of(one), values)
        path = tmp_path / f"{number}.keras"
        one.save(path)
        loaded = keras.models.load_model(path)
        np.testing.assert_allclose(
            values_of(loaded), values, rtol=1e-5, atol=1e-5
        )


def test_a_layer_that_is_called_twice_answers_with_its_first_call_here():
    shared = layers.Dense(3, name="shared")
    inputs = keras.Input((3,))
    inner = keras.Model(inputs, shared(inputs))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(shared(inner(inputs))))
    flat = ft.inline_models(model)
    first = keras.Model(flat.input, flat.get_layer("shared").output)
    x = np.ones((2, 3), "float32")
    np.testing.assert_allclose(array(first(x)), array(shared(x)), rtol=1e-6)
