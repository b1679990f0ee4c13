"""One HTML file, safe whatever the data say."""

import base64
import html.parser
import io
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

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
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    @property
    def pictures(self):
        sources = [v for k, v in self.attributes if k == "src"]
        return [
            Image.open(io.BytesIO(base64.b64decode(s.split(",", 1)[1])))
            for s in sources
        ]


def check(path):
    """What holds for every page."""
    page = Page(path.read_text("utf-8"))
    assert page.open == []
    known = "html head meta title style body h1 h2 p table tr th td img"
    assert set(page.tags) <= set(known.split())
    names = {name for name, _ in page.attributes}
    assert names <= {"lang", "charset", "content", "http-equiv", "class"} | {
        "src",
        "alt",
    }
    for name, value in page.attributes:
        assert name != "src" or value.startswith("data:image/")
    style = path.read_text("utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
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
    assert len(page.pictures) == 2
    assert "Highest losses" in page.text and "Reliability" in page.text


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
    assert [picture.size for picture in thumbnails] == [(107, 160)] * 7


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
    report = evaluate(model, (texts, [0, 1, 0]), bootstrap=0, verbose=0)
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
        report.to_html(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
