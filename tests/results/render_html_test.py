"""One HTML file, safe whatever the data say."""

import base64
import html.parser
import io
import re
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

import finetune_keras as ft
from finetune_keras.results.evaluation import evaluate

EVIL = '<script>alert(1)</script><img src="https://evil.example/x.png">'
ATTRIBUTE = "\" onload='alert(1)' x=\"&amp;"
CLASSES = [EVIL, ATTRIBUTE, "$\\frac{broken$ \u202e\x00\ud800"]


class Page(html.parser.HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        attributes = dict(attributes)
        # Who sees no picture hears of it; what is wide scrolls by itself.
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or attributes["aria-label"]
        assert tag != "table" or ("div", "wide") in self.open
        if tag not in ("meta", "img"):
            self.open.append((tag, attributes.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data

    @property
    def pictures(self):
        sources = [v for k, v in self.attributes if k == "src"]
        return [
            Image.open(io.BytesIO(base64.b64decode(s.split(",", 1)[1])))
            for s in sources
        ]


TAGS = (
    "html head meta title style body main section h1 h2 p div span b i ul li "
    "table thead tbody tr th td img figure figcaption svg path circle text"
)
NAMES = (
    "lang charset name content http-equiv class src alt scope style tabindex "
    "viewbox role aria-label d x y cx cy r text-anchor stroke-dasharray"
)


def check(path):
    """What holds for every page."""
    source = path.read_text("utf-8")
    page = Page(source)
    assert page.open == []
    assert set(page.tags) <= set(TAGS.split())
    assert {name for name, _ in page.attributes} <= set(NAMES.split())
    for name, value in page.attributes:
        assert name != "src" or value.startswith("data:image/")
        shade = r"(background:rgb\(76 143 214/[01].\d\d\)|width:[\d.]+%)"
        assert name != "style" or re.fullmatch(shade, value)
    style = source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    assert "tabular-nums" in style
    assert ("content", "width=device-width, initial-scale=1") in page.attributes
    for picture in page.pictures:
        picture.load()
    return page


def softmax_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])


def test_names_are_text(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), np.arange(30) % 3
    model = softmax_model()
    model.name = EVIL
    scale = keras.layers.Identity(name="calibration")
    scale.facts = {EVIL: ATTRIBUTE}
    model = keras.Sequential([keras.Input((3,)), scale, keras.layers.Softmax()])
    report = evaluate(
        model,
        (x, y),
        classes=CLASSES,
        slices={EVIL: np.array([EVIL, ATTRIBUTE])[y % 2]},
        bootstrap=10,
        verbose=0,
    )
    report.model = EVIL
    report.notes.append(EVIL)
    report.to_html(tmp_path / "report.html")
    page = check(tmp_path / "report.html")
    assert page.text.count("<script>alert(1)") >= 5
    assert "Highest losses" in page.text and "Confusion" in page.text
    # The curve of the calibration.
    assert page.tags.count("svg") == 1 and "by confidence" in page.text


def test_images_become_small_pictures(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 300, 200, 3)).astype("uint8")
    inputs = keras.Input((300, 200, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Softmax()(pooled))
    report = evaluate(
        model, (x, np.arange(12) % 3), bootstrap=0, worst=7, verbose=0
    )
    report.to_html(tmp_path / "report.html")
    page = check(tmp_path / "report.html")
    thumbnails = [p for p in page.pictures if p.format == "JPEG"]
    # Seven were kept; at most a fifth of all is shown as the worst.
    assert [picture.size for picture in thumbnails] == [(107, 160)] * 2


def test_a_text_of_a_megabyte(tmp_path):
    texts = ["word " * 200_000 + "</td><script>", "short & <b>", "é" * 900]
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            keras.layers.TextVectorization(
                vocabulary=["word"], output_mode="multi_hot"
            ),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    # A fifth is shown as the worst: the three, which alone are wrong.
    texts += ["word"] * 12
    report = evaluate(model, (texts, [0, 1] * 7 + [0]), bootstrap=0, verbose=0)
    right = report.predictions.y_pred
    labels = np.where(np.arange(15) < 3, 1 - right, right)
    report = evaluate(model, (texts, labels), bootstrap=0, verbose=0)
    start = time.perf_counter()
    report.to_html(tmp_path / "report.html")
    assert time.perf_counter() - start < 10
    page = check(tmp_path / "report.html")
    assert "… (1,000,013 characters)" in page.text
    assert "short & <b>" in page.text
    assert "é" * 900 in page.text
    assert (tmp_path / "report.html").stat().st_size < 200_000


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks(task, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((20, 3))
    y = (x > 0.4).astype(float)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    report = evaluate(
        model,
        (x, y),
        task=task,
        classes=CLASSES,
        slices={"a": np.arange(20) % 2},
        bootstrap=10,
        verbose=0,
    )
    report.to_html(tmp_path / "report.html")
    page = check(tmp_path / "report.html")
    assert page.pictures == [] and "By a" in page.text


def test_an_old_page_is_replaced(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    x, y = np.eye(3), np.arange(3)
    report = evaluate(softmax_model(), (x, y), bootstrap=0, verbose=0)
    report.to_html(str(path))
    check(path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_without_matplotlib(tmp_path, monkeypatch):
    x, y = np.eye(3), np.arange(3)
    report = evaluate(softmax_model(), (x, y), bootstrap=0, verbose=0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"finetune_keras\[plots\]"):
        report.plot_confusion()
    report.to_html(tmp_path / "report.html")
    assert check(tmp_path / "report.html").tags.count("svg") == 1


@pytest.mark.usefixtures("op_by_op")
def test_a_page_with_all_in_it(judged):
    report, path = judged
    page = check(path)
    decided = report.coverage["decided"]
    assert 0 < decided < 40
    assert len(report.coverage["abstained"]) == 40 - decided
    for words in (
        f"right on {100 * report.metrics['accuracy']:.1f} % of 40 examples",
        f"Decides on {decided} of 40 examples",
        "would have said",
        "cat <b>",
        "validation",
        "parameters",
        "What spoke for these predictions",
        "learning_rate",
    ):
        assert words in page.text
    # Reliability, loss and accuracy; a fifth of 40, eight of the data, one
    # figure.
    assert page.tags.count("svg") == 3 and page.tags.count("img") == 8 + 8 + 1
    assert "Decides on" in str(report)
    again = ft.Report.from_json(report.to_json())
    assert again.coverage == report.coverage and str(again) == str(report)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_coverage_is_that_of_the_decisions(activation):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 1 if activation == "sigmoid" else 3))
    model = keras.Sequential(
        [keras.Input(logits.shape[1:]), keras.layers.Activation(activation)]
    )
    y = rng.integers(0, 2, 50)
    options = {} if activation == "sigmoid" else {"conformal": 0.7}
    model = ft.calibrate(model, (logits, y), coverage=0.6, **options)
    report = evaluate(model, (logits, y), bootstrap=0, verbose=0)
    answers = ft.Predictions(
        model.predict(logits, verbose=0), report.task, model.layers[-1]
    )
    left, facts = answers.abstained, report.coverage
    assert 0 < left.sum() < 50 and facts["decided"] == 50 - left.sum()
    assert {x["index"] for x in facts["abstained"]} == set(np.flatnonzero(left))
    pairs = list(zip(answers.labels, y, strict=True))
    right = [int(label) == true for label, true in pairs if label is not None]
    assert facts["right"] == pytest.approx(np.mean(right))
    if answers.sets is not None:
        pairs = zip(y, answers.sets, strict=True)
        holds = [str(true) in one for true, one in pairs]
        assert facts["sets_hold_truth"] == pytest.approx(np.mean(holds))
        assert facts["set_size"] == np.mean([len(s) for s in answers.sets])


def test_of_many_classes_the_confusions_are_listed(tmp_path):
    x, y = np.eye(20), np.arange(20)
    y[:3] = 7
    model = keras.Sequential([keras.Input((20,)), keras.layers.Softmax()])
    report = evaluate(model, (x, y), bootstrap=0, verbose=0)
    report.to_html(tmp_path / "report.html")
    page = check(tmp_path / "report.html")
    assert "of the class" in page.text and "25.0 %" in page.text
