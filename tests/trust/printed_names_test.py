"""Names of strangers cannot reach a terminal, a file or a page as more."""

import json
import os
import re

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.printable import as_file_name, as_markdown
from finetune_keras.data.table import format_table
from finetune_keras.training.progress import Progress
from finetune_keras.training.run_state import RunState

# Clears a terminal, writes a title, rings, turns the direction, ends a line.
EVIL = "a\x1b[2J\x1b]0;owned\x07\u202eb\nc\r\x9bd"
CLASSES = ["good", EVIL]


@pytest.fixture(scope="module")
def trained():
    """A model with an evil class, its history and its report."""
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(2, activation="softmax", name="head")(inputs)
    model = keras.Model(inputs, outputs)
    x = np.linspace(-1, 1, 24).reshape(8, 3).astype("float32")
    plan = ft.Plan([ft.Phase("all", 1, 1e-2)])
    history = ft.fine_tune(model, plan, (x, np.arange(8) % 2), verbose=0)
    report = ft.evaluate(
        model,
        (x, np.arange(8) % 2),
        classes=CLASSES,
        slices={EVIL: np.array([EVIL] * 8)},
        verbose=0,
    )
    # TensorFlow alone is strict with names when it trains.
    model.name = report.model = "m](a.example)<b>\x1b[31m"
    history.phases[0]["name"] = f"${EVIL}$"
    return model, plan, history, report, x


def assert_plain(text):
    bad = [c for c in text if c != "\n" and not c.isprintable()]
    assert not bad, (bad, text)


def test_a_class_name_cannot_steer_the_terminal(tmp_path, trained, capsys):
    model, plan, history, report, x = trained
    plain = keras.Model(model.inputs, model.outputs)
    ft.save_bundle(plain, tmp_path / "a.keras", classes=CLASSES)
    bundle = ft.load_bundle(tmp_path / "a.keras")
    assert bundle.predict(x).classes == CLASSES
    print(bundle, bundle.predict(x), report, repr(report), plan, history)
    print(ft.trainable_summary(model), ft.Plan([ft.Phase([EVIL], 1, 1e-2)]))
    place = RunState(None)
    place.enter(0, plan[0])
    place.phase["cache"] = EVIL
    progress = Progress(plan, 2, ft.layer_groups(model), place)
    progress.begin_phase(ft.Phase([EVIL], 1, 1e-2))
    progress.begin_fit(None)
    progress.begin_epoch(0)
    progress.end_epoch(0, {"seconds": 1.0, EVIL: 0.5})
    print(ft.compare(report, report))
    assert_plain(capsys.readouterr().out)


def test_a_folder_name_cannot_steer_the_terminal(tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos\x1b[2J"
    for name in ("good", "b\x1b[31mad"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((4, 4, 3), 9 * i + len(name), "uint8")
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
        (folder / name / "broken\x07.png").write_bytes(b"\x89PNG")
    data = ft.image_folder(folder, image_size=4, seed=0, verbose=1)
    # Between them stands the bar of Keras, which moves the cursor.
    first, _ = capsys.readouterr().out.split("\n", 1)
    assert first.startswith("Checking 10 files in")
    print(data)
    assert_plain(first + capsys.readouterr().out)


def test_a_cell_stays_one_line_of_its_table():
    table = format_table(["class"], [["a\nb\tc"], ["d"]])
    assert table.split("\n") == ["class", "-----", "a b c", "d    "]


def test_a_report_name_cannot_leave_the_folder(tmp_path, trained):
    model, plan, history, report, _ = trained
    folder = tmp_path / "deep" / "run"
    names = ["../../x", "/etc/x", "a/b", "A_B", ".\0", "ü" * 300]
    ft.save_record(
        folder, model, history, plan, reports=dict.fromkeys(names, report)
    )
    assert os.listdir(tmp_path) == ["deep"]
    assert os.listdir(tmp_path / "deep") == ["run"]
    figures = [n for n in os.listdir(folder) if n.endswith("_confusion.png")]
    assert len(figures) == len(names)
    assert_plain("".join(figures))
    # Programs read the names as they were given.
    record = json.loads((folder / "record.json").read_text())
    assert list(record["reports"]) == names


def test_names_stand_for_themselves_on_the_model_card(tmp_path, trained):
    model, plan, history, report, _ = trained
    names = ["[x](http://a.example)", "a\n# Safe for children", "<img src=x>"]
    ft.save_record(
        tmp_path, model, history, plan, reports=dict.fromkeys(names, report)
    )
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert_plain(card)
    # Without what stands as code: the title, the tables, the environment.
    prose = re.sub(r"(?s)(`+)(?!`).*?(?<!`)\1(?!`)", "", card)
    assert "http:" not in prose and "<" not in prose
    assert "# Safe" not in prose
    links = re.findall(r"\]\(([^)]*)\)", prose)
    assert len(links) == 1 + len(names)
    assert all(re.fullmatch(r"[\w%.-]+\.png", link) for link in links)


@pytest.mark.parametrize(
    "name, shown",
    [
        ("small_model 2", "small_model 2"),
        ("www.a.example", "`www.a.example`"),
        ("a`b", "`` a`b ``"),
        ("``", "``` `` ```"),
        ("a\n# b", "`a # b`"),
        ("", "``"),
    ],
)
def test_a_name_in_markdown(name, shown):
    assert as_markdown(name) == shown


def test_a_name_in_a_file_name():
    assert as_file_name("../../x") == "_.._x"
    assert as_file_name("...") == "_"
    assert as_file_name("test-set.v2") == "test-set.v2"
