import keras
import numpy as np
import pytest

from finetune_keras.models.channels import with_channels
from finetune_keras.models.preprocessing import scale_pixels

RAW = np.random.default_rng(0).uniform(0, 255, (2, 12, 10, 3)).astype("f4")


def values(x):
    return keras.ops.convert_to_numpy(x)


def randomize(model):
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()]
    )
    return model


def make(mode="tf", *before):
    inputs = keras.Input((None, None, 3))
    x = scale_pixels(inputs, mode)
    for layer in before:
        x = layer(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(2, 3, name="next")(x)
    return randomize(keras.Model(inputs, x, name="small"))


@pytest.mark.backends
def test_gray_gives_what_three_equal_channels_give():
    model = make()
    gray = with_channels(model, (12, 10, 1))
    pixels = RAW[..., :1]
    expected = values(model(np.repeat(pixels, 3, axis=-1)))
    np.testing.assert_allclose(values(gray(pixels)), expected, rtol=1e-4)
    assert gray.input_shape == (None, 12, 10, 1)
    assert gray.name == "small"


def test_all_but_the_stem_is_shared():
    model = make()
    gray = with_channels(model, (12, 10, 1))
    assert gray.get_layer("next") is model.get_layer("next")
    assert gray.get_layer("norm") is model.get_layer("norm")
    old, new = model.get_layer("stem"), gray.get_layer("stem")
    assert new is not old
    np.testing.assert_array_equal(values(new.bias), values(old.bias))


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_other_channels_repeat_the_filters(channels):
    model = make()
    other = with_channels(model, (None, None, channels))
    old = values(model.get_layer("stem").kernel)
    turns = [c % 3 for c in range(channels)]
    np.testing.assert_allclose(
        values(other.get_layer("stem").kernel),
        old[:, :, turns] * 3 / channels,
        rtol=1e-6,
    )


@pytest.mark.backends
def test_filters_are_turned_where_pixels_were():
    # Filters in the order blue, green, red meet red, green, blue, red.
    model = make("caffe")
    other = with_channels(model, (12, 10, 4))
    old = values(model.get_layer("stem").kernel)
    np.testing.assert_allclose(
        values(other.get_layer("stem").kernel),
        old[:, :, [2, 1, 0, 2]] * 0.75,
        rtol=1e-6,
    )
    scaled = keras.Model(other.input, other.get_layer("stem").input)
    four = np.concatenate([RAW, RAW[..., :1]], axis=-1)
    mean = [123.68, 116.779, 103.939, 123.68]
    np.testing.assert_allclose(values(scaled(four)), four - mean, atol=1e-4)


def test_layers_before_the_stem_are_made_anew():
    adapted = keras.layers.Normalization()
    adapted.adapt(RAW)
    listed = keras.layers.Rescaling([1.0, 2.0, 3.0], offset=[0.1, 0.2, 0.6])
    norm = keras.layers.BatchNormalization(name="first_norm")
    model = make(None, adapted, listed, norm)
    # `set_weights` does not tell the layer that its statistics moved.
    adapted.finalize_state()
    gray = with_channels(model, (12, 10, 1))
    layers = [layer for layer in gray.layers if layer.name != "next"]
    new, rescaling, new_norm = layers[1:4]
    for old_weight, weight in zip(adapted.weights, new.weights, strict=True):
        mean = values(old_weight).mean()
        np.testing.assert_allclose(values(weight).squeeze(), mean, rtol=1e-6)
    np.testing.assert_allclose(
        values(new(RAW[..., :1])),
        (RAW[..., :1] - values(adapted.weights[0]).mean())
        / values(adapted.weights[1]).mean() ** 0.5,
        rtol=1e-5,
    )
    np.testing.assert_allclose([*rescaling.scale, *rescaling.offset], [2, 0.3])
    mean = values(norm.gamma).mean()
    np.testing.assert_allclose(values(new_norm.gamma), [mean], rtol=1e-6)


def test_config_of_the_stem_is_kept():
    inputs = keras.Input((None, None, 3))
    conv = keras.layers.Conv2D(
        4, 5, 2, use_bias=False, trainable=False, name="stem", dtype="bfloat16"
    )
    gray = with_channels(keras.Model(inputs, conv(inputs)), (9, 9, 1))
    new = gray.get_layer("stem").get_config()
    assert new == conv.get_config()


def test_file_of_an_adapted_model(tmp_path):
    gray = with_channels(make("torch"), (12, 10, 1))
    gray.save(tmp_path / "gray.keras")
    loaded = keras.models.load_model(tmp_path / "gray.keras")
    pixels = RAW[..., :1]
    np.testing.assert_allclose(
        values(loaded(pixels)), values(gray(pixels)), rtol=1e-6
    )


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dense(4),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.ReLU(),
    ],
)
def test_no_convolution_to_adapt(layer):
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    with pytest.raises(ValueError, match="only where a `Conv2D`"):
        with_channels(model, (8, 8, 1))


def test_channels_that_are_picked_by_number():
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.stack([inputs[..., i] for i in (2, 1, 0)], axis=-1)
    x = keras.layers.Conv2D(2, 3)(x)
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="cannot take images of other than 3"):
        with_channels(model, (8, 8, 1))
    # With four, the fourth would go unseen.
    with pytest.raises(ValueError, match="takes all channels"):
        with_channels(model, (8, 8, 4))
