"""Detectors: other classes, training, mAP, reports and bundles."""

import json

import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.detection import Detection, padded
from finetune_keras.models.detectors import BoxFinder
from finetune_keras.results.average_precision import (
    detection_statistic,
    score_each_class,
)
from finetune_keras.results.box_predictions import BoxPredictions
from finetune_keras.results.outcomes import Outcomes
from finetune_keras.testing.processes import FreshProcess

pytestmark = pytest.mark.usefixtures("op_by_op")
CLASSES = ["disc", "square", "star"]


# === Mean average precision ===


def scenes(seed=0, pictures=50, classes=3):
    """True boxes and predicted ones, near, wrong, twice and missing."""
    rng = np.random.default_rng(seed)
    true = np.full((pictures, 8, 5), -1.0, "float32")
    said = np.full((pictures, 30, 6), -1.0, "float32")
    for picture in range(pictures):
        n, k = rng.integers(0, 8), 0
        low, size = rng.integers(0, 80, (n, 2)), rng.integers(8, 40, (n, 2))
        ids = rng.integers(0, classes, (n, 1))
        true[picture, :n] = np.concatenate([low, low + size, ids], 1)
        for row in true[picture, :n]:
            for _ in range(rng.integers(0, 4)):
                known = rng.random() < 0.8
                place = row[4] if known else rng.integers(0, classes)
                box = row[:4] + np.round(rng.normal(0, 3, 4) * 4) / 4
                box[2:] = np.maximum(box[2:], box[:2] + 1)
                said[picture, k] = [*box, place, np.round(rng.random(), 2)]
                k += 1
        for _ in range(rng.integers(0, 4)):
            low = rng.integers(0, 80, 2)
            box = [*low, *(low + rng.integers(5, 40, 2))]
            place = rng.integers(0, classes)
            said[picture, k] = [*box, place, np.round(rng.random(), 2)]
            k += 1
    return true, said


def outcomes_of(true, said, names=CLASSES):
    return Outcomes(true, said, Detection(names, len(names)))


# What pycocotools 2.0.11 finds in these scenes.
OF_PYCOCOTOOLS = {
    "map_50_95": 0.12019640517505278,
    "map_50": 0.34973329972228784,
}
OF_EACH = [
    (0.133843419096121, 0.403035082347952),
    (0.11291230951421379, 0.308172864429044),
    (0.11383348691482353, 0.33799195238986746),
]


def test_map_is_that_of_pycocotools():
    outcomes = outcomes_of(*scenes())
    found = detection_statistic(outcomes)(np.ones((1, 50)))
    assert {k: v[0] for k, v in found.items()} == pytest.approx(
        OF_PYCOCOTOOLS, abs=1e-12
    )
    table = score_each_class(outcomes).values()
    rows = [(row["ap_50_95"], row["ap_50"]) for row in table]
    np.testing.assert_allclose(rows, OF_EACH, atol=1e-12)


def test_map_is_that_of_the_pycocotools_here():
    coco = pytest.importorskip("pycocotools.coco")
    judge = pytest.importorskip("pycocotools.cocoeval")
    true, said = scenes(seed=7)
    marks, found = [], []
    for i, (boxes, others) in enumerate(zip(true, said, strict=True), start=1):
        for row in boxes[boxes[:, 4] >= 0].astype("float64"):
            marks.append({**marked(i, row), "id": len(marks) + 1, "iscrowd": 0})
        for row in others[others[:, 4] >= 0].astype("float64"):
            found.append({**marked(i, row), "score": row[5]})
    api = coco.COCO()
    api.dataset = {
        "images": [{"id": i} for i in range(1, 51)],
        "categories": [{"id": i} for i in range(3)],
        "annotations": marks,
    }
    api.createIndex()
    evaluation = judge.COCOeval(api, api.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    mine = detection_statistic(outcomes_of(true, said))(np.ones((1, 50)))
    both = [mine["map_50_95"][0], mine["map_50"][0]]
    np.testing.assert_allclose(both, evaluation.stats[:2], atol=1e-6)


def marked(image, row):
    left, top, right, bottom = row[:4]
    box = [left, top, right - left, bottom - top]
    return {
        "image_id": image,
        "category_id": int(row[4]),
        "bbox": box,
        "area": box[2] * box[3],
    }


def test_weights_are_pictures_drawn_twice():
    true, said = scenes(seed=3, pictures=12)
    # No two scores alike, which nothing could order.
    said[..., 5] += np.arange(said[..., 5].size).reshape(12, -1) * 1e-4
    twice = np.repeat(np.arange(12), 2)
    weights = np.full((1, 12), 2.0)
    one = detection_statistic(outcomes_of(true, said))(weights)
    other = detection_statistic(outcomes_of(true[twice], said[twice]))(
        np.ones((1, 24))
    )
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-6)


def test_classes_without_boxes_have_no_precision():
    true = padded([[[0, 0, 9, 9, 0]], []], 5)
    said = padded([[[0, 0, 9, 9, 0, 0.9], [1, 1, 5, 5, 2, 0.8]], []], 6)
    outcomes = outcomes_of(true, said)
    found = detection_statistic(outcomes)(np.eye(2))
    np.testing.assert_array_equal(found["map_50"], [1.0, np.nan])
    assert score_each_class(outcomes)["star"]["ap_50"] is None
    # Of the first picture one box is too many.
    np.testing.assert_array_equal(outcomes.losses, [1, 0])


# === Detectors ===

SIDE = 32


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")


def make_detector(hub, num_classes=2, preprocessor=True, **options):
    shape = SIDE, SIDE, 3
    encoder = hub.models.DenseNetBackbone(
        stackwise_num_repeats=[1, 1],
        compression_ratio=0.5,
        growth_rate=8,
        image_shape=shape,
    )
    backbone = hub.models.RetinaNetBackbone(
        encoder, min_level=3, max_level=3, use_p5=False, image_shape=shape
    )
    if preprocessor:
        converter = hub.layers.RetinaNetImageConverter(
            image_size=(SIDE, SIDE), scale=1 / 255, bounding_box_format="yxyx"
        )
        make = hub.models.RetinaNetObjectDetectorPreprocessor
        options["preprocessor"] = make(converter)
    return hub.models.RetinaNetObjectDetector(
        backbone, num_classes, pre_logits_num_conv_layers=1, **options
    )


@pytest.fixture(scope="module")
def detector(hub):
    model = make_detector(hub)
    # Its boxes are its anchors.
    bias = model.box_head.prediction_layer.bias
    bias.assign(np.zeros(bias.shape))
    return model


@pytest.fixture(scope="module")
def bundled(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "boxes.keras"
    return ft.save_bundle(detector, path, classes=CLASSES[:2])


def some_pictures(count=4, side=SIDE):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (count, side, side, 3)).astype("float32")
    boxes = np.full((count, 2, 4), -1.0, "float32")
    labels = np.full((count, 2), -1, "int32")
    boxes[:, 0], labels[:, 0] = [2, 4, 26, 30], np.arange(count) % 2
    boxes[0, 1], labels[0, 1] = [10, 0, 30, 12], 1
    return x, {"boxes": boxes, "labels": labels}


@pytest.mark.parametrize("num_classes", [3, 2])
def test_other_classes_keep_all_other_weights(detector, num_classes):
    new = ft.replace_head(detector, num_classes)
    assert type(new) is type(detector) and new.num_classes == num_classes
    assert new.backbone is detector.backbone
    pairs = zip(detector.weights, new.weights, strict=True)
    changed = [new.path for old, new in pairs if not np.array_equal(old, new)]
    assert len(changed) == 2
    assert all("classification_head" in path for path in changed)
    # Behind the prior of a class, as the paper has it.
    logits = new.classification_head.prediction_layer
    np.testing.assert_allclose(logits.bias, np.log(0.01 / 0.99), rtol=1e-6)


def test_a_detector_has_no_other_head(detector):
    with pytest.raises(ValueError, match="A detector keeps its heads"):
        ft.replace_head(detector, 3, pooling="max")
    with pytest.raises(ValueError, match="`num_classes` must be"):
        ft.replace_head(detector, 0)


def test_a_plan_trains_the_heads_and_then_all(detector):
    model, data = ft.replace_head(detector, 2), some_pictures()
    backbone = [np.array(w) for w in model.backbone.weights]
    head = ft.Plan([ft.Phase("head", epochs=1, learning_rate=1e-3)])
    history = ft.fine_tune(model, head, data, data, verbose=0)
    assert len(history.epochs) == 1
    for before, after in zip(backbone, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(before, after)


def wrong(**changes):
    x, y = some_pictures()
    return x, {**y, **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((some_pictures()[0], np.zeros(4)), "dict of `boxes` and `labels`"),
        (wrong(labels=np.full((4, 2), 2)), "go from 2 to 2"),
        (wrong(boxes=np.ones((4, 3, 4))), "batches of boxes"),
        (
            wrong(boxes=np.tile([4.0, 4, 3, 3], (4, 2, 1))),
            "4|5 of 5 boxes of `train` are empty or no numbers, read as 'yxyx'",
        ),
    ],
)
def test_boxes_that_do_not_fit_are_refused(detector, data, message):
    with pytest.raises(ValueError, match=message):
        ft.fine_tune(detector, ft.plans.full(epochs=1), data, verbose=0)


def test_boxes_beyond_all_bounds_are_drawn():
    x = np.full((9, 9, 3), 99.0)
    boxes = [[-1e30, 2, 1e30, 1e30], [np.nan, 0, 3, 3], [3, 3, np.inf, 5]]
    found = Detection(CLASSES, 3).drawn(
        x, np.full((1, 5), -1.0), np.array([[*box, 1, 0.9] for box in boxes])
    )
    assert (found != 99).any() and found.shape[-1] == 3


class Said:
    """In the place of `decode_predictions`: what a detector has found."""

    def __init__(self, boxes, labels, scores):
        self.found = {
            "boxes": np.array(boxes, "float32"),
            "labels": np.array(labels),
            "confidence": np.array(scores, "float32"),
        }
        self.least = []

    def __call__(self, model):
        def decode(raw, images):
            self.least.append(model.prediction_decoder.confidence_threshold)
            count = len(images)
            return {name: part[:count] for name, part in self.found.items()}

        return decode


@pytest.fixture
def judged(detector, monkeypatch):
    """A detector that finds the first boxes, and one that is not there."""
    boxes = np.tile([[3, 4, 26, 30], [0, 0, 8, 8.0]], (4, 1, 1))
    labels = np.stack([np.arange(4) % 2, [0, -1, -1, -1]], 1)
    said = Said(boxes, labels, np.tile([0.9, 0.6], (4, 1)))
    monkeypatch.setattr(detector, "decode_predictions", said(detector))
    return detector, said


def test_report(judged, tmp_path):
    model, said = judged
    report = ft.evaluate(
        model, some_pictures(), CLASSES[:2], bootstrap=50, verbose=0
    )
    assert report.task == "detection" and said.least == [0.01]
    assert model.prediction_decoder.confidence_threshold == 0.5
    # An overlap of 23 / 24, but of two boxes of the square's one is missed.
    assert report.per_class["disc"] == {"n": 2, "ap_50_95": 1, "ap_50": 1}
    assert report.per_class["square"]["n"] == 3
    assert 0.6 < report.per_class["square"]["ap_50"] < 0.7
    assert report.intervals["map_50"][0] <= report.metrics["map_50"] < 1
    worst = report.worst[0]
    assert (worst["index"], worst["loss"]) == (0, 2)
    assert worst["true"] == ["disc", "square"]
    assert worst["predicted"] == ["disc x 2"]
    green, red = (60, 200, 80), (235, 60, 50)
    for colour in (green, red):
        assert (worst["input"] == colour).all(axis=-1).sum() > 100
    path = tmp_path / "report.json"
    report.to_json(path)
    again = ft.Report.from_json(path)
    assert str(again) == str(report) and "mAP 50-95" in str(report)
    report.to_html(tmp_path / "report.html")
    assert ft.compare(report, again, bootstrap=50).better is None
    record = {**json.loads(path.read_text()), "classes": ["one"]}
    with pytest.raises(ValueError, match="unknown classes"):
        ft.Report.from_json(json.dumps(record))


def test_bundle_gives_boxes_in_the_size_of_the_picture(
    bundled, judged, tmp_path, monkeypatch
):
    image = pytest.importorskip("PIL.Image")
    bundle, said = ft.load_bundle(bundled), judged[1]
    assert bundle.task == "detection" and bundle.facts["image_size"] == [32, 32]
    said = said(bundle.model)
    monkeypatch.setattr(bundle.model, "decode_predictions", said)
    # Twice as wide as the picture that the model sees, and three times as high.
    pixels = np.zeros((96, 64, 3), "uint8")
    image.fromarray(pixels).save(tmp_path / "a.png")
    found = bundle.predict([tmp_path / "a.png", pixels])
    assert found.labels == [["disc", "disc"], ["square"]]
    np.testing.assert_allclose(found.boxes[0][0], [8, 9, 60, 78], atol=1e-4)
    np.testing.assert_allclose(found[1]["scores"], [0.9])
    assert found.to_frame().shape == (3, 7) and "square" in str(found)
    assert len(found._sheet()) == 2 and "no box" not in str(found)
    nothing = BoxPredictions([np.zeros((0, 6))], bundle.task)
    assert "1 of 1 pictures have no box with a score over 0.5" in str(nothing)
    with pytest.raises(ValueError, match="offsets of its anchors"):
        bundle.export(str(tmp_path / "served"))


def test_bundle_in_a_fresh_process(detector, bundled, tmp_path):
    pixels = some_pictures(1)[0][0].astype("uint8")
    np.save(tmp_path / "pixels.npy", pixels)
    script = tmp_path / "ask.py"
    script.write_text(
        "import numpy as np, finetune_keras as ft\n"
        f"bundle = ft.load_bundle({str(bundled)!r})\n"
        "bundle.model.prediction_decoder.confidence_threshold = 0.01\n"
        f"found = bundle.predict([np.load({str(tmp_path / 'pixels.npy')!r})])\n"
        f"np.save({str(tmp_path / 'found.npy')!r}, found.boxes[0])\n"
    )
    process = FreshProcess(script)
    assert process.wait() == 0, process.stderr[-3000:]
    (here,) = BoxFinder(detector, every=True)(pixels[None])
    assert len(here) > 1
    found = np.load(tmp_path / "found.npy")
    boxes = np.clip(here[:, :4], 0, SIDE)
    np.testing.assert_allclose(found, boxes, rtol=1e-4, atol=1e-4)


def test_data_of_another_format_are_refused(detector):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(some_pictures()).batch(2)
    data.bounding_box_format = "xyxy"
    for verb in (
        lambda: ft.evaluate(detector, data, verbose=0),
        lambda: ft.fine_tune(detector, ft.plans.full(epochs=1), data),
    ):
        with pytest.raises(ValueError, match="format 'xyxy', and the detector"):
            verb()
