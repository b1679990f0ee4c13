import re

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.adapters.adapter import (
    add_adapters,
    disable_adapters,
)
from finetune_keras.adapters.lora import LoRA, lora_plus_multipliers
from finetune_keras.adapters.merge import merge_adapters
from finetune_keras.models.adapters_by_path import adapters_by_name

rng = np.random.default_rng(3)


def normal(*shape):
    return rng.standard_normal(shape).astype("float32")


# Each layer, its input, and where the kernel's inputs lie.
LAYERS = {
    "dense": (keras.layers.Dense(5, activation="tanh"), normal(4, 3), (0,)),
    "dense 3d": (keras.layers.Dense(5), normal(4, 2, 3), (0,)),
    "query": (
        keras.layers.EinsumDense(
            "abc,cde->abde", (None, 2, 4), bias_axes="de", activation="relu"
        ),
        normal(4, 3, 6),
        (0,),
    ),
    "output": (
        keras.layers.EinsumDense("abcd,cde->abe", (None, 6), bias_axes="e"),
        normal(4, 3, 2, 4),
        (0, 1),
    ),
    "ellipsis": (
        keras.layers.EinsumDense("...x,xy->...y", 5, bias_axes="y"),
        normal(4, 3, 6),
        (0,),
    ),
    "per head": (
        keras.layers.EinsumDense("abc,bcd->abd", (3, 2)),
        normal(4, 3, 6),
        (1,),
    ),
    "conv1d": (keras.layers.Conv1D(4, 3, padding="causal"), normal(2, 7, 3), 2),
    "conv2d": (
        keras.layers.Conv2D(6, 3, 2, "same", activation="relu"),
        normal(2, 7, 7, 4),
        3,
    ),
    "dilated": (
        keras.layers.Conv2D(4, (2, 3), dilation_rate=2),
        normal(2, 8, 8, 3),
        3,
    ),
    "pointwise": (keras.layers.Conv2D(5, 1), normal(2, 4, 4, 3), 3),
    "grouped": (keras.layers.Conv2D(6, 3, groups=2), normal(2, 5, 5, 4), 3),
    "depthwise": (
        keras.layers.DepthwiseConv2D(
            3, 2, padding="same", depth_multiplier=2, activation="relu"
        ),
        normal(2, 6, 6, 3),
        2,
    ),
    "depthwise 1d": (keras.layers.DepthwiseConv1D(3), normal(2, 6, 3), 1),
}
# To "rslora" a layer is what it is to "lora": only a number differs.
PAIRS = [
    (kind, variant)
    for kind in LAYERS
    for variant in ("lora", "rslora", "dora")
    if variant != "rslora" or kind in ("dense", "output", "conv2d")
]


def model_of(layer, x, name="body"):
    config = {**layer.get_config(), "name": name}
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name)
    outputs = type(layer).from_config(config)(inputs)
    return testing.randomize(keras.Model(inputs, outputs))


def fill(model, seed=5):
    """Gives every trained part of the adapters a value of its own."""
    values = np.random.default_rng(seed)
    for places in adapters_by_name(model).values():
        for _, adapter in places.values():
            for variable in adapter.trainable_variables:
                noise = 0.3 * values.standard_normal(variable.shape)
                variable.assign(variable + noise.astype("float32"))


def predict(model, x):
    return array(model(x, training=False))


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def numpy_kernel(layer, method, axes):
    """The kernel that the paper computes with, in plain NumPy."""
    adapter = layer.adapter_default
    a, b = array(adapter.lora_a.kernel), array(adapter.lora_b.kernel)
    kernel = array(layer.kernel)
    if isinstance(layer, keras.layers.EinsumDense) and axes == (1,):
        product = np.stack([one @ two for one, two in zip(a, b, strict=True)])
    else:
        rank = method.rank
        product = a.reshape(-1, rank) @ b.reshape(rank, -1)
    root = np.sqrt(method.rank) if method.variant == "rslora" else method.rank
    changed = kernel + method.alpha / root * product.reshape(kernel.shape)
    if method.variant != "dora":
        return changed
    axes = axes if isinstance(axes, tuple) else tuple(range(axes))
    length = np.sqrt((changed**2).sum(axes, keepdims=True))
    return array(adapter.magnitude.kernel) * changed / length


@pytest.mark.backends(
    "query-lora",
    "per head-lora",
    "output-dora",
    "conv1d-lora",
    "conv2d-dora",
    "grouped-lora",
    "depthwise-dora",
)
@pytest.mark.parametrize("kind, variant", PAIRS)
def test_lora_is_the_formula_starts_as_identity_and_merges(kind, variant):
    layer, x, axes = LAYERS[kind]
    model = model_of(layer, x)
    before = predict(model, x)
    method = LoRA(rank=2, alpha=3, variant=variant)
    add_adapters(model, method, target_layers="body")
    start = predict(model, x)
    np.testing.assert_allclose(start, before, atol=1e-6)
    fill(model)
    adapted = model.predict(x, verbose=0)
    assert np.abs(adapted - before).max() > 0.05
    body = model.get_layer("body")
    twin = model_of(layer, x)
    twin.set_weights([numpy_kernel(body, method, axes), *array_bias(body)])
    np.testing.assert_allclose(predict(twin, x), adapted, rtol=1e-4, atol=1e-5)
    with disable_adapters(model):
        off = predict(model, x)
    np.testing.assert_allclose(off, before, atol=1e-6)
    merge_adapters(model)
    np.testing.assert_allclose(predict(model, x), adapted, rtol=1e-4, atol=1e-5)
    assert len(model.weights) == len(twin.weights)
    assert type(body) is type(layer)


def array_bias(layer):
    return [] if layer.bias is None else [array(layer.bias)]


@pytest.mark.backends
@pytest.mark.needs("3.12")
def test_lora_of_an_embedding_is_the_formula_both_ways():
    x = np.array([[1, 0, 3], [4, 2, 2]])
    inputs = keras.Input((3,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(6, 4, mask_zero=True, name="table")
    logits = table(keras.ops.tanh(table(inputs)), reverse=True)
    model = testing.randomize(keras.Model(inputs, logits))
    before = predict(model, x)
    add_adapters(model, LoRA(rank=2, alpha=3), target_layers="table")
    np.testing.assert_allclose(predict(model, x), before, atol=1e-6)
    fill(model)
    adapter = table.adapter_default
    a, b = array(adapter.lora_a.kernel), array(adapter.lora_b.kernel)
    rows = array(table.embeddings) + 1.5 * a @ b
    adapted = predict(model, x)
    np.testing.assert_allclose(
        adapted, np.tanh(rows[x]) @ rows.T, rtol=1e-4, atol=1e-5
    )
    merge_adapters(model)
    np.testing.assert_allclose(predict(model, x), adapted, atol=1e-5)


def test_the_mask_of_an_embedding_is_kept():
    table = keras.layers.Embedding(6, 4, mask_zero=True, name="table")
    inputs = keras.Input((3,), dtype="int32")
    outputs = keras.layers.GlobalAveragePooling1D()(table(inputs))
    model = testing.randomize(keras.Model(inputs, outputs))
    add_adapters(model, LoRA(rank=2), target_layers="table")
    fill(model)
    long = predict(model, np.array([[1, 2, 0]]))
    rows = array(table(np.array([[1, 2]])))
    np.testing.assert_allclose(long, rows.mean(1), rtol=1e-5)


def test_a_starts_uniform_within_the_papers_limit_and_b_at_zero():
    model = model_of(keras.layers.Dense(50), normal(1, 400))
    add_adapters(model, LoRA(rank=8), target_layers="body")
    adapter = model.get_layer("body").adapter_default
    a = array(adapter.lora_a.kernel)
    assert np.abs(a).max() <= 1 / 20
    np.testing.assert_allclose(a.std(), 1 / 20 / np.sqrt(3), rtol=0.05)
    assert not array(adapter.lora_b.kernel).any()


@pytest.mark.backends
def test_dropout_acts_in_training_only():
    model = model_of(keras.layers.Dense(5), normal(1, 40))
    add_adapters(model, LoRA(rank=2, dropout=0.5), target_layers="body")
    fill(model)
    x = normal(2, 40)
    one, other, quiet = (
        array(model(x, training=training)) for training in (True, True, False)
    )
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_allclose(predict(model, x), quiet, rtol=1e-4)


@pytest.mark.backends
def test_mixed_precision_keeps_float32_factors():
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = normal(4, 3)
    model = model_of(keras.layers.Dense(5, dtype="mixed_bfloat16"), x)
    before = np.float32(predict(model, x))
    add_adapters(model, LoRA(rank=2), target_layers="body")
    after = np.float32(predict(model, x))
    np.testing.assert_allclose(after, before, atol=1e-6)
    adapter = model.get_layer("body").adapter_default
    assert adapter.lora_a.kernel.dtype == "float32"
    fill(model)
    adapted = predict(model, x)
    assert str(model.outputs[0].dtype) == "bfloat16"
    merge_adapters(model)
    # The last of the eight bits of a bfloat16 may differ.
    merged = np.float32(predict(model, x))
    np.testing.assert_allclose(
        merged, np.float32(adapted), atol=0.02, rtol=2**-7
    )


@pytest.mark.backends
@pytest.mark.usefixtures("op_by_op")
def test_lora_trains_on_an_int8_base():
    x = normal(16, 8)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(8, activation="relu", name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    testing.randomize(model).get_layer("body").quantize("int8")
    before = predict(model, x)
    add_adapters(model, LoRA(rank=2), target_layers="body")
    np.testing.assert_allclose(predict(model, x), before, atol=1e-6)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    losses = model.fit(x, normal(16, 2), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert array(model.get_layer("body").adapter_default.lora_b.kernel).any()
    adapted = predict(model, x)
    merge_adapters(model)
    # Of int8, Keras rounds what a layer reads, too.
    np.testing.assert_allclose(predict(model, x), adapted, atol=0.1)
    add_adapters(model, ft.IA3(), target_layers="head")
    model.get_layer("head").quantize("int8")
    with pytest.raises(ValueError, match="quantised, and IA3 reads it"):
        merge_adapters(model)
    assert list(adapters_by_name(model)) == ["default"]


@pytest.mark.backends
@pytest.mark.usefixtures("op_by_op")
def test_lora_plus_moves_b_faster():
    x = normal(8, 4)
    steps = {}
    for ratio in (1.0, 16.0):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,))
        body = keras.layers.Dense(4, name="body")
        head = keras.layers.Dense(2, name="head")
        model = keras.Model(inputs, head(body(inputs)))
        testing.randomize(model)
        add_adapters(model, LoRA(rank=2), target_layers="body")
        fill(model)
        optimizer = ft.layerwise_optimizer(
            keras.optimizers.SGD(1e-3),
            model,
            multipliers=lora_plus_multipliers(model, ratio),
        )
        model.compile(optimizer, "mse")
        before = testing.weights_snapshot(model)
        model.train_on_batch(x, np.ones((8, 2), "float32"))
        after = testing.weights_snapshot(model)
        steps[ratio] = {k: after[k] - before[k] for k in before}
    for path, step in steps[1.0].items():
        factor = 16 if "lora_b" in path else 1
        np.testing.assert_allclose(
            steps[16.0][path], factor * step, rtol=1e-2, atol=2e-6
        )
    assert np.abs(steps[1.0]["body/adapter_default/lora_b/kernel"]).max() > 1e-4


def test_config_makes_an_equal_method():
    method = LoRA(rank=3, alpha=5, dropout=0.2, variant="rslora")
    data = keras.saving.serialize_keras_object(method)
    assert keras.saving.deserialize_keras_object(data) == method
    assert repr(method).startswith("LoRA(rank=3, alpha=5, dropout=0.2, ")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"rank": 2.0},
        {"alpha": 0},
        {"alpha": float("inf")},
        {"dropout": 1.0},
        {"variant": "vera"},
        {"initializer": "svd"},
    ],
)
def test_wrong_arguments_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
        LoRA(**wrong)


def test_lora_plus_needs_lora():
    model = model_of(keras.layers.Dense(5), normal(1, 4))
    with pytest.raises(ValueError, match="has no LoRA"):
        lora_plus_multipliers(model)
    add_adapters(model, LoRA(), target_layers="body")
    with pytest.raises(ValueError, match="ratio=0.5"):
        lora_plus_multipliers(model, 0.5)


@pytest.mark.backends
@pytest.mark.usefixtures("op_by_op")
def test_lora_trains_in_int8_attention():
    x = normal(4, 5, 8)
    inputs = keras.Input((5, 8))
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    y = keras.layers.GlobalAveragePooling1D()(y)
    outputs = keras.layers.Dense(2, name="head")(y)
    model = testing.randomize(keras.Model(inputs, outputs))
    attention = model.get_layer("attention")
    for dense in (attention._query_dense, attention._value_dense):
        dense.quantize("int8")
    before = predict(model, x)
    add_adapters(model, LoRA(rank=2))
    np.testing.assert_allclose(predict(model, x), before, atol=1e-6)
    fill(model)
    adapted = predict(model, x)
    assert np.abs(adapted - before).max() > 0.01
    kernel = array(attention._query_dense.kernel)
    assert kernel.dtype == "int8"
    model.compile("adam", "mse")
    model.fit(x, normal(4, 2), verbose=0)
    np.testing.assert_array_equal(array(attention._query_dense.kernel), kernel)


@pytest.mark.backends("mixed_float16")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_reads_the_rows_of_tokens_given_as_floats(policy):
    inputs = keras.Input((3,))
    layer = keras.layers.Embedding(5000, 4, dtype=policy, name="tokens")
    x = keras.layers.Flatten()(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    add_adapters(model, LoRA(rank=2), "tokens")
    adapter = adapters_by_name(model)["default"]["tokens"][1]
    adapter.lora_a.kernel.assign(normal(5000, 2))
    # 2049 and 4099 are no numbers of half precision.
    ids = np.array([[2049, 4097, 4099]])
    found = keras.ops.convert_to_numpy(layer(ids.astype("float32")))
    expected = keras.ops.convert_to_numpy(layer(ids))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.backends("mixed_bfloat16")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_dora_starts_as_identity_in_half_precision(policy):
    layer = keras.layers.Dense(4, dtype=policy, name="body")
    inputs = keras.Input((16,))
    x = keras.layers.Dense(2, name="head")(layer(inputs))
    model = testing.randomize(keras.Model(inputs, x))
    x = normal(3, 16)
    before = keras.ops.convert_to_numpy(keras.ops.cast(layer(x), "float32"))
    add_adapters(model, LoRA(rank=2, variant="dora"), "body")
    after = keras.ops.convert_to_numpy(keras.ops.cast(layer(x), "float32"))
    np.testing.assert_array_equal(after, before)


@pytest.mark.backends
def test_float64_merges_without_loss():
    inputs = keras.Input((4,), dtype="float64")
    layer = keras.layers.Dense(4, dtype="float64", name="body")
    x = keras.layers.Dense(2, name="head", dtype="float64")(layer(inputs))
    model = testing.randomize(keras.Model(inputs, x))
    kernel = rng.standard_normal((4, 4))
    layer.kernel.assign(kernel)
    add_adapters(model, LoRA(rank=2), "body")
    merge_adapters(model)
    merged = keras.ops.convert_to_numpy(layer.kernel)
    if merged.dtype == "float64":  # JAX has none by default
        np.testing.assert_array_equal(merged, kernel)
