"""`inspect`: faults that were put into the data, and what they are called."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.search import evidence

pytestmark = pytest.mark.usefixtures("op_by_op")


def identity(columns=4):
    dense = keras.layers.Dense(columns, kernel_initializer="identity")
    return keras.Sequential([keras.Input((columns,)), dense])


def colors():
    """A backbone of photos whose features are their colors."""
    layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255)]
    return keras.Sequential([*layers, keras.layers.Conv2D(3, 1, name="see")])


def table(rows=90):
    """Three clear classes; the labels of 2 and 31 are wrong, 50 is far."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 3
    x = 4 * np.eye(4)[y] + 3 + rng.normal(0, 0.4, (rows, 4))
    x[-40] = [-4, -9, -4, -5]
    names = np.array(["ant", "bee", "wasp"], object)[y]
    names[[2, 31]] = "ant"
    return x, names


def photos():
    """40 photos: 7 is the mirror image of 3, 33 nearly equals 5."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, size=(40, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    x[7] = x[3, :, ::-1]
    x[33] = (x[5] + rng.normal(0, 4, x[5].shape)).clip(0, 255)
    split = np.where(np.arange(40) < 30, "train", "test")
    return x.astype("uint8"), np.arange(40) % 2, split


def of(found, problem):
    return [row for row in found.rows if row["problem"] == problem]


@pytest.mark.backends
def test_wrong_labels_and_outliers_are_listed_by_their_place():
    x, y = table()
    data = ft.from_arrays(x, y, seed=0)
    found = ft.inspect(data, identity(), verbose=0)
    wrong = {row["index"]: row for row in of(found, "label")}
    assert {2, 31} <= set(wrong)
    assert set(found.label_errors.order[:3].tolist()) >= {2, 31}
    assert wrong[2]["label"] == "ant" and wrong[2]["other"] == "wasp"
    assert wrong[31]["other"] == "bee" and wrong[31]["score"] < 0.2
    assert of(found, "outlier")[0]["index"] == 50
    for row in found.rows:
        assert y[row["index"]] == row["label"]
        assert row["name"] == row["index"]
        assert row["index"] in data.places[row["split"]]
    assert found.notes == [
        "Near copies are looked for in texts, and in photos of at least 32 "
        "pixels on a side."
    ]


def test_the_rows_say_which_splits_they_are_of():
    x, y, split = photos()
    data = ft.from_arrays(x, y, split=split)
    found = ft.inspect(data, colors(), batch_size=16, verbose=0)
    across, within = of(found, "copy")
    assert (across["index"], across["original"]) == (33, 5)
    assert across["split"] == "test" and 0.95 < across["score"] < 1
    assert (within["index"], within["original"]) == (7, 3)
    assert within["split"] == "train" and within["other"] == 3
    text = str(found)
    assert "Near copies: 2, 1 of something in another split" in text
    (line,) = [one for one in text.splitlines() if one.startswith("33 ")]
    assert line.split()[1:5] == ["test", "1", "5", "(train)"]


def test_dropping_the_copies_leaves_none():
    x, y, split = photos()
    x[20] = x[7]
    found = ft.inspect(ft.from_arrays(x, y, split=split), colors(), verbose=0)
    drop = [row["index"] for row in of(found, "copy")]
    assert sorted(drop) == [7, 20, 33]
    x, y, split = (np.delete(part, drop, axis=0) for part in (x, y, split))
    found = ft.inspect(ft.from_arrays(x, y, split=split), colors(), verbose=0)
    assert not of(found, "copy")


def test_between_two_classes():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = np.eye(4)[y] * 6 + rng.normal(0, 0.3, (60, 4))
    x[4] = [3, 3, 0, 0]
    found = ft.inspect(ft.from_arrays(x, y), identity(), verbose=0)
    rows = of(found, "ambiguous")
    assert [row["index"] for row in rows] == [4]
    assert rows[0]["other"] == "1" and rows[0]["score"] < 0.1


def test_files_have_paths_and_a_sheet(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / ("train", "test")[i > 7] / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, size=(8, 8, 3)).astype("uint8")
        Image.fromarray(pixels).resize((50, 50)).save(folder / f"{i}.jpg")
    with Image.open(tmp_path / "train/a/2.jpg") as image:
        image.resize((40, 40)).save(tmp_path / "test/b/small.png")
    data = ft.image_folder(tmp_path, 32, validation_split=0, verbose=0)
    found = ft.inspect(data, colors(), verbose=0)
    (row,) = of(found, "copy")
    assert row["path"] == str(tmp_path / "test/b/small.png")
    assert row["name"] == "test/b/small.png" and row["label"] == "b"
    assert row["other"] == "train/a/2.jpg"
    (axes,) = found.plot("copy").axes
    assert axes.images[0].get_array().shape == (32, 64, 3)
    assert "copy of train/a/2.jpg" in axes.get_title()


def test_texts(small_bert):
    texts = [f"{word} film {i}" for i in range(10) for word in ("good", "bad")]
    texts[13] = "Good FILM: 0!"
    data = ft.from_arrays(texts, ["pos", "neg"] * 10, seed=0)
    backbone = ft.text_backbone(*small_bert, sequence_length=8)
    found = ft.inspect(data, backbone, batch_size=20, verbose=0)
    (row,) = of(found, "copy")
    assert {row["index"], row["original"]} == {0, 13} and row["score"] == 1
    text = found.plot("copy").axes[0].texts[0].get_text()
    assert "good film 0" in text and "Good FILM: 0!" in text


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks_have_no_wrong_labels(task):
    x, _ = table()
    y = x[:, :2] > 5 if task == "multi_label" else x[:, 0]
    data = ft.from_arrays(x, y.astype("float32"), task=task)
    found = ft.inspect(data, identity(), verbose=0)
    assert {row["problem"] for row in found.rows} == {"outlier"}
    assert found.rows[0]["index"] == 50
    assert found.label_errors is None
    assert found.notes[-1].startswith("Labels are judged of a classification")
    assert str(found).endswith(found.notes[-1])


def test_many_examples_are_judged_in_parts(monkeypatch):
    x, y = table()
    data = ft.from_arrays(x, y, seed=0)
    monkeypatch.setattr(evidence, "MOST_ROWS", 50)
    found = ft.inspect(data, identity(), verbose=0)
    assert {2, 31} <= {row["index"] for row in of(found, "label")}


def test_equal_and_few_examples_are_no_outliers():
    features = np.ones((12, 3))
    features[:3] = [[1, 2, 3]]
    assert not evidence.distances(features).any()
    features = np.repeat(table()[0], 40, axis=0)
    assert np.isfinite(evidence.distances(features)).all()
    assert evidence.distances(features).argmax() // 40 == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": (np.zeros((3, 4)), [0, 1, 0])}, "must be `DataSplits`"),
        ({"model": 3}, "`keras.Model`"),
        ({"batch_size": 0}, "`batch_size`"),
    ],
)
def test_refusals(arguments, message):
    data = ft.from_arrays(*table())
    arguments = {"data": data, "model": identity(), **arguments}
    with pytest.raises(ValueError, match=message):
        ft.inspect(**arguments, verbose=0)


def test_a_sheet_of_nothing_is_refused():
    data = ft.from_arrays(*table())
    found = ft.inspect(data, identity(), verbose=0)
    with pytest.raises(ValueError, match="No example has this problem"):
        found.plot("copy")
    with pytest.raises(ValueError, match="`problem` must be one of"):
        found.plot("copies")


def test_a_model_that_writes_reads_texts_by_its_backbone(small_writer):
    texts = np.array(["a b", "b a", "is a", "no b"] * 5)
    data = ft.from_arrays(texts, np.arange(20) % 2, seed=0)
    writer = small_writer(layers=1)
    found = ft.inspect(data, writer, verbose=0)
    expected = ft.inspect(data, ft.text_backbone(writer), verbose=0)
    assert found.rows and found.rows == expected.rows
