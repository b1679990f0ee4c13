"""Masks judged, calibrated, shipped: scikit-learn's figures, sizes of files."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn import metrics as sk

import finetune_keras as ft
from finetune_keras.testing.processes import FreshProcess

# Models predict few batches here.
pytestmark = pytest.mark.usefixtures("op_by_op")
RNG = np.random.default_rng(0)
NAMES = ["sky", "cat", "dog"]
X = RNG.normal(size=(6, 8, 8, 3)).astype("float32")
Y = (X + RNG.normal(0, 0.8, X.shape)).argmax(-1)
Y[:, 0] = 255
KNOWN = Y != 255
CHOSEN = X.argmax(-1)
P = np.exp(X) / np.exp(X).sum(-1, keepdims=True)


def segmenter(logits=False, ignored=255):
    """Says what is greatest at each pixel."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, use_bias=False, name="head")(inputs)
    x = x if logits else layers.Softmax()(x)
    model = keras.Model(inputs, x)
    model.layers[1].set_weights([np.eye(3)[None, None]])
    loss = keras.losses.SparseCategoricalCrossentropy(logits, ignored)
    model.compile("sgd", loss)
    return model


def run(model, data, **options):
    options = {"verbose": 0, "bootstrap": 20, "classes": NAMES, **options}
    return ft.evaluate(model, data, **options)


@pytest.mark.backends
@pytest.mark.parametrize("logits", [False, True])
def test_figures_are_those_of_scikit_learn(logits):
    report = run(segmenter(logits), (X, Y), batch_size=4)
    true, chosen = Y[KNOWN], CHOSEN[KNOWN]
    table = sk.confusion_matrix(true, chosen)
    np.testing.assert_array_equal(report.confusion, table)
    found = report.metrics
    for name, function in (
        ("mean_iou", sk.jaccard_score),
        ("mean_dice", sk.f1_score),
    ):
        mean = function(true, chosen, average="macro")
        assert found[name] == pytest.approx(mean)
        each = function(true, chosen, average=None)
        column = name.removeprefix("mean_")
        rows = [row[column] for row in report.per_class.values()]
        assert rows == pytest.approx(each)
    accuracy = sk.accuracy_score(true, chosen)
    assert found["pixel_accuracy"] == pytest.approx(accuracy)
    assert found["log_loss"] == pytest.approx(sk.log_loss(true, P[KNOWN]))
    low, high = report.intervals["mean_iou"]
    assert low < found["mean_iou"] < high


def test_weights_are_of_pixels_or_of_pictures():
    model, weight = segmenter(), RNG.uniform(0.5, 2, Y.shape)
    by_pixel = run(model, (X, Y, weight))
    options = {"average": "macro", "sample_weight": weight[KNOWN]}
    expected = sk.jaccard_score(Y[KNOWN], CHOSEN[KNOWN], **options)
    assert by_pixel.metrics["mean_iou"] == pytest.approx(expected)
    one = np.arange(6.0)
    whole = run(model, (X, Y, np.broadcast_to(one[:, None, None], Y.shape)))
    pictures = run(model, (X, Y, one)).metrics
    assert pictures == pytest.approx(whole.metrics)


def test_one_sigmoid_tells_two_classes_apart():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Activation("sigmoid")(inputs))
    y = (X[..., :1] + RNG.normal(0, 0.5, (6, 8, 8, 1)) > 0).astype("uint8")
    for threshold in (None, 0.7):
        report = run(
            model, (X[..., :1], y), classes=["no", "yes"], threshold=threshold
        )
        chosen = 1 / (1 + np.exp(-X[..., 0])) > (threshold or 0.5)
        expected = sk.jaccard_score(y.ravel(), chosen.ravel())
        assert report.per_class["yes"]["iou"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("y", "ignored", "words"),
    [
        (Y, None, "hold 255.*ignore_class=255"),
        (Y[:, :4], 255, r"size of those.*\(8, 8\).*\(4, 8\)"),
        (np.where(KNOWN, Y, 3), 255, "go from 0 to 3"),
        (np.stack([Y, Y], -1), 255, "a column for each of 3"),
        (Y[:, 0], 255, "must have the shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(y, ignored, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        run(segmenter(ignored=ignored), (X, y))


def test_a_report_is_kept_compared_and_drawn(tmp_path):
    report = run(segmenter(), (X, Y), worst=5, slices={"odd": np.arange(6) % 2})
    worst = report.worst[0]
    assert worst["input"].shape == (8, 24, 3)
    assert any(text.startswith("cat ") for text in worst["true"])
    again = ft.Report.from_json(report.to_json())
    assert str(again) == str(report) and "mean IoU" in str(report)
    assert ft.compare(report, again).better is None
    again.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Share that is right, by confidence" in page and "<img" in page
    report.plot_confusion(), report.plot_reliability(), report.plot_worst(2)


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_pixels_are_calibrated(method):
    model = segmenter(logits=True)
    model.layers[1].set_weights([9 * np.eye(3)[None, None]])
    before = run(model, (X, Y)).metrics
    calibrated = ft.calibrate(model, (X, Y), method)
    after = run(calibrated, (X, Y)).metrics
    assert after["ece"] < before["ece"] / 2
    assert after["log_loss"] < before["log_loss"] / 2
    if method == "temperature":
        assert after["mean_iou"] == pytest.approx(before["mean_iou"])
    with pytest.raises(ValueError, match="probabilities alone"):
        ft.calibrate(model, (X, Y), coverage=0.9)


LOAD = """
import sys
import numpy as np
import finetune_keras as ft
folder = sys.argv[1]
found = ft.load_bundle(f"{folder}/m.keras").predict([f"{folder}/new.png"])
np.save(f"{folder}/mask.npy", found.labels[0])
print(found.names, found.labels[0].shape)
"""


@pytest.mark.backends
def test_a_bundle_gives_masks_in_the_size_of_the_picture(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same")(layers.Rescaling(1 / 99)(inputs))
    model = keras.Model(inputs, layers.Softmax()(x))
    ft.save_bundle(model, tmp_path / "m.keras", classes=NAMES)
    image = RNG.integers(0, 255, (3, 3, 3)).astype("uint8")
    image = Image.fromarray(image).resize((20, 13), Image.BICUBIC)
    image.save(tmp_path / "new.png")
    process = FreshProcess("-c", LOAD, tmp_path)
    assert process.wait() == 0, process.stderr[-3000:]
    assert process.stdout.split("\n")[-2] == "['new.png'] (13, 20)"
    bundle = ft.load_bundle(tmp_path / "m.keras")
    found = bundle.predict(image)
    np.testing.assert_array_equal(
        np.load(tmp_path / "mask.npy"), found.labels[0]
    )
    pixels = np.asarray(image.resize((8, 8), Image.BILINEAR), "float32")
    scores = model.predict(pixels[None], verbose=0)[0]
    same = bundle.predict(pixels)
    np.testing.assert_array_equal(same.labels[0], scores.argmax(-1))
    np.testing.assert_allclose(same.confidence[0], scores.max(-1), atol=1e-6)
    maps = [
        Image.fromarray(scores[..., i]).resize((20, 13), Image.BILINEAR)
        for i in range(3)
    ]
    np.testing.assert_array_equal(found.labels[0], np.argmax(maps, axis=0))
    shares = found[0]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert found.to_frame()["cat"][0] == shares["cat"]
    assert found.overlay(0).shape == (13, 20, 3)
    assert "20 x 13" in str(found) and found.figure().axes


@pytest.mark.backends
def test_a_bundle_takes_several_inputs_by_name(tmp_path):
    inputs = {
        "depth": keras.Input((8, 8, 1), name="depth"),
        "rgb": keras.Input((8, 8, 3), name="rgb"),
    }
    x = layers.Concatenate()(list(inputs.values()))
    x = layers.Conv2D(3, 3, padding="same", activation="softmax")(x)
    model = keras.Model(inputs, x)
    ft.save_bundle(model, tmp_path / "m.keras", classes=NAMES)
    bundle = ft.load_bundle(tmp_path / "m.keras")
    arrays = {"rgb": X, "depth": X[..., :1]}
    scores = model.predict(arrays, verbose=0)
    found = bundle.predict(arrays)
    np.testing.assert_array_equal(found.labels, scores.argmax(-1))
    assert "8 x 8" in found._repr_html_()
    image = Image.fromarray(RNG.integers(0, 255, (8, 8, 3), "uint8"))
    large = {"depth": [image.resize((20, 13))], "rgb": [image]}
    found = bundle.predict(large)
    assert found.labels[0].shape == (13, 20) and found.names is None
    assert found.overlay(0).shape == (13, 20, 3)
    with pytest.raises(ValueError, match="Leave `overlap` out"):
        bundle.predict(large, overlap=0.5)


@pytest.mark.parametrize("size", [(13, 18), (5, 8)])
def test_windows_that_say_the_same_of_a_pixel_leave_no_seam(size, tmp_path):
    model = segmenter()
    path = ft.save_bundle(model, tmp_path / "m.keras", classes=NAMES)
    bundle = ft.load_bundle(path)
    pixels = RNG.integers(0, 6, (*size, 3)).astype("uint8")
    found = bundle.predict(pixels, overlap=0.5, batch_size=3)
    scores = np.exp(pixels.astype("float64"))
    scores /= scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.confidence[0], scores.max(-1), rtol=1e-5)
    sure = np.sort(scores, -1)
    clear = sure[..., -1] > sure[..., -2]
    labels = pixels.argmax(-1)[clear]
    np.testing.assert_array_equal(found.labels[0][clear], labels)
    with pytest.raises(ValueError, match="less than 1"):
        bundle.predict(pixels, overlap=1)
