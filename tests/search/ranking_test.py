"""`rank_backbones`: which backbone suits the data."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import finetune_keras as ft
from finetune_keras.models.image_size import size_of_weights
from finetune_keras.search.transferability import h_score, leep, logme

pytestmark = pytest.mark.usefixtures("op_by_op")
SCORES = ("log_loss", "accuracy", "logme", "h_score")


def photos(count=45, seed=0):
    """Noise, brighter in the color of its class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.uniform(0, 200, size=(count, 8, 8, 3))
    x[np.arange(count), :, :, y] += 25
    return x.astype("float32"), y


def seeing(colors, name, head=None):
    """A backbone of fixed weights that sees some of the colors."""
    kernel = np.zeros((1, 1, 3, 4), "float32")
    kernel[0, 0, list(colors), range(len(colors))] = 1
    kernel[0, 0, :, 3] = 0.1
    convolution = layers.Conv2D(4, 1, activation="relu")
    body = [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), convolution]
    if head is not None:
        dense = layers.Dense(head.shape[1], activation="softmax")
        body += [layers.GlobalAveragePooling2D(), dense]
    model = keras.Sequential(body, name=name)
    convolution.set_weights([kernel, np.zeros(4)])
    if head is not None:
        dense.set_weights([head, np.zeros(head.shape[1])])
    return model


def figures(ranking):
    """What does not hang on the machine."""
    return [
        {k: v for k, v in r.items() if k != "seconds"} for r in ranking.rows
    ]


def means(x, colors):
    """What `seeing` makes of photos, by NumPy."""
    found = np.zeros((len(x), 4))
    found[:, : len(colors)] = x[..., list(colors)].mean(axis=(1, 2)) / 255
    found[:, 3] = 0.1 * x.sum(axis=-1).mean(axis=(1, 2)) / 255
    return found


@pytest.mark.backends
def test_the_scores_are_those_of_the_pooled_features():
    x, y = photos()
    backbones = [seeing([0], "one"), seeing([0, 1, 2], "all")]
    ranking = ft.rank_backbones(backbones, (x, y), verbose=0)
    assert [row["name"] for row in ranking.rows] == ["all", "one"]
    assert ranking.best == "all" and ranking.ties == []
    assert ranking.task == "classification" and ranking.examples == 45
    for row, colors in zip(ranking.rows, ([0, 1, 2], [0]), strict=True):
        expected = means(x, colors)
        assert row["features"] == 4 and row["parameters"] == 16
        by_class = logme(expected, np.eye(3)[y])
        assert row["logme"] == pytest.approx(by_class, abs=1e-5)
        wanted = h_score(expected, y, "auto")
        assert row["h_score"] == pytest.approx(wanted, abs=1e-4)
        assert row["leep"] is None and row["seconds"] > 0
    best, worst = ranking.rows
    assert best["accuracy"] > 0.9 > worst["accuracy"]
    assert best["log_loss"] < worst["log_loss"]


def test_it_prints_as_a_table():
    ranking = ft.rank_backbones(
        {"one": seeing([0], "x"), "same": seeing([0], "y")}, photos(), verbose=0
    )
    text = str(ranking).splitlines()
    assert text[0] == "45 examples, classification"
    assert text[1].split()[0] == "backbone" and "LogME" in text[1]
    assert text[3].startswith("one") and " - " in text[3]
    assert text[-1] == "Not clearly worse than one: same"
    assert ranking.backbones["one"].name == "x"


def test_applications_are_scaled_as_they_want():
    keras.utils.set_random_seed(0)
    plain = keras.applications.MobileNet(
        weights=None, alpha=0.25, input_shape=(32, 32, 3), include_top=False
    )
    # Deeper down random weights leave nothing of the photos.
    end = plain.get_layer("conv_pw_1_relu").output
    plain = keras.Model(plain.inputs[0], end, name=plain.name)
    x, y = photos(20)
    x = np.repeat(np.repeat(x, 4, axis=1), 4, axis=2)
    features = plain.predict(x / 127.5 - 1, verbose=0).mean(axis=(1, 2))
    assert features.std(axis=0).max() > 1e-3
    with pytest.warns(UserWarning, match="mobilenet.* 32 of 224"):
        ranking = ft.rank_backbones([plain], (x, y), verbose=0)
    expected = logme(features, np.eye(3)[y])
    assert ranking.rows[0]["logme"] == pytest.approx(expected, abs=1e-5)


def test_shuffled_data_gives_the_same_figures():
    import tensorflow as tf

    x, y = photos()
    backbones = [seeing([0, 1], "two"), seeing([0], "one")]
    expected = ft.rank_backbones(backbones, (x, y), verbose=0)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    data = data.shuffle(45).repeat(2).batch(7)
    got = ft.rank_backbones(backbones, data, verbose=0)
    assert got.examples == 45
    for one, other in zip(figures(got), figures(expected), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_splits_lend_their_training_data_and_task():
    x, y = photos(60)
    data = ft.from_arrays(x, y, task="regression")
    ranking = ft.rank_backbones([seeing([0], "one")], data, verbose=0)
    assert ranking.task == "regression"
    assert ranking.examples == data.sizes["train"]


@pytest.mark.parametrize(
    "form",
    [
        lambda y: np.array(["ant", "bee", "wasp"])[y],
        lambda y: ["ant bee wasp".split()[i] for i in y],
        lambda y: y[:, None],
        lambda y: np.eye(3)[y],
        lambda y: y * 10 - 7,
    ],
    ids=["strings", "list", "column", "one-hot", "other numbers"],
)
def test_forms_of_labels(form):
    x, y = photos(20)
    expected = logme(means(x, [0, 1]), np.eye(3)[y])
    got = ft.rank_backbones([seeing([0, 1], "a")], (x, form(y)), verbose=0)
    assert got.task == "classification"
    assert got.rows[0]["logme"] == pytest.approx(expected, abs=1e-5)


def test_two_classes_as_floats_are_classes():
    x, y = photos(20)
    y = (y[:, None] == 1).astype("float32")
    got = ft.rank_backbones([seeing([1], "a")], (x, y), verbose=0)
    assert got.task == "classification" and got.rows[0]["accuracy"] > 0.6


def test_values():
    x, _ = photos(30)
    seen = means(x, [0, 1])
    y = 40 + 300 * (seen @ [[1, 2], [1, -1], [0, 0], [0, 0]])
    ranking = ft.rank_backbones(
        [seeing([2], "blue"), seeing([0, 1], "both")], (x, y), verbose=0
    )
    row = ranking.rows[0]
    assert ranking.task == "regression" and ranking.best == "both"
    assert row["r2"] > 0.99 > ranking.rows[1]["r2"]
    assert row["rmse"] < 0.1 * y.std()
    expected = logme(seen, (y - y.mean(0)) / y.std(0))
    assert row["logme"] == pytest.approx(expected, abs=1e-3)
    assert row["h_score"] is None and row["leep"] is None
    assert "RMSE" in str(ranking)


def test_several_labels():
    x, y = photos(30)
    labels = np.stack([y != 0, y == 2, y == 0], axis=1).astype("int")
    ranking = ft.rank_backbones([seeing([0, 2], "a")], (x, labels), verbose=0)
    assert ranking.task == "multi_label"
    expected = logme(means(x, [0, 2]), labels)
    assert ranking.rows[0]["logme"] == pytest.approx(expected, abs=1e-5)
    names = [
        [n for n, has in zip("abc", row, strict=True) if has] for row in labels
    ]
    by_names = ft.rank_backbones([seeing([0, 2], "a")], (x, names), verbose=0)
    assert figures(by_names)[0] == pytest.approx(figures(ranking)[0])
    assert 0.6 < ranking.rows[0]["accuracy"] < 1
    assert ranking.rows[0]["h_score"] is None


@pytest.mark.backends
@pytest.mark.parametrize("logits", [False, True])
def test_the_old_head_gives_leep(logits):
    x, y = photos(30)
    head = np.random.default_rng(1).normal(size=(4, 5)) * 20
    model = seeing([0, 1], "old", head)
    outputs = means(x, [0, 1]) @ head
    if logits:
        model.layers[-1].activation = keras.activations.linear
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    old = powers / powers.sum(axis=1, keepdims=True)
    row = ft.rank_backbones([model], (x, y), verbose=0).rows[0]
    assert row["leep"] == pytest.approx(leep(old, y), abs=1e-4)
    by_class = logme(means(x, [0, 1]), np.eye(3)[y])
    assert row["logme"] == pytest.approx(by_class, abs=1e-5)
    assert row["parameters"] == 16


def test_texts_are_tokenised_and_padding_left_out(small_bert):
    backbone = ft.text_backbone(*small_bert, sequence_length=12)
    texts = ["a good film", "bad", "very good", "the bad film was not good"] * 3
    texts = [f"{text} {'good ' * (i // 4)}x{i}" for i, text in enumerate(texts)]
    y = ["up", "up", "down", "up", "down", "down"] * 2
    ranking = ft.rank_backbones([backbone], (texts, y), batch_size=5, verbose=0)
    arrays = backbone.arrays(texts)
    found = small_bert[0].predict(
        {k: arrays[k] for k in ("token_ids", "padding_mask", "segment_ids")},
        verbose=0,
    )
    mask = arrays["padding_mask"][..., None]
    features = (found["sequence_output"] * mask).sum(1) / mask.sum(1)
    by_class = logme(features, np.eye(2)[[1, 1, 0, 1, 0, 0] * 2])
    assert ranking.rows[0]["logme"] == pytest.approx(by_class, abs=1e-4)
    assert ranking.rows[0]["features"] == 8 and by_class < 0


def test_a_class_of_one_example_and_constant_features():
    x, y = photos(20)
    y[3] = 7
    blind = seeing([], "blind")
    blind.layers[-1].set_weights([np.zeros((1, 1, 3, 4)), np.ones(4)])
    backbones = [blind, seeing([0, 1, 2], "all")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranking = ft.rank_backbones(backbones, (x, y), verbose=0)
    assert ranking.best == "all"
    for row in ranking.rows:
        assert np.isfinite([row[score] for score in SCORES]).all()


def test_features_that_say_nothing_at_all():
    """More of them than examples, and all the same."""
    x, y = photos(6)
    blind = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(9, 1)])
    blind.layers[0].set_weights([np.zeros((1, 1, 3, 9)), np.ones(9)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = ft.rank_backbones([blind], (x, y), verbose=0).rows
    assert row["h_score"] == 0 and np.isfinite(row["log_loss"])


# === Refused ===


@pytest.mark.parametrize(
    ("backbones", "message"),
    [
        ("MobileNet", "must be a list"),
        ([], "must be a list"),
        ([7], "must be a list"),
        (["MobileNot"], "Nearest names"),
        ([seeing([0], "twin"), seeing([1], "twin")], "one name"),
    ],
)
def test_no_such_backbones(backbones, message):
    with pytest.raises(ValueError, match=message):
        ft.rank_backbones(backbones, photos(6), verbose=0)


def test_data_that_tells_nothing():
    x, y = photos(6)
    model = [seeing([0], "one")]
    for data, message in (
        ((x, np.zeros(6, "int")), "the same label"),
        ((x, y.astype("float32")), "classes or amounts"),
        ((x, y, np.arange(6.0)), "no sample weights"),
        (x, "must hold labels"),
        ((x, [None, "a", "b", "a", "b", "a"]), "no label"),
    ):
        with pytest.raises(ValueError, match=message):
            ft.rank_backbones(model, data, verbose=0)
    with pytest.raises(ValueError, match="`task` must be one of"):
        ft.rank_backbones(model, (x, y), task="classes", verbose=0)
    with pytest.raises(ValueError, match="take images"):
        ft.rank_backbones(["MobileNet"], (x[:, 0, 0], y), verbose=0)


# === Sizes ===


class _Asked(Exception):
    pass


def test_sizes_are_those_of_keras(monkeypatch):
    from keras.src.applications import imagenet_utils

    def tell(*args, default_size, **kwargs):
        raise _Asked(default_size)

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", tell)
    names = [n for n in vars(keras.applications) if n[0].isupper()]
    # These take any size, and say 224 in the names of their weights.
    names = [n for n in names if "MobileNetV3" not in n]
    for name in names:
        with pytest.raises(_Asked) as asked:
            getattr(keras.applications, name)(weights=None)
        assert size_of_weights(name) == asked.value.args[0], name
    assert len(names) > 30
    assert size_of_weights("MobileNetV2", 128) == 128
    assert size_of_weights("ResNet50", 128) == 224
