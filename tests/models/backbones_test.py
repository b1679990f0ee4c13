import functools
import warnings

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models import backbones
from finetune_keras.models.pixel_guard import guards_pixels
from finetune_keras.models.preprocessing import applications

RAW = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 3)).astype("f4")
SHAPE = (40, 40, 3)
CASES = {
    "MobileNet": {"alpha": 0.25},
    "VGG16": {},
    "MobileNetV3Small": {"alpha": 0.75},
}


def values(x):
    return keras.ops.convert_to_numpy(x)


def application(name, **kwargs):
    kwargs = {"input_shape": SHAPE, "include_top": False, **kwargs}
    return applications()[name](weights=None, **CASES.get(name, {}), **kwargs)


def assert_equal(got, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(got, expected, atol=tolerance * scale)


def preprocess(name, pixels):
    module = applications()[name].__module__.split(".")[-1]
    module = getattr(keras.applications, module)
    return module.preprocess_input(pixels.copy())


@functools.cache
def both(name):
    """A backbone, and the application that it is made of."""
    backbone = ft.backbone(name, SHAPE, weights=None, **CASES[name])
    return backbone, application(name)


@pytest.mark.parametrize("name", CASES)
def test_raw_pixels_in_features_out(name):
    backbone, plain = both(name)
    assert guards_pixels(backbone)
    assert backbone.name == plain.name
    plain.set_weights(backbone.get_weights())
    expected = values(plain(preprocess(name, RAW)))
    assert_equal(values(backbone(RAW)), expected)


@pytest.mark.parametrize("name", CASES)
def test_graph_is_flat_with_the_names_of_the_application(name):
    backbone, plain = both(name)
    layers = [x for x in backbone.layers if x.weights]
    named = [x.name for x in plain.layers if x.weights]
    assert [x.name for x in layers] == named
    assert not any(isinstance(x, keras.Model) for x in backbone.layers)
    assert len(backbone.layers) - len(plain.layers) in (0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_of_inner_layers_can_be_read(channels):
    shape = (40, 40, channels)
    backbone = ft.backbone("MobileNet", shape, weights=None, alpha=0.25)
    middle = backbone.get_layer("conv_pw_3_relu").output
    assert keras.Model(backbone.input, middle)(RAW[..., :channels]).ndim == 4


def test_any_size_of_image_by_default():
    backbone = ft.backbone("MobileNet", weights=None, alpha=0.25)
    assert backbone.input_shape == (None, None, None, 3)
    assert backbone(RAW).shape == (2, 1, 1, 256)


def test_built_model_is_shared():
    model = application("VGG16")
    backbone = ft.backbone(model)
    assert guards_pixels(backbone)
    assert backbone.name == "vgg16"
    kernel = model.get_layer("block5_conv3")
    assert backbone.get_layer("block5_conv3") is kernel
    expected = values(model(preprocess("VGG16", RAW)))
    assert_equal(values(backbone(RAW)), expected)
    # And once more: pixels are never scaled twice.
    again = values(ft.backbone(backbone)(RAW))
    assert_equal(again, expected)


def test_built_model_for_other_images():
    model = application("VGG16")
    backbone = ft.backbone(model, (48, 32, 4))
    assert backbone.input_shape == (None, 48, 32, 4)
    assert backbone.output_shape == (None, 1, 1, 512)
    stem = backbone.get_layer("block1_conv1")
    assert stem is not model.get_layer("block1_conv1")
    layer = backbone.get_layer("block1_conv2")
    assert layer is model.get_layer("block1_conv2")


def test_model_inside_a_model_is_scaled_and_opened():
    inner = application("MobileNet")
    backbone = ft.backbone(keras.Sequential([keras.Input(SHAPE), inner]))
    assert backbone.get_layer("conv1") is inner.get_layer("conv1")
    expected = values(inner(preprocess("MobileNet", RAW)))
    assert_equal(values(backbone(RAW)), expected)


def test_model_that_nobody_knows_is_left_alone():
    layers = [keras.Input(SHAPE), keras.layers.Conv2D(2, 3, name="own")]
    model = keras.Sequential(layers)
    backbone = ft.backbone(model)
    assert not guards_pixels(backbone)
    np.testing.assert_array_equal(values(backbone(RAW)), values(model(RAW)))


def test_callable():
    function = functools.partial(keras.applications.MobileNet, alpha=0.25)
    backbone = ft.backbone(function, SHAPE, weights=None)
    plain = application("MobileNet")
    plain.set_weights(backbone.get_weights())
    expected = values(plain(preprocess("MobileNet", RAW)))
    assert_equal(values(backbone(RAW)), expected)
    middle = backbone.get_layer("conv_pw_3_relu").output
    keras.Model(backbone.input, middle)


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV3Small"])
def test_gray_images(name, tmp_path):
    path = str(tmp_path / "rgb.weights.h5")
    rgb = both(name)[0]
    rgb.save_weights(path)
    gray = ft.backbone(name, (40, 40, 1), weights=path, **CASES[name])
    pixels = RAW[..., :1]
    expected = values(rgb(np.repeat(pixels, 3, axis=-1)))
    assert_equal(values(gray(pixels)), expected, 1e-4)
    assert gray.name == rgb.name


@pytest.fixture(scope="module")
def b0_file(tmp_path_factory):
    """Weights of an EfficientNetB0, its mean and deviations."""
    path = str(tmp_path_factory.mktemp("b0") / "b0.weights.h5")
    deviations = np.array([0.229, 0.224, 0.225])
    mean = np.array([0.485, 0.456, 0.406])
    plain = application("EfficientNetB0")
    # The official files hold deviations in place of variances.
    plain.layers[2].set_weights([mean, deviations, np.array(0)])
    plain.save_weights(path)
    return path, mean, deviations


@pytest.mark.parametrize("channels", [1, 3])
def test_efficientnet_from_a_file_scales_as_with_imagenet(channels, b0_file):
    path, mean, deviations = b0_file
    shape = (40, 40, channels)
    backbone = ft.backbone("EfficientNetB0", shape, weights=path)
    pad = backbone.get_layer("stem_conv_pad").input
    pixels = np.resize(np.moveaxis(RAW, -1, 0), (channels, 2, 40, 40))
    pixels = np.moveaxis(pixels, 0, -1)
    got = values(keras.Model(backbone.input, pad)(pixels))
    if channels == 1:
        deviations, mean = [deviations.mean()], [mean.mean()]
    expected = pixels / 255 - np.resize(mean, channels)
    expected /= np.resize(deviations, channels)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_weights_travel_between_backbone_and_application(tmp_path):
    path = str(tmp_path / "m.weights.h5")
    plain = application("MobileNet")
    plain.save_weights(path)
    backbone = ft.backbone("MobileNet", SHAPE, weights=path, alpha=0.25)
    other = application("MobileNet")
    backbone.save_weights(path)
    other.load_weights(path)
    for old, new in zip(plain.weights, other.weights, strict=True):
        np.testing.assert_array_equal(values(old), values(new))


def test_weights_of_another_model(tmp_path):
    path = str(tmp_path / "m.weights.h5")
    application("MobileNet").save_weights(path)
    with pytest.raises(ValueError, match=r"(?s)mobilenet_0.50_40.*m.weights"):
        ft.backbone("MobileNet", SHAPE, weights=path, alpha=0.5)
    model = application("MobileNet")
    ft.backbone(model, weights=path)
    with pytest.raises(ValueError, match="does not fit"):
        ft.backbone(application("MobileNetV3Small"), weights=path)


def test_file_of_a_backbone(tmp_path):
    backbone = ft.backbone("MobileNet", (40, 40, 1), None, alpha=0.25)
    backbone.save(tmp_path / "b.keras")
    loaded = keras.models.load_model(tmp_path / "b.keras")
    pixels = RAW[..., :1]
    expected = values(backbone(pixels))
    assert_equal(values(loaded(pixels)), expected)


@pytest.mark.parametrize(
    "model, nearest", [("MobilNet", "MobileNet"), ("resnet50", "ResNet50")]
)
def test_unknown_name(model, nearest):
    with pytest.raises(ValueError, match=rf"names: \['{nearest}'.*{model}"):
        ft.backbone(model, weights=None)


def test_neither_name_nor_model():
    with pytest.raises(ValueError, match="model=17"):
        ft.backbone(17)
    with pytest.raises(ValueError, match="Dense"):
        ft.backbone(keras.layers.Dense(2))
    with pytest.raises(ValueError, match="functional or sequential"):
        ft.backbone(keras.Sequential([keras.layers.Conv2D(2, 3)]))
    vectors = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="a batch of images"):
        ft.backbone(vectors)


@pytest.mark.parametrize(
    "shape",
    [(40, 40), (1, 40, 40, 3), (40, 40, 0), (40, 40, None), (0, 40, 3), "40"],
)
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match="`input_shape` must be"):
        ft.backbone("MobileNet", input_shape=shape, weights=None)


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match="MobileNet .* at least 32x32"):
        ft.backbone("MobileNet", input_shape=(31, 40, 1), weights=None)
    layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    with pytest.raises(ValueError, match=r"images of shape \(8, 8, 3\)"):
        ft.backbone(model, input_shape=(9, 9, 3))


@pytest.mark.parametrize(
    "kwargs, said",
    [
        ({"pooling": "avg"}, "pooling of the head"),
        ({"include_top": True}, "has no head"),
        ({"include_preprocessing": False}, "scales its pixels"),
    ],
)
def test_arguments_that_make_no_backbone(kwargs, said):
    with pytest.raises(ValueError, match=said):
        ft.backbone("MobileNetV3Small", SHAPE, weights=None, **kwargs)


def test_arguments_for_a_built_model():
    with pytest.raises(ValueError, match="'alpha': 0.5"):
        ft.backbone(application("MobileNet"), alpha=0.5)


@pytest.mark.backends
def test_scaling_is_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        backbone = ft.backbone("MobileNet", SHAPE, weights=None, alpha=0.25)
        assert backbone.get_layer("pixel_scaling").compute_dtype == "float32"
        assert backbone.get_layer("conv1").compute_dtype == "float16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_imagenet_weights_warn_of_smaller_images(monkeypatch):
    def build(function, weights, **options):
        return function(weights=None, alpha=0.25, **options)

    # Stands for a download.
    monkeypatch.setattr(backbones, "build", build)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # There are weights of MobileNet for this size.
        ft.backbone("MobileNet", input_shape=(128, 128, 3))
        ft.backbone("MobileNet", input_shape=(64, 64, 3), weights=None)
    with pytest.warns(UserWarning, match="images of 224 .* On 64 its"):
        ft.backbone("MobileNet", input_shape=(64, 64, 3))
