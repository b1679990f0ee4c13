import concurrent.futures
import warnings

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.adapters.adapter import (
    add_adapters,
    disable_adapters,
    remove_adapters,
    set_adapter,
)
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.merge import merge_adapters
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.models.model import FineTuneModel, FineTuneSequential
from finetune_keras.testing.processes import FreshProcess

rng = np.random.default_rng(3)


def cnn():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.Conv2D(6, 1, activation="relu", name="pointwise")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs, name="cnn"))


def sequential():
    return testing.randomize(
        keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(6, activation="tanh", name="body"),
                keras.layers.Dense(2, name="head"),
            ]
        )
    )


@keras.saving.register_keras_serializable(package="adapter_test")
class Block(keras.layers.Layer):
    """A user's own block, whose parts have the names that Keras gives."""

    def build(self, input_shape):
        self.attention = keras.layers.MultiHeadAttention(2, 4)
        self.one = keras.layers.Dense(8, activation="relu")
        self.two = keras.layers.Dense(8)
        self.attention.build(input_shape, input_shape)
        self.one.build(input_shape)
        self.two.build(input_shape)

    def call(self, x):
        return self.two(self.one(self.attention(x, x)))


def transformer():
    inputs = keras.Input((5, 8))
    x = Block(name="block_a")(inputs)
    x = Block(name="block_b")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return testing.randomize(
        keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    )


def mobilenet():
    base = ft.backbone(
        "MobileNet", weights=None, alpha=0.25, input_shape=(32, 32, 3)
    )
    return testing.randomize(ft.replace_head(base, 2))


def bert():
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    backbone = hub.models.BertBackbone(
        vocabulary_size=30,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    return testing.randomize(ft.replace_head(backbone, 2, pooling="token"))


def data_of(model, count=8):
    if len(model.inputs) > 1:
        ids = rng.integers(1, 30, (count, 8))
        mask = np.ones_like(ids)
        mask[:, 6:] = 0
        x = {
            "token_ids": ids,
            "padding_mask": mask,
            "segment_ids": np.zeros_like(ids),
        }
        return x, np.arange(count) % 2
    shape = (count, *model.input_shape[1:])
    if len(shape) == 4:
        return rng.uniform(0, 255, shape), np.arange(count) % 2
    return rng.standard_normal(shape).astype("float32"), np.arange(count) % 2


def predict(model, x):
    return np.array(model.predict(x, verbose=0))


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def is_adapter(path):
    return "/adapter_" in path


MODELS = [
    mobilenet,
    cnn,
    sequential,
    bert,
    transformer,
]


@pytest.mark.backends("cnn", "bert")
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("make", [cnn, sequential, bert])
def test_a_whole_life_of_lora(make, tmp_path):
    model = make()
    x, y = data_of(model)
    names = [layer.name for layer in model.layers]
    weights = len(model.weights)
    start = predict(model, x)
    assert add_adapters(model, LoRA(rank=2)) is model
    np.testing.assert_allclose(predict(model, x), start, atol=1e-6)

    before = testing.weights_snapshot(model)
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, epochs=2, verbose=0)
    after = testing.weights_snapshot(model)
    for path, value in before.items():
        same = np.array_equal(value, after[path])
        trains = is_adapter(path) and not path.endswith("/switch")
        assert same != (trains or path.startswith("head")), path

    trained = predict(model, x)
    head = [w.copy() for w in model.layers[-1].get_weights()]
    with disable_adapters(model):
        off = predict(model, x)
    assert np.abs(off - trained).max() > 1e-4
    np.testing.assert_allclose(predict(model, x), trained, atol=1e-7)

    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        # Such as that the state of the optimizer does not fit.
        warnings.simplefilter("error")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, x), trained, atol=1e-5)
    for one, other in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(one), array(other))
    assert [tuple(v.shape) for v in loaded.trainable_variables] == [
        tuple(v.shape) for v in model.trainable_variables
    ]
    ahead = testing.weights_snapshot(loaded)
    loaded.fit(x, y, verbose=0)
    now = testing.weights_snapshot(loaded)
    for path, value in ahead.items():
        trains = is_adapter(path) and not path.endswith("/switch")
        moved = not np.array_equal(value, now[path])
        assert moved == (trains or path.startswith("head")), path

    merge_adapters(model)
    np.testing.assert_allclose(predict(model, x), trained, atol=1e-4)
    assert len(model.weights) == weights
    assert [layer.name for layer in model.layers] == names
    assert not adapters_by_name(model)
    for one, other in zip(head, model.layers[-1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    merged = tmp_path / "merged.keras"
    model.save(merged)
    np.testing.assert_allclose(
        predict(keras.models.load_model(merged), x), trained, atol=1e-4
    )


@pytest.mark.backends("cnn")
@pytest.mark.parametrize("make", [cnn, bert])
def test_off_is_the_base_under_compiled_predict_and_after_errors(make):
    model = make()
    x, _ = data_of(model)
    base = predict(model, x)
    add_adapters(model, LoRA(rank=2), "backbone")
    testing.randomize(model)
    set_adapter(model, "default")
    model.layers[-1].set_weights(make().layers[-1].get_weights())
    adapted = predict(model, x)
    function = model.predict_function
    with pytest.raises(KeyError), disable_adapters(model):
        off = predict(model, x)
        raise KeyError
    np.testing.assert_allclose(predict(model, x), adapted, atol=1e-7)
    assert model.predict_function is function
    remove_adapters(model)
    np.testing.assert_allclose(predict(model, x), off, atol=1e-6)
    assert np.abs(off - adapted).max() > 1e-3
    assert base.shape == off.shape


def test_a_diverged_adapter_is_off_all_the_same():
    model = sequential()
    x, _ = data_of(model)
    base = predict(model, x)
    add_adapters(model, LoRA(rank=2), "body")
    adapter = model.get_layer("body").adapter_default
    adapter.lora_b.kernel.assign(np.full((2, 6), np.nan))
    assert np.isnan(predict(model, x)).all()
    with disable_adapters(model):
        np.testing.assert_allclose(predict(model, x), base, atol=1e-6)


@pytest.mark.usefixtures("op_by_op")
def test_a_fresh_process_loads_lora_and_goes_on_learning(tmp_path):
    model = cnn()
    x, y = data_of(model)
    add_adapters(model, LoRA(rank=2, alpha=3, variant="rslora"))
    x, y = x / 255, np.eye(2)[y]
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    code = (
        "import keras, numpy as np, finetune_keras, sys\n"
        "import finetune_keras.adapters.lora\n"
        "data = np.load(sys.argv[1] + '/data.npz')\n"
        "model = keras.models.load_model(sys.argv[1] + '/model.keras')\n"
        "before = model.predict(data['x'], verbose=0)\n"
        "model.fit(data['x'], data['y'], epochs=2, verbose=0, shuffle=False)\n"
        "method = model.get_layer('pointwise').adapter_default.method\n"
        "assert (method.rank, method.alpha, method.variant) "
        "== (2, 3, 'rslora')\n"
        "np.savez(sys.argv[1] + '/out.npz', before=before, "
        "after=model.predict(data['x'], verbose=0))\n"
    )
    process = FreshProcess("-c", code, tmp_path)
    assert process.wait() == 0, process.stderr
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(out["before"], predict(model, x), atol=1e-6)
    model.fit(x, y, epochs=2, verbose=0, shuffle=False)
    after = predict(model, x)
    np.testing.assert_allclose(out["after"], after, rtol=1e-4, atol=1e-5)
    assert np.abs(after - out["before"]).max() > 1e-2


@pytest.mark.usefixtures("op_by_op")
def test_a_new_head_hands_the_adapters_on(tmp_path):
    model = cnn()
    x, _ = data_of(model)
    add_adapters(model, LoRA(rank=2), "pointwise")
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    other = ft.replace_head(model, 3)
    assert isinstance(other, FineTuneModel)
    y = predict(other, x / 255)
    with disable_adapters(other):
        assert np.abs(predict(other, x / 255) - y).max() > 1e-4
    other.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, x / 255), y, atol=1e-5)
    assert list(adapters_by_name(loaded)) == ["default"]
    remove_adapters(model)
    assert type(ft.replace_head(model, 3)) is not FineTuneModel


@pytest.mark.usefixtures("op_by_op")
def test_blocks_without_names_are_found_again(tmp_path):
    transformer()
    model = transformer()
    x, _ = data_of(model)
    add_adapters(model, LoRA(rank=2), [r"block_a/.*", "block_b"])
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    ft.freeze(model, "block_a")
    ft.unfreeze(model, r"block_a/dense_\d+/adapter_default/lora_a")
    model.save(tmp_path / "model.keras")
    keras.backend.clear_session(free_memory=False)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, x), predict(model, x), atol=1e-5)
    flags = [
        [v.trainable for v in one.weights if "seed" not in v.path]
        for one in (model, loaded)
    ]
    assert flags[0] == flags[1]
    assert 0 < sum(flags[0]) < len(flags[0])


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("cache", ["off", "memory"])
@pytest.mark.parametrize(
    "make", [pytest.param(cnn, marks=pytest.mark.traced), bert]
)
def test_plans_train_adapters_with_and_without_the_cache(make, cache):
    model = make()
    x, y = data_of(model, 16)
    selection = "pointwise" if make is cnn else r".*layer_1/.*(query|value)"
    add_adapters(model, LoRA(rank=2), selection)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    plan = ft.Plan(
        [
            ft.Phase("head", epochs=1, learning_rate=1e-2),
            ft.Phase(["adapter_default", "head"], epochs=2, learning_rate=1e-2),
        ]
    )
    before = testing.weights_snapshot(model)
    history = ft.fine_tune(
        model, plan, (x, y), batch_size=8, cache=cache, verbose=0
    )
    after = testing.weights_snapshot(model)
    for path, value in before.items():
        trains = is_adapter(path) and not path.endswith("/switch")
        moved = not np.array_equal(value, after[path])
        assert moved == (trains or path.startswith("head")), path
    assert len(history.ledger) == 2
    report = history.phases[-1]["cache"]
    if cache == "memory":
        # The dropout of BERT's frozen blocks is new in each epoch.
        random = "off: random layers below"
        assert (random if make is bert else "after 'depthwise'") in report


@pytest.mark.usefixtures("op_by_op")
def test_the_cache_changes_nothing():
    losses = []
    for cache in ("memory", "off"):
        keras.utils.set_random_seed(0)
        model = cnn()
        x, y = np.linspace(0, 1, 16 * 192).reshape(16, 8, 8, 3), np.eye(16, 2)
        add_adapters(model, LoRA(rank=2), "pointwise")
        plan = ft.Plan(
            [ft.Phase(["adapter_default", "head"], 3, learning_rate=1e-2)]
        )
        model.compile("adam", "mse")
        keras.utils.set_random_seed(0)
        history = ft.fine_tune(model, plan, (x, y), cache=cache, verbose=0)
        losses.append([row["loss"] for row in history.epochs])
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.backends
def test_adapters_are_switched_and_added_up_by_weight():
    model = sequential()
    x, _ = data_of(model)
    outputs = {"": predict(model, x)}
    for seed, name in enumerate(["one", "two"]):
        add_adapters(model, LoRA(rank=2), "body", name=name)
        adapter = getattr(model.get_layer("body"), f"adapter_{name}")
        testing.randomize(adapter.lora_b, seed)
        outputs[name] = predict(model, x)
    for name in ("one", "two", "one"):
        set_adapter(model, name)
        np.testing.assert_allclose(predict(model, x), outputs[name], atol=1e-6)
    body, head = model.layers
    changes = [
        keras.ops.convert_to_numpy(adapter.kernel_change())
        for adapter in (body.adapter_one, body.adapter_two)
    ]
    kernel, bias = (np.array(w) for w in body.get_weights()[:2])
    kernel = kernel + 0.25 * changes[0] + 0.75 * changes[1]
    expected = np.tanh(x @ kernel + bias) @ np.array(head.kernel) + head.bias
    set_adapter(model, {"one": 0.25, "two": 0.75})
    np.testing.assert_allclose(predict(model, x), expected, rtol=1e-4)
    remove_adapters(model, "one")
    set_adapter(model, "two")
    np.testing.assert_allclose(predict(model, x), outputs["two"], atol=1e-6)
    assert isinstance(model, FineTuneSequential)
    remove_adapters(model)
    np.testing.assert_allclose(predict(model, x), outputs[""], atol=1e-6)


@pytest.mark.backends
def test_traces_of_before_are_not_used_again():
    model = sequential()
    x, _ = data_of(model)
    changes = []
    for alpha in (2, 4):
        base = keras.ops.convert_to_numpy(model.layers[0](x))
        add_adapters(model, LoRA(rank=2, alpha=alpha), "body")
        adapter = model.get_layer("body").adapter_default
        adapter.lora_a.kernel.assign(np.ones((4, 2)))
        adapter.lora_b.kernel.assign(np.ones((2, 6)) / 9)
        predict(model, x)
        eager = keras.ops.convert_to_numpy(model(x, training=False))
        np.testing.assert_allclose(predict(model, x), eager, atol=1e-5)
        changes.append(eager)
        remove_adapters(model)
        after = keras.ops.convert_to_numpy(model.layers[0](x))
        np.testing.assert_allclose(base, after, atol=1e-6)
    assert np.abs(changes[0] - changes[1]).max() > 1e-3


def test_a_second_adapter_freezes_and_switches_off_the_first():
    model = sequential()
    add_adapters(model, LoRA(rank=2), "body", name="one")
    add_adapters(model, LoRA(rank=3), "body", name="two")
    head = model.get_layer("head")
    assert [v.path for v in model.trainable_variables] == [
        "body/adapter_two/lora_a/kernel",
        "body/adapter_two/lora_b/kernel",
        *[v.path for v in head.weights],
    ]
    switches = {
        name: float(keras.ops.convert_to_numpy(places["body"][1].switch))
        for name, places in adapters_by_name(model).items()
    }
    assert switches == {"one": 0.0, "two": 1.0}


@pytest.mark.usefixtures("op_by_op")
def test_a_subclassed_model_gets_adapters_and_a_warning():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = keras.layers.Dense(4, name="body")
            self.top = keras.layers.Dense(2, name="top")

        def call(self, x):
            return self.top(self.body(x))

    model = Own()
    x = rng.standard_normal((3, 4)).astype("float32")
    before = predict(model, x)
    with pytest.warns(UserWarning, match="Own does not write adapters"):
        add_adapters(model, LoRA(rank=2), "body")
    np.testing.assert_allclose(predict(model, x), before, atol=1e-6)
    trained = [v.path for v in model.trainable_variables]
    assert len(trained) == 4
    model.compile("adam", "mse")
    model.fit(x, x[:, :2], verbose=0)
    after = predict(model, x)
    merge_adapters(model)
    np.testing.assert_allclose(predict(model, x), after, atol=1e-5)


def test_functional_models_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = add_adapters(cnn(), LoRA(rank=2))
        add_adapters(sequential(), LoRA(rank=2))
        merge_adapters(model)


def test_errors_tell_what_to_do():
    model = sequential()
    for verb in (merge_adapters, remove_adapters):
        with pytest.raises(ValueError, match="has no adapters. Add some"):
            verb(model)
    with pytest.raises(ValueError, match="name='a/b'"):
        add_adapters(model, LoRA(), name="a/b")
    add_adapters(model, LoRA(rank=2))
    with pytest.raises(ValueError, match="has an adapter 'default' already"):
        add_adapters(model, LoRA(rank=2))
    with pytest.raises(ValueError, match="no adapter 'law', but .'default'"):
        set_adapter(model, "law")
    with pytest.raises(ValueError, match="no adapter 'law'"):
        remove_adapters(model, "law")


def test_the_head_trains_in_full_whatever_the_pattern():
    model = sequential()
    head = [v.path for v in model.get_layer("head").weights]
    add_adapters(model, LoRA(rank=2), ".*", name="one")
    add_adapters(model, LoRA(rank=2), "body", name="two")
    trained = [v.path for v in model.trainable_variables]
    assert [path for path in trained if "adapter_" not in path] == head
    assert all("adapter_two" in p for p in trained if p not in head)
    # Alone, the head gets one all the same.
    other = add_adapters(sequential(), LoRA(rank=2), "head")
    assert list(adapters_by_name(other)["default"]) == ["head"]
    add_adapters(other, LoRA(rank=2), "body", name="two")
    assert not [v for v in other.trainable_variables if "default" in v.path]


def test_merging_leaves_out_what_is_off_and_broken():
    model = sequential()
    x = data_of(model)[0]
    add_adapters(model, LoRA(rank=2), "body", name="bad")
    for variable in adapters_by_name(model)["bad"]["body"][1].weights[:2]:
        variable.assign(variable * np.nan)
    add_adapters(model, LoRA(rank=2), "body", name="good")
    expected = predict(model, x)
    merge_adapters(model)
    np.testing.assert_allclose(predict(model, x), expected, atol=1e-6)
    assert np.isfinite(expected).all()


def test_threads_do_not_take_each_others_activation():
    inputs = keras.Input((16,))
    x = keras.layers.Dense(16, activation="relu", name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    testing.randomize(model)
    add_adapters(model, LoRA(rank=2), "body")
    body = model.get_layer("body")
    x = np.random.default_rng(0).normal(size=(8, 16)).astype("float32")

    def least(_):
        return [array(body(x)).min() for _ in range(40)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = np.concatenate(list(pool.map(least, range(4))))
    assert (found >= 0).all()


def test_wrong_arguments_are_met_at_the_door():
    model = sequential()
    for method in (LoRA, "lora"):
        with pytest.raises(TypeError, match="an object such as"):
            add_adapters(model, method)
    add_adapters(model, LoRA(rank=2), "body", name="a")
    add_adapters(model, LoRA(rank=2), "body", name="b")
    wrong = ({"a": 0.5, "b": "x"}, {"a": np.nan}, {}, {1: 0.5})
    for weights in wrong:
        with pytest.raises(ValueError, match="Received: name="):
            set_adapter(model, weights)
    with pytest.raises(ValueError, match="no adapter"):
        set_adapter(model, ["a", "b"])
    places = adapters_by_name(model)
    switches = [array(places[n]["body"][1].switch) for n in ("a", "b")]
    assert switches == [0.0, 1.0]
