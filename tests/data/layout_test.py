"""What is shown is one layout: as text, and as HTML without a stranger's."""

import html.parser
import re

import keras
import numpy as np
import pytest
from PIL import Image

import finetune_keras as ft
from finetune_keras.data.layout import (
    Curves,
    Listing,
    Pictures,
    Shown,
    Table,
    as_text,
)
from finetune_keras.data.layout_html import STYLE, blocks, fragment

pytestmark = pytest.mark.usefixtures("op_by_op")
EVIL = "<script>alert(1)</script>\" onload='x"
DOT = b"\x89PNG\r\n\x1a\n"


class Page(html.parser.HTMLParser):
    """Collects what a page is made of; each tag must be closed."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


class Two(Shown):
    def _layout(self):
        table = Table(["class", "n"], [["cat", 3], ["all", "1,003"]], bars=[1])
        return ["A sentence.", "", table, Listing("Notes: 1", ["one"])]


def test_one_layout_two_forms():
    text = str(Two())
    assert text == (
        "A sentence.\n\nclass      n\n------------\ncat        3\n"
        "all    1,003\nNotes: 1\n  one"
    )
    assert repr(Two()) == text == as_text([Two()])
    page = Page(Two()._repr_html_())
    assert page.tags.count("tr") == 3 and page.tags.count("li") == 1
    # The row of totals has no bar: the others would vanish beside it.
    assert page.tags.count("i") == 1
    assert 'style="width:100.0%"' in fragment([Two()])


def test_text_of_strangers_stays_text():
    curves = Curves(EVIL, EVIL, [(EVIL, [0, 1], [2, 1])], [(0.5, EVIL)])
    pictures = Pictures(EVIL, lambda: [(DOT, EVIL)])
    table = Table([EVIL], [[EVIL], [EVIL]])
    listing = Listing(EVIL, [EVIL])
    page = Page(fragment([EVIL, table, listing, curves, pictures]))
    assert "script" not in page.tags and page.text.count(EVIL) >= 8
    for tag, attributes in page.attributes:
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "img" or attributes["alt"] == EVIL


def test_curves_are_drawn_in_their_frame():
    x, nan = [1, 2, 3, 4], float("nan")
    lines = [("a", x, [4, nan, 2, 1]), ("b", x, [1, 1, 1, 1]), ("c", [], [])]
    page = Page(blocks([Curves("loss", "epoch", lines, [(1, "head")])]))
    paths = [a["d"] for tag, a in page.attributes if tag == "path"]
    # The axes, the mark and two lines; what is not finite is left out.
    assert len(paths) == 4 and [p.count("L") for p in paths[2:]] == [2, 3]
    points = [p.split() for d in paths[2:] for p in d[1:].split("L")]
    assert all(0 <= float(x) <= 400 and 0 <= float(y) <= 200 for x, y in points)
    (svg,) = [a for tag, a in page.attributes if tag == "svg"]
    assert svg["aria-label"] == "loss: a from 4 to 1; b from 1 to 1"
    assert blocks([Curves("loss", "epoch", [("a", [1], [nan])])]) == ""


def test_a_column_of_long_texts_stands_left():
    table = Table(["n", "text", "m"], [[1, "x" * 50, 2], [1, "x", 2]])
    page = Page(blocks([table]))
    cells = [a for tag, a in page.attributes if tag in ("th", "td")]
    assert [a.get("class") for a in cells] == [None, "text", None] * 3


def test_a_long_table_is_cut_in_a_notebook():
    table = Table(["n"], [[i] for i in range(1200)])
    page = Page(blocks([table]))
    assert page.tags.count("td") == 1000 and "and 200 more" in page.text


def test_nothing_is_wider_than_a_phone():
    widths = re.findall(r"width: (\d+)(px|em)", STYLE)
    pixels = [int(n) * {"px": 1, "em": 16}[unit] for n, unit in widths]
    assert all(
        found <= 340 or f"max-width: {n}{unit}" in STYLE
        for found, (n, unit) in zip(pixels, widths, strict=True)
    )
    assert "url(" not in STYLE and "@import" not in STYLE


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog <b>"):
        (folder / name).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 255, (9, 9, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def small_model(classes):
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    return ft.replace_head(backbone, len(classes))


def test_what_a_user_sees(photos):
    data = ft.image_folder(photos, image_size=8, seed=0)
    model = small_model(data.classes)
    plan = ft.Plan([ft.Phase("head", epochs=2, learning_rate=0.01)])
    history = ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    report = ft.evaluate(model, data.test, bootstrap=9, verbose=0)
    shown = {
        "sheet": data,
        "plan": plan,
        "phase": plan[0],
        "groups": ft.layer_groups(model),
        "summary": ft.trainable_summary(model),
        "svg": history,
        "report": report,
        "comparison": ft.compare(report, report, bootstrap=9),
        "advice": ft.search_space(),
    }
    pages = {name: Page(x._repr_html_()) for name, x in shown.items()}
    assert all("table" in page.tags for page in pages.values())
    assert pages["svg"].tags.count("svg") == 2
    assert pages["sheet"].tags.count("img") == len(data.places["train"])
    assert pages["report"].tags.count("img") == 1
    assert "dog <b>/0.png" in data.names
    phase = "Phase('head', epochs=2, learning_rate=0.01)"
    assert repr(plan[0]) == str(plan[0]) == phase
    assert "learning rate" in pages["phase"].text
    # Of files, a report tells the names.
    names = {data.names[i] for i in data.places["test"]}
    assert {entry["name"] for entry in report.worst} == names
    assert report.worst[0]["name"] in str(report)
    assert {one["name"] for one in ft.Report.from_json(report.to_json()).worst}


def test_a_sheet_needs_its_files(photos, tmp_path):
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    data = ft.image_folder(tmp_path / "photos", image_size=8, seed=0)
    text = str(data)
    shutil.rmtree(tmp_path / "photos")
    page = Page(data._repr_html_())
    assert "img" not in page.tags and "cat" in page.text and str(data) == text


def test_answers_have_the_names_of_files(photos, tmp_path):
    model = small_model(["cat", "dog <b>"])
    classes = ["cat", "dog <b>"]
    path = ft.save_bundle(model, tmp_path / "a.keras", classes=classes)
    bundle = ft.load_bundle(path)
    files = [photos / "cat" / "0.png", photos / "cat" / "1.png"]
    found = bundle.predict(files)
    assert found.names == ["0.png", "1.png"] == list(found.to_frame()["name"])
    assert found[1]["name"] == "1.png" and "1.png" in str(found)
    page = Page(found._repr_html_())
    assert page.tags.count("img") == 2 and "1.png" in page.text
    # As much of the folders as tells them apart.
    files.append(str(photos / "dog <b>" / "0.png"))
    assert bundle.predict(files).names[2] == "dog <b>/0.png"
    assert bundle.predict(files[0]).names == ["0.png"]
    assert bundle.predict(np.zeros((2, 8, 8, 3))).names is None


def test_figures_show_without_pyplot():
    import pickle

    sweep = ft.LearningRateSweep([0.1, 0.2, 0.3], [3, 2, 1], [3, 2, 1], False)
    figure = pickle.loads(pickle.dumps(sweep.plot()))
    assert figure._repr_png_().startswith(DOT)
    page = Page(sweep._repr_html_())
    assert "svg" in page.tags and str(sweep) == repr(sweep)
