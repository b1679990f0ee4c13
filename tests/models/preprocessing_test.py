import inspect

import keras
import numpy as np
import pytest

from finetune_keras.models.preprocessing import (
    application_mode,
    applications,
    find_application,
    preprocessing_mode,
    scale_pixels,
)

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 5, 6, 3)).astype("f4")


def scale(pixels, mode):
    inputs = keras.Input(pixels.shape[1:])
    model = keras.Model(inputs, scale_pixels(inputs, mode))
    return keras.ops.convert_to_numpy(model(pixels))


def small_model(*layers, shape=(16, 16, 3), name=None):
    return keras.Sequential([keras.Input(shape), *layers], name=name)


def test_there_are_40_applications():
    assert len(applications()) == 40


@pytest.mark.backends
@pytest.mark.parametrize("name", sorted(applications()))
def test_scaling_is_that_of_the_application(name):
    function = applications()[name]
    module = function.__module__.split(".")[-1]
    module = getattr(keras.applications, module)
    expected = module.preprocess_input(PIXELS.copy())
    mode = application_mode(function)
    assert mode in ("tf", "torch", "caffe", "inside")
    np.testing.assert_allclose(scale(PIXELS, mode), expected, atol=1e-5)
    assert (mode == "inside") == np.array_equal(expected, PIXELS)


@pytest.mark.parametrize("name", sorted(applications()))
def test_names_that_keras_gives_are_found(name):
    function = applications()[name]
    default = inspect.signature(function).parameters["name"].default
    assert find_application(default or name) is function


@pytest.mark.parametrize(
    "model_name, name",
    [
        ("mobilenet_0.25_160", "MobileNet"),
        ("mobilenetv2_1.00_224", "MobileNetV2"),
        ("nasnet_mobile", "NASNetMobile"),
        ("efficientnetv2-b0", "EfficientNetV2B0"),
        ("resnet50v2", "ResNet50V2"),
        ("ResNet50_flowers", "ResNet50"),
    ],
)
def test_application_of_a_model_name(model_name, name):
    assert find_application(model_name) is applications()[name]


@pytest.mark.parametrize(
    "name", ["sequential", "my_vgg16", "mobilenetv4", "mobile_net_backbone"]
)
def test_no_application_of_other_names(name):
    assert find_application(name) is None


def test_modes_of_real_models():
    build = {"include_top": False, "weights": None, "input_shape": (32, 32, 3)}
    apps = keras.applications
    assert preprocessing_mode(apps.VGG16(**build)) == "caffe"
    assert preprocessing_mode(apps.MobileNetV3Small(**build)) == "inside"
    unscaled = apps.MobileNetV3Small(include_preprocessing=False, **build)
    assert preprocessing_mode(unscaled) is None


def test_scaling_is_found_behind_layers_that_do_not_scale():
    model = small_model(
        keras.layers.RandomFlip(),
        keras.layers.ZeroPadding2D(),
        keras.Sequential([keras.layers.Rescaling(1 / 255)]),
        keras.layers.Conv2D(2, 3),
        name="vgg16",
    )
    assert preprocessing_mode(model) == "inside"


@pytest.mark.backends
def test_scaling_behind_the_first_kernel_is_not_that_of_the_pixels():
    conv = keras.layers.Conv2D(2, 3)
    model = small_model(conv, keras.layers.Rescaling(0.5), name="vgg16")
    assert preprocessing_mode(model) == "caffe"
    assert preprocessing_mode(small_model(keras.layers.Conv2D(2, 3))) is None


@pytest.mark.backends
def test_scaling_by_operations_is_found():
    inputs = keras.Input((32, 32, 3))
    x = keras.applications.vgg16.preprocess_input(inputs)
    x = keras.layers.Conv2D(2, 3)(x)
    assert preprocessing_mode(keras.Model(inputs, x, name="vgg16")) == "inside"


def test_mode_of_an_application_inside_another_model():
    inner = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    model = small_model(inner, shape=(32, 32, 3))
    assert preprocessing_mode(model) == "tf"


def test_mode_of_a_foreign_function_is_unknown():
    def mobilenet():
        pass

    mobilenet.__module__ = "somebody.mobilenet"
    assert application_mode(mobilenet) is None
    assert application_mode(None) is None


@pytest.mark.backends
def test_gray_pixels_take_the_mean_of_the_colors():
    gray = PIXELS[..., :1]
    caffe = np.mean([123.68, 116.779, 103.939])
    np.testing.assert_allclose(scale(gray, "caffe"), gray - caffe, atol=1e-4)
    mean, std = 255 * np.mean([0.485, 0.456, 0.406]), 255 * 0.226
    expected = (gray - mean) / std
    np.testing.assert_allclose(scale(gray, "torch"), expected, atol=1e-5)


@pytest.mark.backends
def test_more_channels_repeat_the_colors_in_their_order():
    four = np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1)
    mean = np.array([123.68, 116.779, 103.939, 123.68])
    np.testing.assert_allclose(scale(four, "caffe"), four - mean, atol=1e-4)


@pytest.mark.backends
def test_scaling_is_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert scale(PIXELS, "torch").dtype == "float32"
        assert scale(PIXELS, "tf").dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.backends
def test_channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        pixels = np.ascontiguousarray(np.moveaxis(PIXELS, -1, 1))
        expected = keras.applications.vgg16.preprocess_input(pixels.copy())
        np.testing.assert_allclose(scale(pixels, "caffe"), expected, atol=1e-5)
        expected = keras.applications.densenet.preprocess_input(pixels.copy())
        np.testing.assert_allclose(scale(pixels, "torch"), expected, atol=1e-5)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_no_scaling_and_unknown_scaling():
    inputs = keras.Input((8, 8, 3))
    assert scale_pixels(inputs, None) is inputs
    assert scale_pixels(inputs, "inside") is inputs
    with pytest.raises(ValueError, match="mode='tensorflow'"):
        scale_pixels(inputs, "tensorflow")
