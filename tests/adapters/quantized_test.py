"""LoRA on a base in int8 and int4: trained, kept, merged."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.engine.layers import float_kernel
from finetune_keras.testing.processes import FreshProcess

rng = np.random.default_rng(3)
X = rng.standard_normal((4, 5, 32)).astype("float32")
Y = rng.standard_normal((4, 2)).astype("float32")
pytestmark = [
    pytest.mark.needs("3.15"),
    pytest.mark.usefixtures("op_by_op", "garbage_stays"),
]


def array(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def predict(model):
    return array(model(X, training=False))


def base():
    inputs = keras.Input((5, 32))
    query = keras.layers.EinsumDense(
        "abc,cde->abde", (None, 2, 16), name="query"
    )
    x = keras.layers.Reshape((5, 32))(query(inputs))
    x = keras.layers.Dense(32, activation="relu", name="mlp")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = keras.layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs))


def small(mode):
    """A model whose kernels are quantised, but for the head, and its floats."""
    model = base()
    layers = ft.select_layers(model, ["mlp", "query"])
    layers = [x for x in layers if hasattr(x, "kernel")]
    before = [array(x.kernel) for x in layers]
    for layer in layers:
        layer.quantize(**mode)
    return model, layers, before


def weights_only():
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    return {"mode": "int8", "config": config}


def finer():
    """Blocks of 16 weights in int4 beside a layer in int8."""
    model = base()
    config = keras.quantizers.Int4QuantizationConfig(block_size=16)
    model.quantize(config=config, filters="mlp")
    model.quantize(**weights_only(), filters="query")
    return model


def nbytes(variables):
    return sum(array(v).nbytes for v in variables)


LOAD = """
import sys, keras, numpy as np
import finetune_keras
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model(np.load(sys.argv[2]), training=False))
print(len(model.trainable_variables))
"""


@pytest.mark.parametrize(
    "make, share, error, exact",
    [
        (lambda: {"mode": "int8"}, 0.3, 0.01, 0.1),
        (weights_only, 0.3, 0.01, 1e-4),
        (lambda: {"mode": "int4"}, 0.2, 0.15, 1e-4),
    ],
    ids=["int8", "weights", "int4"],
)
def test_lora_trains_and_merges_on_a_small_base(make, share, error, exact):
    model, layers, before = small(make())
    kernels = [v for x in layers for v in x.weights if "bias" not in v.name]
    assert nbytes(kernels) <= share * nbytes(before)
    for layer, kernel in zip(layers, before, strict=True):
        found = array(float_kernel(layer))
        assert np.abs(found - kernel).max() < error * np.abs(kernel).max()
    start = predict(model)
    ft.add_adapters(model, ft.LoRA(rank=2), ["mlp", "query"])
    np.testing.assert_allclose(predict(model), start, atol=1e-6)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    losses = model.fit(X, Y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    adapted = predict(model)
    assert np.abs(adapted - start).max() > 0.05
    ft.merge_adapters(model)
    np.testing.assert_allclose(predict(model), adapted, atol=exact, rtol=exact)
    assert {x.kernel.dtype for x in layers} == {"float32"}
    assert len(model.weights) == len(base().weights)
    # It is a layer as any other, and can be made small again.
    layers[0].quantize("int8")


@pytest.mark.parametrize(
    "make", [lambda: small({"mode": "int4"})[0], finer], ids=["int4", "finer"]
)
def test_a_fresh_process_has_the_small_base_with_its_adapters(make, tmp_path):
    model = make()
    ft.add_adapters(model, ft.LoRA(rank=2), "mlp")
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    model.save(tmp_path / "model.keras")
    ft.save_adapters(model, tmp_path / "adapters")
    np.save(tmp_path / "x.npy", X)
    files = [tmp_path / x for x in ("model.keras", "x.npy", "y.npy")]
    process = FreshProcess("-c", LOAD, *files)
    assert process.wait() == 0, process.stderr
    expected = predict(model)
    np.testing.assert_allclose(np.load(files[2]), expected, atol=1e-5)
    assert process.stdout.split()[-1] == str(len(model.trainable_variables))
    # The same base, quantised again, is known as the same.
    other = make()
    ft.load_adapters(other, tmp_path / "adapters")
    np.testing.assert_allclose(predict(other), expected, atol=1e-5)


def test_scores_in_int8_that_have_wrong_gradients_are_refused():
    ids = keras.Input((3,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(9, 8, name="table")
    x = keras.layers.Dense(8, name="body")(table(ids))
    model = keras.Model(ids, table(x, reverse=True))
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    other = keras.models.clone_model(model)
    model.quantize("int8")
    with pytest.raises(ValueError, match="'table' is in int8 and rounds"):
        ft.add_adapters(model, ft.LoRA(rank=2), "body")
    other.quantize(config=config)
    ft.add_adapters(other, ft.LoRA(rank=2), "body")
