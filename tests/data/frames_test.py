"""Tables, csv files and arrays."""

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from finetune_keras.data.arrays import from_arrays
from finetune_keras.data.csv_files import from_csv
from finetune_keras.data.frames import from_frame
from finetune_keras.testing.processes import FreshProcess

RNG = np.random.default_rng(0)


def table(count=60):
    return pd.DataFrame(
        {
            "age": RNG.integers(20, 90, count),
            "weight": RNG.normal(70, 9, count),
            "text": [f"note {i}" for i in range(count)],
            "hospital": [f"H{i % 6}" for i in range(count)],
            "ill": ["yes" if i % 3 else "no" for i in range(count)],
            "stay": RNG.normal(5, 1, count),
            "tags": [["a"], ["a", "b"], []] * (count // 3),
        }
    )


def all_of(dataset):
    x, y = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


def test_columns_of_numbers():
    frame = table()
    data = from_frame(frame, ["age", "weight"], "ill")
    assert (data.task, data.classes) == ("classification", ["no", "yes"])
    x, y = all_of(data.test)
    rows = [int(t.split()[1]) for t in data.columns["test"]["text"]]
    expected = frame.loc[rows, ["age", "weight"]].to_numpy("float32")
    np.testing.assert_array_equal(x, expected)
    names = frame.loc[rows, "ill"].tolist()
    assert [data.classes[i] for i in y] == names
    assert set(data.columns["train"]) == {"text", "hospital", "stay", "tags"}
    assert x.dtype == np.float32


def test_texts_values_and_lists():
    frame = table()
    data = from_frame(frame, "text", "stay")
    assert (data.task, data.classes, data.class_weight) == (
        "regression",
        None,
        None,
    )
    assert all_of(data.validation)[0][0].startswith(b"note")
    data = from_frame(frame, "text", "tags")
    assert (data.task, data.classes) == ("multi_label", ["a", "b"])
    assert sum(c["a"] for c in data.counts.values()) == 40
    assert "all" in str(data)


def test_several_columns_of_labels():
    frame = {"x": np.arange(40.0), "p": [0, 1] * 20, "q": [1, 1, 0, 0] * 10}
    data = from_frame(frame, "x", ["p", "q"])
    assert (data.task, data.classes) == ("multi_label", ["p", "q"])


def test_groups_by_column():
    data = from_frame(table(), ["age", "weight"], "ill", group_by="hospital")
    groups = [set(c["hospital"]) for c in data.columns.values()]
    assert sum(map(len, groups)) == 6 and all(groups)


def test_a_column_of_splits():
    frame = table()
    frame["part"] = ["train"] * 40 + ["valid"] * 8 + ["test"] * 12
    data = from_frame(frame, "text", "ill", split="part")
    assert data.sizes == {"train": 40, "validation": 8, "test": 12}
    assert "part" not in data.columns["train"]
    frame.loc[3, "part"] = "holdout"
    with pytest.raises(ValueError, match="holdout"):
        from_frame(frame, "text", "ill", split="part")


def test_paths_of_images(tmp_path):
    names = [f"{i}\n.png" for i in range(20)]
    for i, name in enumerate(names):
        Image.new("RGB", (9, 8), (i, 0, 0)).save(tmp_path / name)
    (tmp_path / names[4]).write_text("text")
    frame = {
        "file": names + ["lost.png"],
        "label": ["a", "b"] * 10 + ["a"],
        "who": list(range(21)),
    }
    data = from_frame(
        frame, "file", "label", image_size=8, folder=tmp_path, verbose=0
    )
    assert [name for name, _ in data.bad_files] == [names[4], "lost.png"]
    x, y = all_of(data.test)
    assert x.shape[1:] == (8, 8, 3)
    assert x[:, 0, 0, 0].tolist() == data.columns["test"]["who"].tolist()
    assert data.image_size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "nothing"}, "no columns.*nothing"),
        ({"features": []}, "at least one column"),
        ({"kinds": "auto", "image_size": 8}, "only feature"),
        ({"label": ["ill", "stay"]}, "Several columns must be of numbers"),
        ({"group_by": "nobody"}, "no columns.*nobody"),
        ({"group_by": [1, 2]}, "array with 60 values"),
        ({"seed": 0, "batch": 3}, "unexpected keyword"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"features": ["age", "weight"], "label": "ill", **change}
    with pytest.raises((ValueError, TypeError), match=message):
        from_frame(table(), **arguments)


def test_missing_values_are_refused():
    frame = table()
    frame.loc[[3, 8], "weight"] = np.nan
    with pytest.raises(ValueError, match=r"'weight' has 2.*\[3, 8\]"):
        from_frame(frame, ["age", "weight"], "ill")
    frame.loc[5, "text"] = None
    with pytest.raises(ValueError, match=r"'text' has 1.*\[5\]"):
        from_frame(frame, "text", "ill")


# === Files ===


def test_csv(tmp_path):
    path = tmp_path / "table.csv"
    lines = ["id,number,text,label,kind"]
    for i in range(40):
        lines.append(f'00{i},{i / 2},"a, ""b""\n{i}",{i % 2},{"NA"}')
    path.write_text("\ufeff" + "\n".join(lines) + "\n\n", encoding="utf-8")
    data = from_csv(path, "text", "label")
    assert data.classes == ["0", "1"]
    x, _ = all_of(data.test)
    first = data.columns["test"]["id"][0]
    assert x[0].decode() == f'a, "b"\n{first[2:]}'
    assert set(data.columns["test"]["kind"]) == {"NA"}
    assert f"File {str(path)!r}" in str(data)
    assert from_csv(path, "number", "label").train.element_spec[0].shape[1] == 1


def test_tsv_with_quotes_as_signs(tmp_path):
    path = tmp_path / "table.tsv"
    rows = [f'"so {i}" he said\t{i % 2},{i % 3}' for i in range(30)]
    path.write_text("\n".join(["text\tlabels", *rows]))
    with pytest.raises(ValueError, match="quotes=False"):
        from_csv(path, "text", "labels")
    data = from_csv(path, "text", "labels", quotes=False, label_separator=",")
    assert (data.task, data.classes) == ("multi_label", ["0", "1", "2"])


def test_uneven_lines(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(ValueError, match="1 lines have not.*separator"):
        from_csv(path, "a", "b")
    path.write_text("a;b\n")
    with pytest.raises(ValueError, match="0 lines|1 lines"):
        from_csv(path, "a", "b")


def test_missing_labels_in_a_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "1,2\n" * 5 + "1,\n")
    with pytest.raises(ValueError, match=r"missing labels at \[5\]"):
        from_csv(path, "a", "b")


# === Arrays ===


@pytest.mark.backends
def test_arrays_train():
    x = RNG.integers(0, 255, (40, 8, 8, 3)).astype("uint8")
    data = from_arrays(x, np.arange(40) % 4, columns={"who": np.arange(40)})
    assert data.train.element_spec[0].dtype == "float32"
    model = keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(data.train, validation_data=data.validation, verbose=0)
    assert np.isfinite(history.history["val_loss"][0])
    got, y = all_of(data.test)
    who = data.columns["test"]["who"]
    np.testing.assert_array_equal(got, x[who].astype("float32"))
    np.testing.assert_array_equal(y, who % 4)


def test_integers_stay_ids():
    x = RNG.integers(0, 2**30, (40, 5))
    data = from_arrays(x, np.arange(40) % 2)
    got, _ = all_of(data.test)
    assert got.dtype == np.int64 and got.max() > 2**24


def test_copies_of_rows_stay_together():
    x = RNG.normal(size=(50, 3))
    x = np.concatenate([x, x[:20]])
    y = np.concatenate([np.arange(50) % 2, np.arange(20) % 2])
    for seed in range(4):
        data = from_arrays(x, y, seed=seed, columns={"i": np.arange(70) % 50})
        sets = [set(c["i"]) for c in data.columns.values()]
        assert sum(map(len, sets)) == 50
        assert data.duplicates == []
    given = ["train"] * 50 + ["test"] * 20
    data = from_arrays(x, y, split=given)
    assert (0, 50) in data.duplicates and len(data.duplicates) >= 20


def test_few_different_rows_are_not_copies():
    x = RNG.integers(0, 2, (200, 3))
    data = from_arrays(x, x[:, 0])
    assert data.sizes == {"train": 140, "validation": 30, "test": 30}
    assert "Most examples equal another" in str(data)


def test_bad_arrays():
    with pytest.raises(ValueError, match="`y` must have one entry"):
        from_arrays(np.ones((4, 2)), [1, 2])
    with pytest.raises(ValueError, match=r"such values at \[1\]"):
        from_arrays([[1.0], [np.nan]], [0, 1])
    with pytest.raises(ValueError, match="array of numbers"):
        from_arrays(np.array([{}, {}]), [0, 1])
    with pytest.raises(ValueError, match="needs a classification"):
        from_arrays(
            RNG.normal(size=(40, 2)), RNG.normal(size=40), balanced=True
        )


def test_the_import_is_light():
    code = (
        "import sys, keras; before = set(sys.modules); "
        "import finetune_keras.data.tfds, finetune_keras.data.csv_files, "
        "finetune_keras.data.folders; new = set(sys.modules) - before; "
        "print(sorted({m.split('.')[0] for m in new}))"
    )
    process = FreshProcess("-c", code)
    assert process.wait() == 0, process.stderr
    loaded = process.stdout.strip().splitlines()[-1]
    heavy = ("sklearn", "pandas", "PIL", "tensorflow", "tensorflow_datasets")
    assert [name for name in heavy if f"'{name}'" in loaded] == []
