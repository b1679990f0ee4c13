"""Heads that read features of several depths."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache.activation_store import cache_options
from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.cache.prefix_cache import PrefixCache
from finetune_keras.testing import randomize
from finetune_keras.testing.arrays import to_numpy
from finetune_keras.testing.processes import FreshProcess

layers = keras.layers


def residual():
    """Three residual blocks that the graph alone tells apart, and a stem."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    for name in ("a", "b", "c"):
        y = layers.Conv2D(4, 3, padding="same")(x)
        y = layers.BatchNormalization()(layers.ReLU()(y))
        y = layers.Conv2D(4, 3, padding="same")(y)
        x = layers.Add(name=f"join_{name}")([x, y])
        if name == "b":
            x = layers.ZeroPadding2D()(x)
    return randomize(keras.Model(inputs, layers.ReLU(name="end")(x)))


def photos(number=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(number, 8, 8, 3)).astype("float32")
    return x, np.arange(number) % 3


def features_of(model, x):
    below = keras.Model(model.input, model.layers[-1].input)
    return to_numpy(below(x))


def names(model):
    return [group.name for group in ft.layer_groups(model)]


@pytest.mark.backends
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_head_reads_what_each_block_gives(pooling):
    body = residual()
    x, _ = photos()
    ends = ["join_a", "join_b", "end"]
    known = keras.Model(body.input, [body.get_layer(n).output for n in ends])
    reduce = {"avg": np.mean, "max": np.max}[pooling]
    expected = [reduce(to_numpy(one), axis=(1, 2)) for one in known(x)]
    model = ft.replace_head(body, 3, pooling, features=3)
    found = features_of(model, x)
    np.testing.assert_allclose(found, np.concatenate(expected, 1), atol=1e-5)
    every = ft.replace_head(body, 3, pooling, features="blocks")
    np.testing.assert_allclose(features_of(every, x)[:, 4:], found, atol=1e-6)
    assert features_of(every, x).shape == (12, 16)


def test_groups_are_those_of_the_model_with_a_plain_head():
    body = residual()
    plain = ft.layer_groups(ft.replace_head(body, 3))
    deep = ft.layer_groups(ft.replace_head(body, 3, features="blocks"))
    assert len(deep) == 5
    for one, other in zip(deep, plain, strict=True):
        assert one.name == other.name
        if one.name != "head":
            assert one.layers == other.layers
    assert [layer.name for layer in deep.head.layers] == ["head_predictions"]


@pytest.mark.parametrize(
    "name, ends",
    [
        ("MobileNet", {"stem": "conv1_relu", "block3": "conv_pw_3_relu"}),
        ("MobileNetV2", {"block_2": "block_2_add", "Conv_1": "out_relu"}),
        (
            "ResNet50V2",
            {"conv2_block2": "conv2_block2_out", "conv5_block3": "post_relu"},
        ),
        (
            "EfficientNetB0",
            {"block2b": "block2b_add", "top": "top_activation"},
        ),
    ],
)
def test_blocks_of_applications(name, ends):
    application = getattr(keras.applications, name)
    body = application(weights=None, include_top=False, input_shape=(64, 64, 3))
    model = ft.replace_head(body, 3, features="blocks")
    assert names(model) == [*names(body), "head"]
    joined = model.get_layer("head_features")
    assert len(joined.input) == len(names(body))
    tensors = dict(zip(names(body), joined.input, strict=True))
    for group, layer in ends.items():
        pool = tensors[group]._keras_history.operation
        assert pool.input is body.get_layer(layer).output


def test_groups_are_named_or_counted():
    body = residual()
    first, second, third, last = names(body)
    x, _ = photos()

    def read(features):
        return features_of(ft.replace_head(body, 3, features=features), x)

    whole = read("blocks")
    np.testing.assert_array_equal(read(np.int64(2)), whole[:, 8:])
    np.testing.assert_array_equal(
        read([last, second]), whole[:, [*range(4, 8), *range(12, 16)]]
    )
    np.testing.assert_array_equal(
        read(ft.layer_groups(body)[1:3]), whole[:, 4:12]
    )
    short = ft.replace_head(body, 3, features=[first, second])
    assert len(names(short)) == 3


@pytest.mark.backends
def test_heads_are_replaced_and_removed_again():
    body = residual()
    model = ft.replace_head(body, 3, features="blocks")
    assert ft.remove_head(model).output_shape == (None, 16)
    kept = ft.replace_head(model, 5)
    assert kept.layers[-1].input is model.get_layer("head_features").output
    again = ft.replace_head(model, 5, features="blocks")
    x, _ = photos()
    np.testing.assert_array_equal(features_of(again, x), features_of(model, x))


def test_inner_models_are_opened():
    body = residual()
    inputs = keras.Input((8, 8, 3))
    nested = keras.Model(
        inputs,
        layers.Dense(7)(
            layers.GlobalAveragePooling2D()(body(layers.Rescaling(1.0)(inputs)))
        ),
    )
    plain = ft.replace_head(body, 3, features="blocks")
    model = ft.replace_head(nested, 3, features="blocks")
    assert len(names(model)) == len(names(plain))
    x, _ = photos()
    np.testing.assert_allclose(
        features_of(model, x), features_of(plain, x), atol=1e-6
    )


def test_vectors_are_read_as_they_are():
    model = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="map"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(5, "relu", name="low"),
            layers.Dropout(0.5),
            layers.Dense(6, "relu", name="high"),
            layers.Dense(2, "softmax", name="head"),
        ]
    )
    deep = ft.replace_head(model, 3, features="blocks")
    assert names(deep) == ["map", "low", "high", "head"]
    assert deep.get_layer("head_features").output.shape == (None, 15)
    low = keras.Model(model.inputs, model.get_layer("low").output)
    x, _ = photos()
    np.testing.assert_allclose(
        features_of(deep, x)[:, 4:9], to_numpy(low(x)), atol=1e-6
    )


def cells():
    """Each cell reads the two before it, so that nothing can be cut."""
    inputs = keras.Input((8, 8, 3))
    before = x = layers.Conv2D(4, 1, name="block0_conv")(inputs)
    for i in range(1, 4):
        a = layers.Conv2D(4, 3, padding="same", name=f"block{i}_a")(before)
        b = layers.Conv2D(4, 3, padding="same", name=f"block{i}_b")(x)
        before, x = x, layers.Add()([a, b])
    return keras.Model(inputs, x)


def test_groups_that_end_in_several_tensors_have_no_features():
    body = cells()
    assert names(body) == ["block0", "block1", "block2", "block3"]
    model = ft.replace_head(body, 3, features="blocks")
    assert model.get_layer("head_features").output.shape == (None, 8)
    assert names(model) == [*names(body), "head"]
    with pytest.raises(ValueError, match="'block2' ends in no single tensor"):
        ft.replace_head(body, 3, features=["block2", "block3"])


@pytest.mark.parametrize(
    "features", ["block", 0, -1, 9, True, 2.0, [], "join_a", {"join_a": 1}]
)
def test_other_features_are_refused(features):
    with pytest.raises(ValueError, match="`features` must be"):
        ft.replace_head(residual(), 3, features=features)


def test_wrong_names_and_poolings_are_refused():
    body = residual()
    with pytest.raises(ValueError, match="names of layer groups"):
        ft.replace_head(body, 3, features=["block99"])
    with pytest.raises(ValueError, match="flatten"):
        ft.replace_head(body, 3, "flatten", features="blocks")
    with pytest.raises(ValueError, match="first token"):
        ft.replace_head(body, 3, "token", features="blocks")


# === Texts ===


def padded(last):
    ids = np.array([[2, 6, 8, 3, last, last], [2, 9, 3, last, last, last]])
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    return {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": mask,
    }


@pytest.mark.parametrize("pooling", ["avg", "max", "token"])
def test_texts_without_their_padding(small_bert, pooling):
    body = randomize(small_bert[0])
    chosen = ["transformer_layer_0", "transformer_layer_1"]
    model = ft.replace_head(body, 3, pooling, features=chosen)
    found = features_of(model, padded(0))
    np.testing.assert_allclose(features_of(model, padded(7)), found, atol=1e-6)
    outputs = [body.get_layer(name).output for name in chosen]
    expected = []
    for one in map(to_numpy, keras.Model(body.input, outputs)(padded(0))):
        texts = [one[0, :4], one[1, :3]]
        reduce = np.max if pooling == "max" else np.mean
        expected += [one[:, 0]] if pooling == "token" else []
        expected.append(np.stack([reduce(text, axis=0) for text in texts]))
    np.testing.assert_allclose(found, np.concatenate(expected, 1), atol=1e-5)


def test_all_depths_of_a_text(small_bert):
    model = ft.replace_head(small_bert[0], 3, "token", features="blocks")
    assert names(model) == [*names(small_bert[0]), "head"]
    # First token and mean of three sequences, and the pooled token.
    assert model.get_layer("head_features").output.shape == (None, 7 * 8)


def test_masks_of_embeddings_go_along():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True, name="embedding")(inputs)
    x = layers.LSTM(5, return_sequences=True, name="low")(x)
    x = layers.LSTM(3, return_sequences=True, name="high")(x)
    body = randomize(keras.Model(inputs, x))
    model = ft.replace_head(body, 2, features="blocks")
    x = np.array([[4, 5, 6, 0, 0, 0]])
    embedded = to_numpy(body.get_layer("embedding")(x))[0, :3]
    found = features_of(model, x)
    assert found.shape == (1, 12)
    np.testing.assert_allclose(found[0, :4], embedded.mean(0), atol=1e-5)


@pytest.mark.usefixtures("op_by_op")
def test_a_text_classifier_of_two_layers(small_bert, tmp_path):
    body, tokenizer = small_bert
    model = ft.text_classifier(body, ["neg", "pos"], 16, tokenizer, features=2)
    assert ft.layer_groups(model).head.num_params == (2 * 8 + 8) * 2 + 2
    texts = ["good film", "bad", "a good film", "very bad"] * 3
    data = texts, ["pos", "neg"] * 6
    history = ft.fine_tune(
        model, ft.plans.linear_probe(epochs=1), data, data, verbose=0
    )
    assert "head_features" in history.phases[0]["cache"]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(texts, verbose=0)
    np.testing.assert_allclose(
        again.predict(texts, verbose=0), expected, atol=1e-6
    )
    scorer = ft.text_regressor(
        body, 1, 16, tokenizer, features=["transformer_layer_0"]
    )
    assert "transformer_layer_1" not in names(scorer)


# === Training ===


@pytest.mark.backends
@pytest.mark.usefixtures("op_by_op")
def test_a_plan_solves_the_head_on_cached_features():
    model = ft.replace_head(residual(), 3, features="blocks", dropout=0.2)
    data = photos(16)
    plan = ft.plans.linear_probe_then_full(epochs=1)
    history = ft.fine_tune(model, plan, data, data, verbose=0)
    first = history.phases[0]
    # Sixteen numbers of an example, and none of the maps.
    assert "0.0 MiB of activations after 'head_features'" in first["cache"]
    assert not first["head_initializer"].startswith("off")


@pytest.mark.backends
@pytest.mark.usefixtures("op_by_op")
def test_a_frozen_backbone_stays_as_it_is():
    model = ft.replace_head(residual(), 3, features="blocks")
    backbone = ft.select_layers(model, "backbone")
    weights = [v for layer in backbone for v in layer.weights]
    before = [to_numpy(v) for v in weights]
    head = to_numpy(model.get_layer("head_predictions").kernel)
    plan = ft.plans.linear_probe(epochs=2)
    ft.fine_tune(model, plan, photos(16), verbose=0, cache="off")
    for variable, old in zip(weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), old)
    moved = to_numpy(model.get_layer("head_predictions").kernel)
    assert np.abs(moved - head).min() > 0


LOAD = """
import sys
import keras
import numpy as np

model = keras.models.load_model(sys.argv[1])
x = np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype("float32")
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(x)))
"""


def test_it_loads_in_a_fresh_process(tmp_path):
    model = randomize(ft.replace_head(residual(), 3, features="blocks"))
    model.save(tmp_path / "model.keras")
    process = FreshProcess(
        "-c", LOAD, tmp_path / "model.keras", tmp_path / "found.npy"
    )
    assert process.wait() == 0, process.stderr
    expected = to_numpy(model(photos()[0]))
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = keras.models.load_model(tmp_path / "model.keras")
    assert names(again) == names(model)


# === The cache ===


def stored_of(model, x, trained):
    """What the cache stores of a phase, and what its end makes of it."""
    model.compile("sgd", "sparse_categorical_crossentropy")
    ft.freeze(model)
    ft.unfreeze(model, trained)
    flat = FlatModel(ft.layer_groups(model))
    cache = PrefixCache(flat, cache_options("auto"))
    stored = keras.tree.flatten(cache.prefix(x))
    return stored, cache.suffix(stored if len(stored) > 1 else stored[0])


@pytest.mark.backends
@pytest.mark.parametrize(
    "trained, sizes", [("head", [16]), (1, [8 * 8 * 4, 4, 4, 4])]
)
def test_vectors_of_depths_go_past_a_cut(trained, sizes):
    model = ft.replace_head(residual(), 3, features="blocks", dropout=0.2)
    x, _ = photos()
    stored, outputs = stored_of(model, x, trained)
    assert [to_numpy(a)[0].size for a in stored] == sizes
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(model(x)), atol=1e-6)


@pytest.mark.parametrize("pooling", ["avg", "max", "token"])
@pytest.mark.parametrize("trained", ["head", 1, 2])
def test_vectors_of_texts_go_past_a_cut(small_bert, pooling, trained):
    config = {**small_bert[0].get_config(), "dropout": 0.0}
    body = randomize(type(small_bert[0]).from_config(config))
    model = ft.replace_head(body, 3, pooling, features="blocks")
    stored, outputs = stored_of(model, padded(7), trained)
    np.testing.assert_allclose(
        to_numpy(outputs), to_numpy(model(padded(7))), atol=1e-6
    )
    # No sequences but the one at the cut: below the pooler it is a vector.
    long = [x for x in stored if len(x.shape) > 2]
    assert len(long) == (trained == 2)


def test_noise_on_the_way_to_the_head_stays_above_a_cut():
    body = residual()
    depth = layers.GaussianNoise(0.5)(body.get_layer("join_a").output)
    pools = [
        layers.GlobalAveragePooling2D()(x)
        for x in (depth, body.get_layer("end").output)
    ]
    x = layers.Dense(3, name="head")(layers.concatenate(pools))
    model = keras.Model(body.input, x)
    x, _ = photos()
    stored, outputs = stored_of(model, x, 1)
    assert [a.shape[1:] for a in stored] == [(8, 8, 4)]
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(model(x)), atol=1e-6)


@pytest.mark.usefixtures("op_by_op")
def test_a_cached_phase_is_the_phase():
    plan = ft.Plan([ft.Phase(1, epochs=2, learning_rate=1e-2)])
    outputs = []
    for cache in ("auto", "off"):
        keras.utils.set_random_seed(0)
        model = randomize(ft.replace_head(residual(), 3, features="blocks"))
        history = ft.fine_tune(model, plan, photos(), cache=cache, verbose=0)
        outputs.append(model.predict(photos()[0], verbose=0))
        assert ("join_b" in history.phases[0]["cache"]) == (cache == "auto")
    np.testing.assert_allclose(*outputs, atol=1e-6)
