"""`explain`: what in a photo or a text speaks for a prediction."""

import keras
import keras_hub
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.engine import graph
from finetune_keras.results import attribution
from finetune_keras.results.explanation import explain_worst
from finetune_keras.results.inside import in_patches
from finetune_keras.testing.weights import randomize

pytestmark = pytest.mark.usefixtures("op_by_op")
RNG = np.random.default_rng(0)
PHOTOS = RNG.uniform(0, 1, (2, 4, 6, 3)).astype("float32")


def convolved(x, kernel, bias):
    """ReLU of a 3 x 3 convolution with `padding="same"`, by loops."""
    wide = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    found = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for row, column in np.ndindex(x.shape[1:3]):
        window = wide[:, row : row + 3, column : column + 3]
        found[:, row, column] = np.tensordot(window, kernel, 3) + bias
    return np.maximum(found, 0)


def small(units=3, activation="softmax", seed=0, pooling="avg", body=None):
    """A convolution, a pooling and a dense layer, of fixed weights."""
    inputs = keras.Input((4, 6, 3))
    x = (body or keras.layers.Conv2D(5, 3, padding="same", activation="relu"))(
        inputs
    )
    pools = {
        "avg": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
        "flatten": keras.layers.Flatten,
    }
    x = pools[pooling]()(x)
    x = keras.layers.Dense(units, activation=activation, name="head")(x)
    model = keras.Model(inputs, x)
    randomize(model, seed)
    return model


def arrays(model):
    return [keras.ops.convert_to_numpy(x) for x in model.weights]


def log_odds(model, x, column):
    p = model.predict(x, verbose=0).astype("float64")
    p = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p
    return np.log(p[:, column] / np.delete(p, column, axis=1).sum(axis=1))


@pytest.mark.parametrize(
    "column", [0, pytest.param(2, marks=pytest.mark.backends)]
)
def test_maps_are_those_of_grad_cam(column):
    model = small(seed=3)
    kernel, bias, dense, shift = arrays(model)
    maps = convolved(PHOTOS, kernel, bias)
    logits = maps.mean(axis=(1, 2)) @ dense + shift
    others = np.delete(np.arange(3), column)
    powers = np.exp(logits[:, others])
    shares = powers / powers.sum(axis=1, keepdims=True)
    # The gradient of the log-odds by the mean of each feature.
    alpha = dense[:, column] - shares @ dense[:, others].T
    wanted = np.einsum("nyxk,nk->nyx", maps, alpha) / 24
    found = ft.explain(model, PHOTOS, str(column))
    assert wanted.min() < 0 < wanted.max()
    for i in range(2):
        np.testing.assert_allclose(
            found.importances[i], np.maximum(wanted[i], 0), atol=1e-5
        )
    powers = np.exp(logits)
    p = powers[:, column] / powers.sum(axis=1)
    np.testing.assert_allclose(found.probabilities, p, atol=1e-5)
    assert found.classes == [str(column)] * 2 and found.tokens is None


@pytest.mark.parametrize("pooling", ["flatten", "max"])
def test_behind_a_flatten_or_a_maximum_each_place_has_its_own_gradient(pooling):
    model = small(1, "sigmoid", pooling=pooling)
    kernel, bias, dense, shift = arrays(model)
    maps = convolved(PHOTOS, kernel, bias)
    if pooling == "flatten":
        added = maps * dense.reshape(4, 6, 5)
    else:
        top = maps == maps.max(axis=(1, 2), keepdims=True)
        added = maps * top * dense[:, 0]
    added = added.sum(axis=-1)
    for name, sign in ("0", -1), ("1", 1):
        found = ft.explain(model, PHOTOS, name).importances
        wanted = np.maximum(sign * added, 0)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    whole = added.sum(axis=(1, 2)) + shift
    np.testing.assert_allclose(whole, log_odds(model, PHOTOS, 1), atol=1e-4)


def test_the_corner_that_alone_counts():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 8, strides=8, activation="relu")(inputs)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
    randomize(model)
    kernel, bias = model.layers[-1].get_weights()
    kernel = kernel.reshape(4, 4, 4, 2)
    kernel[1:] = kernel[:, 1:] = 0
    model.layers[-1].set_weights([kernel.reshape(-1, 2), bias])
    photos = RNG.uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    found = ft.explain(model, photos, ["0", "1", "0"])
    other = ft.explain(model, photos, ["1", "0", "1"])
    for first, second in zip(found.importances, other.importances, strict=True):
        heat = first + second
        assert heat.shape == (32, 32) and heat.sum() > 0
        assert heat[:12, :12].sum() > 0.999 * heat.sum()


def backbone():
    """Two blocks, the second of half the size, that give no less than 0."""
    x = inputs = keras.Input((16, 8, 3))
    for block, filters in enumerate((4, 6), start=1):
        for number in "12":
            name = f"block{block}_conv{number}"
            x = keras.layers.Conv2D(
                filters, 3, padding="same", activation="relu", name=name
            )(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    model = keras.Model(inputs, x, name="backbone")
    randomize(model)
    return model


BIG = RNG.uniform(0, 1, (2, 16, 8, 3)).astype("float32")


def with_head(features=None, seed=0):
    model = ft.replace_head(
        backbone(), 1, task="multi_label", features=features
    )
    kernel, bias = model.layers[-1].get_weights()
    rng = np.random.default_rng(seed)
    kernel = rng.uniform(0, 1, kernel.shape)
    model.layers[-1].set_weights([kernel, bias + 0.3])
    return model


@pytest.mark.parametrize(
    "features", [None, pytest.param("blocks", marks=pytest.mark.backends)]
)
def test_what_all_depths_add_is_the_whole(features):
    model = with_head(features)
    found = ft.explain(model, BIG)
    wanted = log_odds(model, BIG, 1) - 0.3
    sums = [one.sum() for one in found.importances]
    assert found.importances[0].shape == (16, 8)
    assert wanted.min() > 0.1
    np.testing.assert_allclose(sums, wanted, rtol=1e-3)


def test_nested_models_and_their_layers_are_left_as_they_are():
    flat = with_head()
    inputs = keras.Input((16, 8, 3))
    inner = backbone()
    x = keras.layers.GlobalAveragePooling2D()(inner(inputs))
    outer = keras.layers.Dense(1, "sigmoid", name="head")
    nested = keras.Model(inputs, outer(x))
    outer.set_weights(flat.layers[-1].get_weights())
    before = nested.predict(BIG, verbose=0)
    names = [layer.name for layer in graph.all_layers(nested)]
    found = ft.explain(nested, BIG, "1").importances
    wanted = ft.explain(flat, BIG).importances
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert [layer.name for layer in graph.all_layers(nested)] == names
    assert not any("call" in vars(x) for x in graph.all_layers(nested))
    assert outer.activation is keras.activations.sigmoid
    np.testing.assert_array_equal(nested.predict(BIG, verbose=0), before)


def test_members_of_an_ensemble_count_by_their_part_in_its_odds():
    members = [with_head(seed=1), with_head("blocks", seed=2)]
    together = ft.ensemble(members)
    alone = [np.array(ft.explain(m, BIG).importances) for m in members]
    p = [m.predict(BIG, verbose=0)[:, 0] for m in members]
    mean = np.mean(p, axis=0)
    parts = [
        (q * (1 - q) / 2 / (mean * (1 - mean)))[:, None, None] * one
        for q, one in zip(p, alone, strict=True)
    ]
    found = ft.explain(together, BIG).importances
    np.testing.assert_allclose(found, sum(parts), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_model_that_is_quite_sure_and_one_that_is_calibrated(activation):
    model = small(2, activation)
    wanted = ft.explain(model, PHOTOS, "1").importances
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + [0, 60]])
    sure = ft.explain(model, PHOTOS, "1")
    assert sure.probabilities == [1.0, 1.0]
    np.testing.assert_allclose(sure.importances, wanted, atol=1e-5)
    scale, shift = [0.5, 0.25], [1.0, 2.0]
    layer = ft.Calibration(scale, shift, activation)
    calibrated = keras.Model(model.inputs, layer(model.outputs[0]))
    found = ft.explain(calibrated, PHOTOS, "1").importances
    scaled = small(2, activation)
    scaled.layers[-1].set_weights([kernel * scale, bias])
    wanted = ft.explain(scaled, PHOTOS, "1").importances
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_logits_values_and_one_example():
    model = small(2, None)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    whole = ft.explain(model, PHOTOS, "1")
    one = ft.explain(model, PHOTOS[1], "1")
    np.testing.assert_allclose(one.importances[0], whole.importances[1])
    soft = ft.explain(small(2), PHOTOS, "1")
    np.testing.assert_allclose(whole.importances, soft.importances, atol=1e-5)
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="predicts 2 values"):
        ft.explain(model, PHOTOS)
    values = ft.explain(model, list(PHOTOS), "1")
    predicted = model.predict(PHOTOS, verbose=0)[:, 1]
    np.testing.assert_allclose(values.probabilities, predicted, atol=1e-5)


def test_augmentation_is_off_and_batches_are_any_size():
    model = with_head()
    inputs = keras.Input((16, 8, 3))
    moved = ft.image_augmentation("light")(inputs)
    augmented = keras.Model(inputs, model(moved))
    many = np.repeat(BIG, 17, axis=0)
    found = ft.explain(augmented, many, "1")
    assert len(found) == len(found.importances) == 34
    wanted = np.repeat(ft.explain(model, BIG).importances, 17, axis=0)
    np.testing.assert_allclose(found.importances, wanted, atol=1e-5)


# === Photos without maps ===


class Subclassed(keras.Model):
    def __init__(self, units, activation=None):
        super().__init__()
        self.conv = keras.layers.Conv2D(3, 2)
        self.flat = keras.layers.Flatten()
        self.dense = keras.layers.Dense(units, activation)

    def call(self, x):
        return self.dense(self.flat(self.conv(x)))


def subclassed(units=1, activation=None, **loss):
    model = Subclassed(units, activation)
    model(PHOTOS)
    randomize(model)
    model.compile(loss=keras.losses.BinaryCrossentropy(**loss))
    return model


def cropped():
    resizing = keras.layers.Resizing(4, 4, crop_to_aspect_ratio=True)
    body = keras.Sequential([resizing, keras.layers.Conv2D(2, 3)])
    return small(2, body=body)


def transformer():
    backbone = keras_hub.models.ViTBackbone((4, 6, 3), 2, 1, 2, 8, 8)
    model = ft.replace_head(backbone, 2, pooling="token")
    randomize(model)
    return model


def views():
    model = small(2, pooling="flatten", body=keras.layers.Conv2D(5, 3))
    return ft.test_time_augmentation(model, ["flip"])


@pytest.mark.backends
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_pixels_of_a_model_without_a_graph(activation):
    model = subclassed(1, activation, from_logits=activation is None)
    plain = subclassed()

    def logits(x):
        return keras.ops.convert_to_numpy(plain(x))[:, 0]

    shift = logits(np.zeros((1, 4, 6, 3), "float32"))
    slopes = logits(np.eye(72, dtype="float32").reshape(72, 4, 6, 3)) - shift
    away = PHOTOS - PHOTOS.mean(axis=(1, 2), keepdims=True)
    wanted = (slopes.reshape(4, 6, 3) * away).sum(axis=-1)
    found = ft.explain(model, PHOTOS, "1")
    np.testing.assert_allclose(
        found.importances, np.maximum(wanted, 0), atol=1e-5
    )
    p = 1 / (1 + np.exp(-logits(PHOTOS)))
    np.testing.assert_allclose(found.probabilities, p, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [transformer, cropped, pytest.param(views, marks=pytest.mark.backends)],
)
def test_pixels_add_up_to_what_they_change(make, monkeypatch):
    monkeypatch.setattr(attribution, "_PARTS", 4)
    model = make()
    of_0, of_1 = (
        np.array(ft.explain(model, PHOTOS, x).importances) for x in "01"
    )
    added = of_1 - of_0
    mean = PHOTOS.mean(axis=(1, 2), keepdims=True) + 0 * PHOTOS
    before = log_odds(model, PHOTOS, 1)
    wanted = before - log_odds(model, mean, 1)
    np.testing.assert_allclose(added.sum(axis=(1, 2)), wanted, rtol=0.05)
    order = added.reshape(2, -1).argsort(axis=1)
    falls = []
    for part in order[:, -5:], order[:, :5]:
        photos = PHOTOS.copy().reshape(2, 24, 3)
        for photo, places, color in zip(
            photos, part, mean[:, 0, 0], strict=True
        ):
            photo[places] = color
        falls.append(before - log_odds(model, photos.reshape(PHOTOS.shape), 1))
    most, least = falls
    assert (most > 0.001).all() and (least < -0.001).all()
    if make is cropped:
        assert not added[:, :, [0, -1]].any() and added[:, :, 1:-1].any()


def test_patches_keep_the_sum():
    product = RNG.normal(size=(2, 50, 7, 3))
    found = in_patches(product)
    assert found.shape == (2, 20, 7, 3)
    np.testing.assert_allclose(found[0, 1], product[0, 2:5].sum(axis=0))
    np.testing.assert_allclose(found.sum(), product.sum())


# === Texts ===


@pytest.fixture
def texts(small_bert):
    backbone = ft.text_backbone(*small_bert, sequence_length=16)
    model = ft.text_classifier(backbone, ["neg", "pos"])
    randomize(model)
    return model


@pytest.mark.backends
def test_tokens_are_as_by_finite_differences(texts, monkeypatch):
    monkeypatch.setattr(attribution, "_PARTS", 2)
    found = ft.explain(texts, ["Good film!", "a bad café not"], "pos")
    assert found.tokens[1] == "[CLS] a bad café not [SEP]".split()
    assert [len(x) for x in found.importances] == [5, 6]
    table = texts.get_layer("token_embedding").embeddings
    before = keras.ops.convert_to_numpy(table).copy()
    x = texts.arrays(["a bad café not"])
    words = x["token_ids"][0, 1:-1]
    mask = before[texts.encoder.tokenizer.token_to_id("[MASK]")]

    def odds(factors):
        """With the embeddings so far on the way from the mask to the words."""
        moved = before.copy()
        moved[words] = mask + factors[:, None] * (before[words] - mask)
        table.assign(moved)
        p = keras.ops.convert_to_numpy(texts(x))[0]
        return np.log(p[1] / p[0])

    slopes = [
        np.mean([odds(t + step) - odds(t - step) for t in (0.25, 0.75)]) / 0.04
        for step in 0.02 * np.eye(4)
    ]
    found = found.importances[1]
    np.testing.assert_allclose(found[1:-1], slopes, rtol=0.02, atol=2e-4)
    assert found[0] == found[-1] == 0
    assert np.abs(slopes).min() > 1e-3


@pytest.mark.parametrize("has_mask", [True, False])
def test_tokens_add_up_to_what_the_words_change(texts, monkeypatch, has_mask):
    tokenizer = texts.encoder.tokenizer
    mask, sentence = tokenizer.mask_token_id, ["a bad café not"]
    if not has_mask:
        monkeypatch.setattr(tokenizer, "mask_token_id", None)
    found = ft.explain(texts, sentence, "pos").importances[0]
    whole = log_odds(texts, sentence, 1)[0]
    x = texts.arrays(sentence)
    x["token_ids"][0, 1:-1] = mask
    table = texts.get_layer("token_embedding").embeddings
    if not has_mask:
        rows = keras.ops.convert_to_numpy(table).copy()
        rows[mask] = 0
        table.assign(rows)
    p = keras.ops.convert_to_numpy(texts(x))[0]
    gain = whole - np.log(p[1] / p[0])
    assert found.sum() == pytest.approx(gain, rel=0.1)


def test_pairs_and_a_single_text(texts):
    pairs = ft.explain(texts, (["good", "a film"], ["bad", "bad"]), "neg")
    assert pairs.tokens[0] == "[CLS] good [SEP] bad [SEP]".split()
    one = ft.explain(texts, "good film")
    assert one.tokens == ["[CLS] good film [SEP]".split()]
    assert one.probabilities[0] == pytest.approx(
        texts.predict(["good film"], verbose=0).max(), abs=1e-5
    )


# === At the door ===


def table():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def without_kernels():
    inputs = keras.Input((4, 6, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Softmax()(x))


def quantized():
    model = small()
    model.quantize("int8")
    return model


def whole_numbers():
    inputs = keras.Input((4, 6, 3), dtype="uint8")
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    return keras.Model(inputs, model(keras.ops.cast(inputs, "float32")))


def unbuilt():
    return Subclassed(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (table, "permutation_importance"),
        (without_kernels, "no maps of features"),
        (quantized, "quantised"),
        (whole_numbers, "no gradients"),
        (unbuilt, "`Input`"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "`Input`"),
        (lambda: small(activation=None), "may be anything"),
    ],
)
def test_what_cannot_be_explained(make, message):
    with pytest.raises(ValueError, match=message):
        ft.explain(make(), PHOTOS)


@pytest.mark.parametrize(
    ("x", "name", "message"),
    [
        (PHOTOS, "3", "must be one of"),
        (PHOTOS, ["0"], "1 names for 2 examples"),
        (PHOTOS[:0], None, "no example"),
        ([], None, "at least one photo"),
        ([PHOTOS[0], PHOTOS[0, :3]], None, "only of one size"),
        (PHOTOS[..., :2], None, "takes arrays of shape"),
        ("photo.jpg", None, "`Bundle`"),
        (["photo.jpg"], None, "`Bundle`"),
    ],
)
def test_what_does_not_fit(x, name, message):
    with pytest.raises(ValueError, match=message):
        ft.explain(small(), x, name)


# === Figures and reports ===


def test_figures(texts):
    found = ft.explain(small(1, "sigmoid"), np.repeat(PHOTOS, 2, axis=0), "1")
    figure = found.figure()
    assert len(figure.axes) == 8
    heat = figure.axes[1].images[1].get_array()
    np.testing.assert_allclose(
        heat, found.importances[0] / found.importances[0].max()
    )
    assert figure.axes[1].get_title() == f"1 ({found.probabilities[0]:.3f})"
    found = ft.explain(texts, ["good " * 10, "bad"], "pos")
    first, second = found.figure().axes
    assert [t.get_text() for t in first.texts] == found.tokens[0]
    assert len(second.texts) == 3
    assert "2 texts" in repr(found)


def test_a_bundle_reads_files(tmp_path):
    from PIL import Image

    model = with_head()
    path = tmp_path / "photo.png"
    pixels = np.uint8(255 * BIG[0])
    Image.fromarray(pixels).save(path)
    ft.save_bundle(model, tmp_path / "m.keras", classes=["fly", "bee"])
    bundle = ft.load_bundle(tmp_path / "m.keras")
    found = ft.explain(bundle, str(path), "bee")
    wanted = ft.explain(model, pixels[None]).importances
    np.testing.assert_allclose(found.importances, wanted, rtol=1e-4)


def test_a_report_explains_its_worst(tmp_path):
    model = small(1, "sigmoid")
    x = RNG.uniform(0, 1, (9, 4, 6, 3)).astype("float32")
    report = ft.evaluate(
        model,
        (x, np.arange(9) % 2),
        classes=["ant", "bee"],
        worst=7,
        bootstrap=0,
        verbose=0,
    )
    found = explain_worst(report, model)
    assert found.classes == [x["predicted"] for x in report.worst[:5]]
    chances = [x["probability"] for x in report.worst[:5]]
    np.testing.assert_allclose(found.probabilities, chances, atol=1e-5)
    report.to_html(tmp_path / "report.html", model)
    page = (tmp_path / "report.html").read_text()
    # The worst, at most a fifth of nine, and what spoke for it.
    assert page.count("<img") == 1 + 1
    assert "What spoke for these predictions" in page
    with pytest.raises(ValueError, match="model that was judged"):
        report.to_html(tmp_path / "report.html", small(1, "sigmoid", seed=1))


def test_of_several_labels_the_one_that_is_furthest_off():
    model = small(3, "sigmoid")
    y = np.array([[0, 1, 1], [1, 0, 0]])
    report = ft.evaluate(
        model, (PHOTOS, y), task="multi_label", bootstrap=0, verbose=0
    )
    found = explain_worst(report, model)
    for entry, name in zip(report.worst, found.classes, strict=True):
        p = model.predict(PHOTOS, verbose=0)[entry["index"]]
        assert name == str(np.abs(p - y[entry["index"]]).argmax())


def test_a_model_with_a_task_of_its_own_kind_is_explained():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    randomize(model)
    model.task = "pets"  # what a user calls it
    x = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3))
    assert ft.explain(model, x).importances[0].shape == (8, 8)
