"""PiSSA, VeRA, ranks by layer, and adapters joined into one."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.testing.processes import FreshProcess

rng = np.random.default_rng(3)
X = rng.standard_normal((8, 5, 8)).astype("float32")
# Each type of layer whose factors lie in a way of their own, and its inputs.
LAYERS = {
    "query": (keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4)), (5, 8)),
    "turned": (keras.layers.EinsumDense("btd,ndh->btnh", (None, 2, 4)), (5, 8)),
    "per head": (keras.layers.EinsumDense("abc,bcd->abd", (5, 6)), (5, 8)),
    "grouped": (keras.layers.Conv2D(6, 3, groups=2), (5, 5, 4)),
    "depthwise": (
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 6, 3),
    ),
    "tokens": (keras.layers.Embedding(9, 6), None),
}
PISSA = ft.LoRA(rank=3, alpha=6, initializer="pissa")
VERA = ft.VeRA(rank=4)
OF_VERA = ("turned", "per head", "tokens")


def transformer():
    inputs = keras.Input((5, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.Dense(6, activation="relu", name="mlp")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = keras.layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs))


def array(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def predict(model, x=X):
    return array(model(x, training=False))


def fill(model, name="default", seed=5):
    values = np.random.default_rng(seed)
    for _, adapter in adapters_by_name(model)[name].values():
        for variable in adapter.trainable_variables:
            noise = 0.3 * values.standard_normal(variable.shape)
            variable.assign(variable + noise.astype("float32"))


def changes(model, name="default"):
    """Dict from paths to what an adapter adds to the kernels."""
    places = adapters_by_name(model)[name].items()
    return {path: array(x.kernel_change()) for path, (_, x) in places}


@pytest.mark.backends("LoRA-query", "VeRA-per head")
@pytest.mark.parametrize(
    "method, kind",
    [*((PISSA, kind) for kind in LAYERS), *((VERA, kind) for kind in OF_VERA)],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_it_starts_as_identity_and_merges(method, kind):
    layer, shape = LAYERS[kind]
    layer = type(layer).from_config({**layer.get_config(), "name": "body"})
    inputs = keras.Input(shape or (5,), dtype=None if shape else "int32")
    model = testing.randomize(keras.Model(inputs, layer(inputs)))
    x = rng.standard_normal((2, *(shape or (5,)))).astype("float32")
    x = x if shape else np.array([[1, 0, 3, 8, 2]])
    if not shape and method == VERA:
        with pytest.raises(ValueError, match="No layer that VeRA"):
            ft.add_adapters(model, method, "body")
        return
    before = predict(model, x)
    ft.add_adapters(model, method, "body")
    np.testing.assert_allclose(predict(model, x), before, atol=2e-6)
    fill(model)
    adapted = predict(model, x)
    assert np.abs(adapted - before).max() > 0.05
    with ft.disable_adapters(model):
        np.testing.assert_array_equal(predict(model, x), before)
    ft.merge_adapters(model)
    np.testing.assert_allclose(predict(model, x), adapted, rtol=1e-4, atol=1e-5)


@pytest.mark.backends
def test_pissa_starts_from_the_largest_singular_values():
    model = transformer()
    method = ft.LoRA(rank=2, alpha=3, initializer="pissa")
    ft.add_adapters(model, method, ["mlp", ".*value"])
    for path in ("mlp", "attention/value"):
        layer, adapter = adapters_by_name(model)["default"][path]
        kernel = array(layer.kernel).reshape(8, -1)
        u, s, v = np.linalg.svd(kernel)
        nearest = (u[:, :2] * s[:2]) @ v[:2]
        a, b = array(adapter.lora_a.kernel), array(adapter.lora_b.kernel)
        product = a @ b.reshape(2, -1)
        np.testing.assert_allclose(1.5 * product, nearest, atol=1e-5)
        np.testing.assert_allclose(a.T @ a * 1.5, np.diag(s[:2]), atol=1e-5)
        adapter.lora_b.kernel.assign(adapter.lora_b.kernel * 2)
        change = array(adapter.kernel_change()).reshape(8, -1)
        np.testing.assert_allclose(change, nearest, atol=1e-5)


def test_a_rank_beyond_the_kernel_can_still_learn():
    model = transformer()
    ft.add_adapters(model, ft.LoRA(rank=9, initializer="pissa"), "mlp")
    _, adapter = adapters_by_name(model)["default"]["mlp"]
    a, b = array(adapter.lora_a.kernel), array(adapter.lora_b.kernel)
    assert not b[6:].any() and np.abs(a[:, 6:]).min(1).all()
    np.testing.assert_allclose(changes(model)["mlp"], 0, atol=1e-6)


@pytest.mark.backends
def test_vera_trains_two_vectors_between_factors_that_layers_share():
    model = transformer()
    ft.add_adapters(model, ft.VeRA(rank=3), ["mlp", ".*(query|value)"])
    fill(model)
    places = adapters_by_name(model)["default"]
    parts = {path: adapter for path, (_, adapter) in places.items()}
    one, other = parts["attention/query"], parts["attention/value"]
    sizes = [v.shape for v in one.trainable_variables]
    assert [tuple(size) for size in sizes] == [(3,), (1, 2, 4)]
    a, b = map(array, one.method.factors(one))
    shared = a / array(one.vera_d.kernel)
    for adapter in (other, parts["mlp"]):
        again = array(adapter.method.factors(adapter)[0])
        np.testing.assert_allclose(
            again / array(adapter.vera_d.kernel), shared, rtol=1e-5
        )
    assert np.abs(shared).max() <= np.sqrt(6 / 8)
    # Two layers of one size share the tensor itself.
    assert len(one.method._drawn) == 3
    product = a @ b.reshape(3, -1)
    np.testing.assert_allclose(
        changes(model)["attention/query"].reshape(8, -1), product, atol=1e-6
    )


# The three things that files must bring back, in one model.
FILE = """
import sys, keras, numpy as np
import finetune_keras
model = keras.models.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(x, verbose=0))
"""


@pytest.mark.usefixtures("op_by_op")
def test_files_bring_them_back_in_a_fresh_process(tmp_path):
    model = transformer()
    ranks = {"query": 1, "attention/(key|value)": 3}
    methods = {
        "by_layer": ft.LoRA(rank=ranks, initializer="pissa"),
        "vera": ft.VeRA(rank=4, seed=7),
    }
    for name, method in methods.items():
        ft.add_adapters(model, method, name=name)
        fill(model, name)
        ft.save_adapters(model, tmp_path / name, name)
    ft.set_adapter(model, {"by_layer": 1.0, "vera": 1.0})
    assert len(adapters_by_name(model)["by_layer"]) == 3
    expected = predict(model)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    files = [tmp_path / x for x in ("model.keras", "x.npy", "y.npy")]
    process = FreshProcess("-c", FILE, *files)
    assert process.wait() == 0, process.stderr
    np.testing.assert_allclose(np.load(files[2]), expected, atol=1e-5)
    other = transformer()
    for name in methods:
        ft.load_adapters(other, tmp_path / name)
        (_, adapter), *_ = adapters_by_name(other)[name].values()
        assert adapter.method == methods[name]
    ft.set_adapter(other, {"by_layer": 1.0, "vera": 1.0})
    np.testing.assert_allclose(predict(other), expected, atol=1e-5)


def test_ranks_by_layer_have_scales_of_their_own_and_new_names():
    ranks = {"mlp": 4, r"attention/.*": 2}
    model = transformer()
    method = ft.LoRA(rank=ranks, alpha=8)
    ft.add_adapters(model, method, ["mlp", ".*query"])
    places = adapters_by_name(model)["default"]
    found = {path: (x.rank, x.scale) for path, (_, x) in places.items()}
    assert found == {"attention/query": (2, 4.0), "mlp": (4, 2.0)}
    moved = method.renamed({"mlp": "mlp_1", "attention/query": "a/query"})
    assert moved.rank == {"mlp_1": 4, "a/query": 2}
    assert hash(moved) != hash(method)
    with pytest.raises(ValueError, match="no rank of the layer 'mlp'"):
        ft.add_adapters(model, ft.LoRA({"query": 2}), "mlp", name="other")
    assert list(adapters_by_name(model)) == ["default"]


@pytest.mark.parametrize("rank", [{}, {"a": 0}, {"(": 2}, {3: 2}, "a", True])
def test_wrong_ranks_are_named(rank):
    with pytest.raises(ValueError, match="`rank` must be an integer of at"):
        ft.LoRA(rank=rank)


# === Joined ===


def two_adapters():
    model = transformer()
    methods = {"one": ft.LoRA(rank=2, variant="rslora"), "two": ft.VeRA(rank=3)}
    layers = {"one": ["mlp", ".*query"], "two": ["mlp", ".*key"]}
    for seed, (name, method) in enumerate(methods.items()):
        ft.add_adapters(model, method, layers[name], name=name)
        fill(model, name, seed)
        model.get_layer("head").bias.assign([seed, 1.0])
    return model


@pytest.mark.backends
def test_a_linear_join_is_the_weighted_sum_with_the_head_of_the_first():
    model = two_adapters()
    weights = {"one": 0.7, "two": -1.5}
    ft.set_adapter(model, weights)
    expected = predict(model)
    assert ft.join_adapters(model, weights) is model
    np.testing.assert_allclose(predict(model), expected, atol=2e-5)
    places = adapters_by_name(model)["joined"]
    ranks = {path: adapter.rank for path, (_, adapter) in places.items()}
    assert ranks == {"attention/query": 2, "attention/key": 3, "mlp": 5}
    assert array(model.get_layer("head").bias)[0] == 0
    trained = {v.path.split("/adapter_")[-1] for v in model.trainable_variables}
    assert all(x.startswith(("joined", "head")) for x in trained)


def test_ties_keeps_the_largest_and_averages_those_of_the_elected_sign():
    model = two_adapters()
    one, two = (changes(model, name)["mlp"] for name in ("one", "two"))
    ft.join_adapters(
        model, {"one": 1.0, "two": 2.0}, "ties", "joined", density=0.25, rank=6
    )
    kept = []
    for weight, change in ((1.0, one), (2.0, two)):
        least = np.sort(np.abs(change).ravel())[-12]
        kept.append(weight * np.where(np.abs(change) >= least, change, 0))
    expected = np.zeros_like(one)
    for place in np.ndindex(*one.shape):
        values = [change[place] for change in kept]
        sign = np.sign(sum(values))
        agreed = [v for v in values if v and np.sign(v) == sign]
        expected[place] = np.mean(agreed) if agreed else 0
    assert 0 < np.count_nonzero(expected) < 24
    np.testing.assert_allclose(
        changes(model, "joined")["mlp"], expected, atol=1e-5
    )


def test_dare_drops_at_random_and_scales_up():
    model = two_adapters()
    one = changes(model, "one")["mlp"]
    for name in ("a", "b"):
        ft.join_adapters(
            model, {"one": 2.0}, "dare", name, density=0.5, rank=6, seed=3
        )
    found = changes(model, "a")["mlp"]
    np.testing.assert_array_equal(found, changes(model, "b")["mlp"])
    kept = np.abs(found) > 1e-4
    assert 12 < kept.sum() < 36
    np.testing.assert_allclose(found[kept], 4 * one[kept], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def with_dora():
    dora = ft.LoRA(rank=1, variant="dora")
    return ft.add_adapters(two_adapters(), dora, "mlp", name="dora")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weights": {"nine": 1.0}}, "no adapter 'nine'"),
        ({"weights": ["one"]}, "must be a dict"),
        ({"weights": {"one": float("nan")}}, "finite numbers"),
        ({"weights": {"dora": 1.0}}, "no low rank.*'dora'"),
        ({"weights": {"one": 1.0}, "name": "two"}, "'two' already"),
        ({"weights": {"one": 1.0}, "method": "tie"}, "mean 'ties'"),
        ({"weights": {"one": 1.0}, "density": 0}, "density=0"),
    ],
)
def test_what_cannot_be_joined_is_told(arguments, message, with_dora):
    model = with_dora
    before = testing.weights_snapshot(model)
    with pytest.raises(ValueError, match=message):
        ft.join_adapters(model, **arguments)
    after = testing.weights_snapshot(model)
    assert all(np.array_equal(before[k], after[k]) for k in before)
