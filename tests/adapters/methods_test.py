import keras
import numpy as np
import pytest

from finetune_keras import testing
from finetune_keras.adapters.adapter import (
    add_adapters,
    disable_adapters,
)
from finetune_keras.adapters.bottleneck import Bottleneck
from finetune_keras.adapters.files import load_adapters, save_adapters
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.merge import merge_adapters
from finetune_keras.adapters.scales_and_biases import IA3, BitFit, NormTuning
from finetune_keras.models.adapters_by_path import adapters_by_name

METHODS = [IA3(), BitFit(), NormTuning(), Bottleneck(units=3)]


def transformer():
    inputs = keras.Input((5, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.LayerNormalization(name="norm_1")(inputs + x)
    y = keras.layers.Dense(12, activation="relu", name="mlp_in")(x)
    y = keras.layers.Dense(8, name="mlp_output")(y)
    x = keras.layers.LayerNormalization(name="norm_2")(x + y)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = keras.layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs))


def cnn():
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.Conv2D(6, 1, activation="relu", name="pointwise")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs))


def predict(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def inputs_of(model):
    rng = np.random.default_rng(4)
    return rng.standard_normal((8, *model.input_shape[1:])).astype("float32")


def fill(model):
    values = np.random.default_rng(5)
    for places in adapters_by_name(model).values():
        for _, adapter in places.values():
            for variable in adapter.trainable_variables:
                noise = 0.3 * values.standard_normal(variable.shape)
                variable.assign(variable + noise.astype("float32"))


@pytest.mark.backends(
    "transformer-Bottleneck", "cnn-BitFit", "cnn-NormTuning"
)
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("make", [transformer, cnn])
def test_every_method_keeps_the_promises(make, method, tmp_path):
    model = make()
    x, y = inputs_of(model), np.eye(8, 2)
    start = predict(model, x)
    add_adapters(model, method)
    np.testing.assert_allclose(predict(model, x), start, atol=1e-6)

    before = testing.weights_snapshot(model)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(x, y, epochs=3, verbose=0)
    after = testing.weights_snapshot(model)
    for path, value in before.items():
        if "adapter_" not in path and not path.startswith("head"):
            np.testing.assert_array_equal(value, after[path], err_msg=path)
    moved = [k for k in before if not np.array_equal(before[k], after[k])]
    assert any("adapter_" in path for path in moved)

    fill(model)
    adapted = predict(model, x)
    assert np.abs(adapted - start).max() > 1e-2
    file = tmp_path / "model.keras"
    model.save(file)
    loaded = keras.models.load_model(file)
    np.testing.assert_allclose(predict(loaded, x), adapted, atol=1e-5)
    loaded.fit(x, y, verbose=0)
    assert np.abs(predict(loaded, x) - adapted).max() > 1e-4
    ((_, adapter), *_) = adapters_by_name(loaded)["default"].values()
    assert adapter.method == method

    save_adapters(model, tmp_path / "adapter")
    other = load_adapters(make(), tmp_path / "adapter")
    np.testing.assert_allclose(predict(other, x), adapted, atol=1e-5)
    with disable_adapters(other):
        off = predict(other, x)
    plain = make()
    plain.get_layer("head").set_weights(model.get_layer("head").get_weights())
    np.testing.assert_allclose(off, predict(plain, x), atol=1e-6)

    if isinstance(method, Bottleneck):
        with pytest.raises(ValueError, match="Bottleneck does is no change"):
            merge_adapters(model)
    else:
        merge_adapters(model)
        assert len(model.weights) == len(plain.weights)
    np.testing.assert_allclose(predict(model, x), adapted, atol=1e-4)


@pytest.mark.backends("transformer-IA3", "cnn-Bottleneck")
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("make", [transformer, cnn])
def test_compiled_it_is_the_same(make, method):
    model = add_adapters(make(), method)
    x = inputs_of(model)
    fill(model)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), predict(model, x), atol=1e-5
    )


@pytest.mark.parametrize(
    "method, make, expected",
    [
        (
            IA3(),
            transformer,
            ["attention/key", "attention/value", "mlp_output"],
        ),
        (IA3(), cnn, ["pointwise"]),
        (
            BitFit(),
            cnn,
            ["stem", "norm", "depthwise", "pointwise"],
        ),
        (NormTuning(), transformer, ["norm_1", "norm_2"]),
        (
            Bottleneck(),
            transformer,
            ["attention/attention_output", "mlp_output"],
        ),
        (Bottleneck(placement="pfeiffer"), transformer, ["mlp_output"]),
        (Bottleneck(), cnn, ["pointwise"]),
    ],
)
def test_default_places(method, make, expected):
    model = add_adapters(make(), method)
    assert list(adapters_by_name(model)["default"]) == expected


@pytest.mark.backends
def test_ia3_is_the_formula():
    x = np.random.default_rng(1).standard_normal((3, 4)).astype("float32")
    inputs = keras.Input((4,))
    y = keras.layers.Dense(5, activation="relu", name="key")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(6, name="mlp_output")(y))
    testing.randomize(model)
    one, two = model.layers[1:]
    (k1, b1), (k2, b2) = one.get_weights(), two.get_weights()
    add_adapters(model, IA3(), ["key", "mlp_output"])
    fill(model)
    l1, l2 = (
        keras.ops.convert_to_numpy(layer.adapter_default.scale.kernel)
        for layer in (one, two)
    )
    hidden = np.maximum((x @ k1 + b1) * l1, 0)
    np.testing.assert_allclose(
        predict(model, x), (hidden * l2) @ k2 + b2, rtol=1e-4, atol=1e-5
    )


@pytest.mark.backends
def test_bottleneck_is_the_formula():
    x = np.random.default_rng(1).standard_normal((3, 4)).astype("float32")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(5, name="body")(inputs))
    testing.randomize(model)
    kernel, bias = model.get_layer("body").get_weights()
    add_adapters(model, Bottleneck(2, "relu"), "body")
    fill(model)
    adapter = model.get_layer("body").adapter_default
    down, up = adapter.down.get_weights(), adapter.up.get_weights()
    y = x @ kernel + bias
    expected = y + np.maximum(y @ down[0] + down[1], 0) @ up[0] + up[1]
    np.testing.assert_allclose(
        predict(model, x), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.backends
def test_methods_stack():
    model = transformer()
    x = inputs_of(model)
    add_adapters(model, LoRA(rank=2), name="lora")
    add_adapters(model, IA3(), name="ia3")
    fill(model)
    for places in adapters_by_name(model).values():
        for _, adapter in places.values():
            adapter.switch.assign(1.0)
    both = predict(model, x)
    with disable_adapters(model):
        off = predict(model, x)
    np.testing.assert_allclose(predict(model, x), both, atol=1e-7)
    assert np.abs(both - off).max() > 1e-2


@pytest.mark.parametrize(
    "wrong",
    [{"units": 0}, {"units": 1.5}, {"placement": "top"}, {"activation": None}],
)
def test_wrong_bottlenecks_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        Bottleneck(**wrong)


@pytest.mark.parametrize(
    "equation, shape, methods",
    [
        ("abc,cde->abed", (None, 3, 5), []),
        ("ab...,bc->ac...", (3, None), []),
        ("abc,dc->abd", (None, 6), [IA3(), Bottleneck(units=3)]),
        ("...x,xy->...y", 6, [IA3(), Bottleneck(units=3)]),
    ],
)
def test_unusual_projections_are_right_or_refused(equation, shape, methods):
    inputs = keras.Input((5, 4), batch_size=8)
    layer = keras.layers.EinsumDense(equation, shape, name="value")
    x = keras.layers.Dense(2, name="head")(layer(inputs))
    model = testing.randomize(keras.Model(inputs, x))
    x = inputs_of(model)
    for method in (IA3(), Bottleneck(units=3)):
        if method not in methods:
            if method == IA3():
                with pytest.raises(ValueError, match="No layer that IA3"):
                    add_adapters(model, method, "value")
            continue
        add_adapters(model, method, "value")
        fill(model)
        adapted = predict(model, x)
        if method == IA3():
            merge_adapters(model)
            np.testing.assert_allclose(predict(model, x), adapted, atol=1e-4)


def test_bitfit_goes_into_every_convolution_with_a_bias():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2DTranspose(4, 3, name="up")(inputs)
    x = keras.layers.SeparableConv2D(4, 3, name="separable")(x)
    x = keras.layers.DepthwiseConv2D(3, use_bias=False, name="bare")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    testing.randomize(model)
    add_adapters(model, BitFit())
    places = adapters_by_name(model)["default"]
    assert list(places) == ["up", "separable"]
    x = inputs_of(model)
    fill(model)
    adapted = predict(model, x)
    merge_adapters(model)
    np.testing.assert_allclose(predict(model, x), adapted, atol=1e-4)
