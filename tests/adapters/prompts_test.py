import keras
import numpy as np
import pytest
from keras import ops

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.adapters.adapter import (
    add_adapters,
    disable_adapters,
    remove_adapters,
    set_adapter,
)
from finetune_keras.adapters.files import load_adapters, save_adapters
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.merge import merge_adapters
from finetune_keras.adapters.prefix import PrefixTuning
from finetune_keras.adapters.prompts import PromptTuning, PTuning
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.testing.processes import FreshProcess

METHODS = [PrefixTuning(3), PromptTuning(3), PTuning(3, encoder_units=4)]
rng = np.random.default_rng(3)


def block(x, mask, name):
    y = keras.layers.MultiHeadAttention(2, 4, name=f"{name}_attention")(
        x, x, attention_mask=mask
    )
    x = keras.layers.LayerNormalization(name=f"{name}_norm")(x + y)
    y = keras.layers.Dense(12, activation="relu", name=f"{name}_in")(x)
    return x + keras.layers.Dense(8, name=f"{name}_out")(y)


def own(length=None):
    ids = keras.Input((length,), dtype="int32", name="token_ids")
    padding = keras.Input((length,), dtype="int32", name="padding_mask")
    mask = keras.layers.Reshape((1, -1), name="row")(padding)
    x = keras.layers.Embedding(30, 8, name="embedding")(ids)
    x = block(block(x, mask, "one"), mask, "two")
    x = keras.layers.LayerNormalization(name="norm")(x)
    outputs = keras.layers.Dense(2, name="head")(x[:, 0])
    inputs = {"token_ids": ids, "padding_mask": padding}
    return testing.randomize(keras.Model(inputs, outputs))


def hub_backbone(name):
    models = pytest.importorskip(
        "keras_hub", reason="needs finetune_keras[text]"
    ).models
    return getattr(models, f"{name}Backbone")(
        vocabulary_size=30,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
        max_sequence_length=8,
    )


def hub(name):
    pooling = "token" if name == "Bert" else "avg"
    model = ft.replace_head(hub_backbone(name), 2, pooling=pooling)
    return testing.randomize(model)


def bert():
    return hub("Bert")


def data_of(model, length=8, real=6):
    ids = rng.integers(1, 30, (8, length))
    mask = np.ones_like(ids)
    mask[:, real:] = 0
    x = {"token_ids": ids, "padding_mask": mask}
    if len(model.inputs) > 2:
        x["segment_ids"] = np.zeros_like(ids)
    return x, np.eye(8, 2)


def predict(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def compiled(model, x):
    return np.array(model.predict(x, verbose=0))


def fill(model, scale=0.5):
    values = np.random.default_rng(5)
    for places in adapters_by_name(model).values():
        for _, adapter in places.values():
            for variable in adapter.trainable_variables:
                noise = scale * values.standard_normal(variable.shape)
                variable.assign(variable + noise.astype("float32"))
    return model


def is_adapter(path):
    return "/adapter_" in path


# Attention of KerasHub is Keras's own, in layers of its own.
PAIRS = [
    *((own, x) for x in METHODS),
    *((bert, x) for x in METHODS[:2]),
]


@pytest.mark.backends("own-method1")
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("make, method", PAIRS)
def test_every_method_keeps_the_promises(make, method, tmp_path):
    model = make()
    x, y = data_of(model)
    base = predict(model, x)
    assert add_adapters(model, method) is model
    assert np.abs(compiled(model, x) - base).max() > 1e-5
    with disable_adapters(model):
        # Rounding differs from processor to processor.
        off = compiled(model, x)
        np.testing.assert_allclose(off, base, rtol=1e-6, atol=1e-6)

    before = testing.weights_snapshot(model)
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=False)
    model.fit(x, y, epochs=2, verbose=0)
    after = testing.weights_snapshot(model)
    for path, value in before.items():
        trains = is_adapter(path) and not path.endswith("/switch")
        moved = not np.array_equal(value, after[path])
        assert moved == (trains or path.startswith("head")), path

    adapted = predict(fill(model), x)
    head = model.layers[-1].get_weights()
    file = tmp_path / "model.keras"
    model.save(file)
    loaded = keras.models.load_model(file)
    np.testing.assert_allclose(predict(loaded, x), adapted, atol=1e-5)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    ahead = testing.weights_snapshot(loaded)
    loaded.fit(x, y, verbose=0)
    now = testing.weights_snapshot(loaded)
    for path, value in ahead.items():
        trains = is_adapter(path) and not path.endswith("/switch")
        moved = not np.array_equal(value, now[path])
        assert moved == (trains or path.startswith("head")), path

    pytest.importorskip("safetensors")
    save_adapters(model, tmp_path / "adapter")
    other = load_adapters(make(), tmp_path / "adapter")
    np.testing.assert_allclose(predict(other, x), adapted, atol=1e-5)
    with pytest.raises(ValueError, match="is no change of weights"):
        merge_adapters(model)
    plain = make()
    plain.layers[-1].set_weights(head)
    remove_adapters(model)
    assert len(model.weights) == len(plain.weights)
    np.testing.assert_array_equal(predict(model, x), predict(plain, x))


@pytest.mark.backends("own-method1")
@pytest.mark.parametrize("make, method", PAIRS[-4:])
def test_padding_changes_nothing(make, method):
    model = fill(add_adapters(make(), method))
    x, _ = data_of(model)
    short = {name: value[:, :6] for name, value in x.items()}
    changed = {**x, "token_ids": x["token_ids"].copy()}
    changed["token_ids"][:, 6:] = 1
    expected = predict(model, short)
    np.testing.assert_allclose(predict(model, x), expected, atol=1e-5)
    np.testing.assert_allclose(predict(model, changed), expected, atol=1e-5)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize(
    "name, method",
    [("Roberta", PromptTuning(3)), ("DistilBert", PrefixTuning(3))],
)
def test_other_hub_backbones(name, method):
    model = hub(name)
    x, y = data_of(model)
    base = predict(model, x)
    fill(add_adapters(model, method))
    assert np.abs(predict(model, x) - base).max() > 1e-3
    with disable_adapters(model):
        np.testing.assert_allclose(predict(model, x), base, atol=1e-6)
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x, y, verbose=0)


def attention_by_hand(layer, x, prefix=None, mask=None):
    parts = {
        name: np.einsum("btd,dnh->btnh", x, np.array(dense.kernel))
        + np.array(dense.bias)
        for name, dense in (
            ("query", layer.query_dense),
            ("key", layer.key_dense),
            ("value", layer.value_dense),
        )
    }
    if prefix is not None:
        for name, vectors in zip(("key", "value"), prefix, strict=True):
            vectors = np.repeat(np.array(vectors)[None], len(x), 0)
            parts[name] = np.concatenate([vectors, parts[name]], 1)
    scores = np.einsum("btnh,bsnh->bnts", parts["query"], parts["key"])
    scores = scores / np.sqrt(layer.key_dim)
    if mask is not None:
        free = scores.shape[-1] - mask.shape[-1]
        mask = np.pad(mask, ((0, 0), (free, 0)), constant_values=1)
        scores = np.where(mask[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    seen = np.einsum("bnts,bsnh->btnh", weights, parts["value"])
    kernel, bias = layer.output_dense.get_weights()
    return np.einsum("btnh,nhd->btd", seen, np.array(kernel)) + np.array(bias)


@pytest.mark.backends
def test_a_prefix_is_the_formula():
    inputs = keras.Input((5, 8))
    mask = keras.Input((1, 5), dtype="bool")
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    outputs = attention(inputs, inputs, attention_mask=mask)
    model = testing.randomize(keras.Model([inputs, mask], outputs))
    x = rng.standard_normal((3, 5, 8)).astype("float32")
    seen = np.arange(5) < np.array([[3], [5], [1]])
    add_adapters(model, PrefixTuning(3), "attention")
    adapter = fill(model).get_layer("attention").adapter_default
    prefix = [
        ops.convert_to_numpy(part.kernel)
        for part in (adapter.prefix_key, adapter.prefix_value)
    ]
    data = [x, seen[:, None]]
    whole = attention_by_hand(attention, x, prefix, seen)
    base = attention_by_hand(attention, x, None, seen)
    np.testing.assert_allclose(predict(model, data), whole, atol=1e-5)
    set_adapter(model, {"default": 0.25})
    np.testing.assert_allclose(
        predict(model, data), base + 0.25 * (whole - base), atol=1e-5
    )


@pytest.mark.backends
def test_a_prompt_stands_in_front_of_the_tokens():
    model = own()
    x, _ = data_of(model)
    tail = keras.Input((None, 8)), keras.Input((1, None), dtype="int32")
    first, last = model.get_layer("embedding"), model.get_layer("norm")
    prompt = rng.standard_normal((3, 8)).astype("float32")
    embedded = ops.convert_to_numpy(first(x["token_ids"]))
    longer = np.concatenate([np.repeat(prompt[None], 8, 0), embedded], 1)
    mask = np.pad(x["padding_mask"], ((0, 0), (3, 0)), constant_values=1)

    y = tail[0]
    for name in ("one", "two"):
        parts = [model.get_layer(f"{name}_{x}") for x in ("norm", "in", "out")]
        seen = model.get_layer(f"{name}_attention")(
            y, y, attention_mask=tail[1]
        )
        y = parts[0](y + seen)
        y = y + parts[2](parts[1](y))
    y = last(y)
    by_hand = keras.Model(tail, model.get_layer("head")(y[:, 3]))
    expected = predict(by_hand, [longer, mask[:, None]])

    add_adapters(model, PromptTuning(3))
    first.adapter_default.prompt.kernel.assign(prompt)
    np.testing.assert_allclose(predict(model, x), expected, atol=1e-5)


@pytest.mark.backends("PrefixTuning")
@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_several_are_switched_and_none_shows_when_off(method):
    model = own()
    x, _ = data_of(model)
    outputs = {"base": compiled(model, x)}
    other = type(method)(length=2)
    for name, one in (("one", method), ("two", other)):
        add_adapters(model, one, name=name)
        for _, adapter in adapters_by_name(model)[name].values():
            for variable in adapter.trainable_variables:
                noise = rng.standard_normal(variable.shape)
                variable.assign(noise.astype("float32"))
        outputs[name] = compiled(model, x)
    function = model.predict_function
    spread = np.abs(outputs["one"] - outputs["two"]).max()
    assert spread > 1e-2
    for name in ("one", "two", "one"):
        set_adapter(model, name)
        np.testing.assert_allclose(compiled(model, x), outputs[name], atol=1e-5)
    set_adapter(model, {"one": 1.0, "two": 1.0})
    both = compiled(model, x)
    assert model.predict_function is function
    assert min(np.abs(both - y).max() for y in outputs.values()) > 1e-3
    for _, adapter in adapters_by_name(model)["two"].values():
        for variable in adapter.trainable_variables:
            variable.assign(variable * np.nan)
    with disable_adapters(model):
        np.testing.assert_allclose(
            # As far as float32 of one batch in two graphs.
            compiled(model, x), outputs["base"], atol=3e-6
        )
    remove_adapters(model, "two")
    np.testing.assert_allclose(predict(model, x), outputs["one"], atol=1e-5)


def test_a_prefix_that_is_off_is_gone_to_the_bit():
    model = own()
    x, _ = data_of(model)
    base = model.predict(x, verbose=0)
    fill(add_adapters(model, PrefixTuning(4)))
    with disable_adapters(model):
        np.testing.assert_array_equal(model.predict(x, verbose=0), base)


# The fresh process traces its steps, as a user's does.
@pytest.mark.usefixtures("op_by_op")
def test_a_fresh_process_goes_on_learning(tmp_path):
    model = own()
    x, y = data_of(model)
    for name, method in zip("abc", METHODS, strict=True):
        add_adapters(model, method, name=name)
    fill(model)
    set_adapter(model, dict.fromkeys("abc", 1.0))
    ft.unfreeze(model, r".*/adapter_[abc]/.*")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", y=y, **x)
    code = (
        "import keras, numpy as np, finetune_keras, sys\n"
        "import finetune_keras.adapters.prompts\n"
        "data = dict(np.load(sys.argv[1] + '/data.npz'))\n"
        "y = data.pop('y')\n"
        "model = keras.models.load_model(sys.argv[1] + '/model.keras')\n"
        "before = model.predict(data, verbose=0)\n"
        "model.fit(data, y, epochs=2, verbose=0, shuffle=False)\n"
        "np.savez(sys.argv[1] + '/out.npz', before=before, "
        "after=model.predict(data, verbose=0))\n"
    )
    process = FreshProcess("-c", code, tmp_path)
    assert process.wait() == 0, process.stderr
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(out["before"], predict(model, x), atol=1e-5)
    model.fit(x, y, epochs=2, verbose=0, shuffle=False)
    after = predict(model, x)
    np.testing.assert_allclose(out["after"], after, rtol=1e-4, atol=1e-5)
    assert np.abs(after - out["before"]).max() > 1e-3


def masked():
    """A model whose mask goes with the tensors."""
    ids = keras.Input((8,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(30, 8, mask_zero=True, name="embedding")(ids)
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = keras.layers.Add(name="sum")([x, y])
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return testing.randomize(
        keras.Model(ids, keras.layers.Dense(2, name="head")(x))
    )


@pytest.mark.backends("PrefixTuning")
@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_masks_that_go_with_the_tensors(method):
    model = masked()
    ids = rng.integers(1, 30, (4, 8))
    ids[:, 5:] = 0
    base = predict(model, ids)
    fill(add_adapters(model, method))
    adapted = predict(model, ids)
    assert np.abs(adapted - base).max() > 1e-3
    with disable_adapters(model):
        np.testing.assert_allclose(predict(model, ids), base, atol=1e-6)
    table = model.get_layer("embedding").embeddings
    values = np.array(ops.convert_to_numpy(table))
    values[0] = 9.0
    table.assign(values)
    np.testing.assert_allclose(predict(model, ids), adapted, atol=1e-5)


@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_no_token_sees_a_later_one(method):
    inputs = keras.Input((6, 8))
    x = keras.layers.Dense(8, name="embedding")(inputs)
    for i in range(2):
        y = keras.layers.MultiHeadAttention(2, 4, name=f"attention_{i}")(
            x, x, use_causal_mask=True
        )
        x = keras.layers.LayerNormalization(name=f"norm_{i}")(x + y)
    model = testing.randomize(keras.Model(inputs, x))
    x = rng.standard_normal((3, 6, 8)).astype("float32")
    base = predict(model, x)
    fill(add_adapters(model, method))
    one = predict(model, x)
    x[:, 4:] += 1
    two = predict(model, x)
    np.testing.assert_allclose(one[:, :4], two[:, :4], atol=1e-6)
    assert np.abs(one[:, :4] - base[:, :4]).max() > 1e-2


def test_a_prefix_in_a_decoder_of_keras_hub():
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    inputs = keras.Input((6, 8))
    mask = keras.Input((6,), dtype="int32")
    x = hub.layers.TransformerDecoder(12, 2, name="block")(
        inputs, decoder_padding_mask=mask
    )
    model = testing.randomize(keras.Model([inputs, mask], x))
    x = rng.standard_normal((3, 6, 8)).astype("float32")
    seen = np.repeat(np.arange(6)[None] < 5, 3, 0).astype("int32")
    base = predict(model, [x, seen])
    fill(add_adapters(model, PrefixTuning(3)))
    one = predict(model, [x, seen])
    assert np.abs(one - base).max() > 1e-3
    with disable_adapters(model):
        np.testing.assert_array_equal(predict(model, [x, seen]), base)
    x[:, 3:] += 1
    two = predict(model, [x, seen])
    np.testing.assert_allclose(one[:, :3], two[:, :3], atol=1e-6)


def test_backbones_inside_and_alone():
    pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    x, _ = data_of(bert())
    backbone = hub_backbone("Bert")
    inner = backbone(backbone.input)["pooled_output"]
    outputs = keras.layers.Dense(2, name="head")(inner)
    nested = testing.randomize(keras.Model(backbone.input, outputs))
    base = predict(nested, x)
    fill(add_adapters(nested, PromptTuning(3)))
    assert np.abs(predict(nested, x) - base).max() > 1e-3
    alone = backbone(x)
    assert tuple(alone["sequence_output"].shape) == (8, 8, 16)
    remove_adapters(nested)
    np.testing.assert_allclose(predict(nested, x), base, atol=1e-6)
    with pytest.warns(UserWarning, match="does not write adapters"):
        add_adapters(backbone, PromptTuning(3))


@keras.saving.register_keras_serializable(package="prompts_test")
class Block(keras.layers.Layer):
    """A user's own block, whose parts have the names that Keras gives."""

    def build(self, input_shape):
        self.attention = keras.layers.MultiHeadAttention(2, 4)
        self.norm = keras.layers.LayerNormalization()
        self.attention.build(input_shape, input_shape)
        self.norm.build(input_shape)

    def call(self, x):
        return self.norm(x + self.attention(x, x))


@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_blocks_without_names_are_found_again(method, tmp_path):
    def make():
        inputs = keras.Input((5, 8))
        x = keras.layers.Dropout(0.1, name="start")(inputs)
        x = Block(name="b")(Block(name="a")(x))
        x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
        outputs = keras.layers.Dense(2, name="head")(x)
        return testing.randomize(keras.Model(inputs, outputs))

    make()
    model = fill(add_adapters(make(), method))
    add_adapters(model, LoRA(rank=2), r".*query", name="lora")
    set_adapter(model, {"default": 1.0, "lora": 1.0})
    x = rng.standard_normal((4, 5, 8)).astype("float32")
    y = predict(model, x)
    model.save(tmp_path / "model.keras")
    keras.backend.clear_session(free_memory=False)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, x), y, atol=1e-5)


def test_prefixes_go_where_they_are_told():
    model = add_adapters(own(), PrefixTuning(2), "two_attention")
    assert list(adapters_by_name(model)["default"]) == ["two_attention"]
    with pytest.raises(ValueError, match="holds Dense.*'one_attention'"):
        add_adapters(model, PrefixTuning(2), "two_out", name="wrong")
    model = add_adapters(bert(), PrefixTuning(2), r".*layer_1/.*/query")
    assert list(adapters_by_name(model)["default"]) == [
        "transformer_layer_1/self_attention_layer"
    ]


def test_the_three_kinds_of_adapters_stack():
    model = bert()
    x, _ = data_of(model)
    base = predict(model, x)
    names = ["lora", "prefix", "prompt"]
    for name, method in zip(
        names, [LoRA(rank=2), PrefixTuning(2), PromptTuning(2)], strict=True
    ):
        add_adapters(model, method, name=name)
    fill(model)
    set_adapter(model, dict.fromkeys(names, 1.0))
    together = predict(model, x)
    for name in names:
        set_adapter(model, name)
        assert np.abs(predict(model, x) - together).max() > 1e-4
    with disable_adapters(model):
        np.testing.assert_allclose(predict(model, x), base, atol=1e-6)
    remove_adapters(model, "prompt")
    remove_adapters(model, "lora")
    assert len(model.trainable_variables) == 2


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("method", METHODS[::2], ids=repr)
def test_mixed_precision(method):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = add_adapters(own(), method)
    x, y = data_of(model)
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x, y, verbose=0)
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert np.isfinite(predict(model, x).astype("float32")).all()


def test_models_without_a_place_are_told_so():
    cnn = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="stem"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, name="head"),
        ]
    )
    with pytest.raises(ValueError, match="for transformers.*LoRA"):
        add_adapters(cnn, PromptTuning())
    with pytest.raises(ValueError, match="No layer that PrefixTuning"):
        add_adapters(cnn, PrefixTuning())
    inputs = keras.Input((5, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="a")(inputs, inputs)
    bare = keras.Model(inputs, keras.layers.LayerNormalization(name="n")(x))
    with pytest.raises(ValueError, match=r"needs a layer before(.|\n)*\['n'\]"):
        add_adapters(bare, PTuning())
    with pytest.raises(ValueError, match="leave `target_layers` out"):
        add_adapters(own(), PromptTuning(), target_layers="one_attention")

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="needs the graph"):
        add_adapters(Own(), PromptTuning())


@pytest.mark.parametrize(
    "make, wrong",
    [
        (PrefixTuning, {"length": 0}),
        (PromptTuning, {"length": 2.5}),
        (PTuning, {"length": True}),
        (PTuning, {"encoder_units": 0}),
    ],
)
def test_wrong_sizes_are_named(make, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        make(**wrong)
