"""Tables and arrays whose values would silently become others."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

import finetune_keras as ft

Y = np.arange(40) % 2


def csv_of(path, rows, header="age,sold", encoding="utf-8"):
    path.write_bytes("\n".join([header, *rows]).encode(encoding))
    return path


def numbers(*odd):
    """Lines of numbers, in which the eighth and on are something else."""
    rows = [f"{i},{i % 2}" for i in range(40)]
    rows[7 : 7 + len(odd)] = [f"{value},1" for value in odd]
    return rows


# === Arrays ===


@pytest.mark.parametrize("bad", [1e300, -1e39, np.inf, np.nan])
def test_no_number_becomes_infinite_on_the_way(bad):
    x = np.random.default_rng(0).normal(size=40)
    wrong = x.copy()
    wrong[5] = bad
    table = {"x": x, "wrong": wrong, "y": Y}
    for read in (
        lambda: ft.from_arrays(wrong[:, None], Y),
        lambda: ft.from_frame(table, "wrong", "y"),
        lambda: ft.from_frame(table, ["x", "wrong"], "y"),
        lambda: ft.from_frame(table, "x", ["y", "wrong"]),
        lambda: ft.from_arrays(x[:, None], wrong),
        lambda: ft.from_arrays(x[:, None], wrong, task="regression"),
    ):
        with pytest.raises(ValueError, match=r"\[5\]|1e\+300|-1e\+39"):
            read()


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, 3])
def test_what_is_no_text_does_not_become_one(missing):
    """`None` among texts was the text "None"."""
    texts = [f"text {i}" for i in range(40)]
    texts[5] = missing
    labels = ["yes", "no"] * 20
    for x in (texts, np.array(texts, object), pd.Series(texts)):
        with pytest.raises(ValueError, match=r"at \[?5\b"):
            ft.from_arrays(x, Y)
        with pytest.raises(ValueError, match=r"at \[?5\b"):
            ft.from_frame({"x": x, "y": Y}, "x", "y")
    if not isinstance(missing, int):
        with pytest.raises(ValueError, match=r"no label.*at \[5\]"):
            ft.from_arrays(np.arange(40.0), [*labels[:5], missing, *labels[6:]])
        rows = [["a", "b"], ["a"]] * 20
        rows[5] = ["a", missing]
        with pytest.raises(ValueError, match=r"no label.*at \[5\]"):
            ft.from_arrays(np.arange(40.0), rows)


def test_dates_are_no_numbers():
    """They came as nanoseconds, rounded to a minute."""
    days = pd.date_range("2024-01-01", periods=40)
    table = pd.DataFrame({"day": days, "y": Y})
    with pytest.raises(ValueError, match="'day' must hold numbers.*dates"):
        ft.from_frame(table, "day", "y")


def test_examples_of_no_known_group_are_no_group():
    groups = [f"patient {i // 2}" for i in range(40)]
    groups[4:34] = [float("nan")] * 30
    data = ft.from_arrays(np.arange(40.0)[:, None], Y, group_by=groups)
    assert all(set(data.groups[name]) & {None} for name in data.sizes)
    known = [set(data.groups[name]) - {None} for name in data.sizes]
    assert sum(map(len, known)) == len(set.union(*known))


def test_a_missing_text_of_labels_is_no_label():
    labels = ["a,b", "b", "", "a"] * 10
    table = {"x": np.arange(40.0), "y": labels}
    assert ft.from_frame(table, "x", "y", label_separator=",").classes == [
        "a",
        "b",
    ]
    table["y"] = [*labels[:5], None, *labels[6:]]
    with pytest.raises(ValueError, match=r"no label.*\[5\]"):
        ft.from_frame(table, "x", "y", label_separator=",")


# === Columns ===


@pytest.mark.parametrize(
    "odd", ["nan", "inf", '"1,5"', '"1,234.5"', "1e400", "NA", "7 %", "x"]
)
def test_one_value_does_not_make_texts_of_numbers(odd, tmp_path):
    path = csv_of(tmp_path / "a.csv", numbers(odd))
    with pytest.raises(ValueError) as caught:
        ft.from_csv(path, "age", "sold")
    message = str(caught.value)
    value = odd.strip('"')
    assert "Column 'age' is of texts, for 1 of 40" in message
    assert f"{value!r} in line 9" in message and "feature" in message
    with pytest.raises(ValueError, match="Received: 'age' as a label"):
        ft.from_csv(path, "sold", "age")
    rows = [f"{row},{i}" for i, row in enumerate(numbers(odd))]
    path = csv_of(tmp_path / "b.csv", rows, "age,sold,size")
    data = ft.from_csv(path, "size", "sold")
    (note,) = [note for note in data.notes if "'age'" in note]
    assert f"{value!r} in line 9" in note and note in str(data)


def test_a_column_of_decimal_commas_is_told(tmp_path):
    rows = [f"{i},5;{i % 2}" for i in range(40)]
    path = csv_of(tmp_path / "a.csv", rows, "age;sold")
    with pytest.raises(ValueError, match="'0,5' in line 2.*as 1234.5"):
        ft.from_csv(path, "age", "sold", separator=";")


def test_texts_and_names_of_digits_stay_texts(tmp_path):
    """Postcodes, ratings as classes, and a text that is a number."""
    rows = []
    for i in range(40):
        text = i if i < 9 else f"text {i}"
        rows.append(f"{'0' * (i % 2)}{i + 100},{text},{i % 4 or '5+'}")
    path = csv_of(tmp_path / "a.csv", rows, "postcode,text,stars")
    data = ft.from_csv(
        path, "text", "stars", group_by="postcode", task="classification"
    )
    assert data.classes == ["1", "2", "3", "5+"]
    assert data.arrays("train")[0].dtype == object
    assert "0101" in np.concatenate([g for g in data.groups.values()])
    assert not [note for note in data.notes if "Column" in note]


def test_long_ids_stay_apart(tmp_path):
    """As floats, two neighbours of nineteen digits are one group."""
    rows = [f"{2**62 + i // 2 if i else ''},{i % 3},{i}" for i in range(60)]
    path = csv_of(tmp_path / "a.csv", rows, "who,sold,size")
    data = ft.from_csv(path, "size", "sold", group_by="who")
    assert len(set(np.concatenate(list(data.groups.values())))) == 31


def test_numbers_that_a_frame_holds_as_texts_are_noted():
    """So they come out of `pandas.read_csv` where one is none."""
    age = [str(i) for i in range(40)]
    age[7] = "1,5"
    data = ft.from_frame(pd.DataFrame({"age": age, "sold": Y}), "age", "sold")
    assert "'1,5' at 7" in str(data)


def test_the_label_is_no_feature():
    table = {"a": np.arange(40.0), "b": np.arange(40) % 5, "y": Y}
    splits = {**table, "part": ["train"] * 20 + ["test"] * 20}
    for arguments in (
        (table, "y", "y"),
        (table, ["a", "y"], "y"),
        (table, ["a", "b"], ["y", "b"]),
        (table, ["a", "a"], "y"),
        (table, "a", ["y", "y"]),
    ):
        with pytest.raises(ValueError, match="nothing to learn.*twice"):
            ft.from_frame(*arguments)
    with pytest.raises(ValueError, match="nothing to learn"):
        ft.from_frame(splits, "a", "part", split="part")


def test_texts_beside_numbers_are_categories_or_columns_of_their_own():
    table = pd.DataFrame({"age": Y, "city": ["Rome", "Oslo"] * 20, "y": Y})
    data = ft.from_frame(table, ["age", "city"], "y")
    assert set(data.feature_space().get_inputs()) == {"age", "city"}
    coded = pd.get_dummies(table, columns=["city"], dtype=float)
    names = ["age", "city_Oslo", "city_Rome"]
    data = ft.from_frame(coded, names, "y")
    assert data.arrays("train")[0].shape[1] == 3


def test_no_input_of_a_bundle_becomes_infinite(tmp_path):
    inputs = keras.Input((2,))
    head = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Model(inputs, head(inputs))
    x = np.array([[1.0, 2.0], [3.0, 1e300]])
    data = ft.from_frame({"a": Y * 1.0, "b": Y + 0.5, "y": Y}, ["a", "b"], "y")
    path = ft.save_bundle(model, tmp_path / "m.keras", data)
    bundle = ft.load_bundle(path)
    for wrong in (x, {"a": x[:, 0], "b": x[:, 1]}):
        with pytest.raises(ValueError, match="too large for float32"):
            bundle.predict(wrong)


# === Files of other encodings ===


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_file_that_says_its_encoding_is_read(encoding, tmp_path):
    rows = [f"café {i},{i % 2}" for i in range(40)]
    path = csv_of(tmp_path / "a.csv", rows, "text,sold", encoding)
    data = ft.from_csv(path, "text", "sold")
    texts = np.concatenate([data.arrays(name)[0] for name in data.sizes])
    assert "café 7" in [text.decode() for text in texts]
    path = csv_of(tmp_path / "a.conll", ["é O"], "é B", encoding)
    assert ft.read_conll(path) == ([["é", "é"]], [["B", "O"]])


def test_texts_in_a_folder_are_read_as_they_say(tmp_path):
    """UTF-16 without its mark was read as UTF-8, with a 0 at each letter."""
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        for i, encoding in enumerate(["utf-8", "utf-8-sig", "utf-16"] * 3):
            text = f"{name} café {i}".encode(encoding)
            (tmp_path / name / f"{i}.txt").write_bytes(text)
    (tmp_path / "bad" / "odd.txt").write_bytes("tea".encode("utf-16-le"))
    (tmp_path / "bad" / "old.txt").write_bytes("café".encode("latin-1"))
    data = ft.text_folder(tmp_path)
    texts = np.concatenate([data.arrays(name)[0] for name in data.sizes])
    expected = [f"{n} café {i}" for n in ("bad", "good") for i in range(9)]
    assert sorted(text.decode() for text in texts) == expected
    assert data.bad_files == [
        ("bad/odd.txt", "with bytes of 0, such as UTF-16 without its mark"),
        ("bad/old.txt", "not UTF-8 at byte 3"),
    ]


@pytest.mark.parametrize(
    ("encoding", "advice"),
    [("latin-1", "cp1252"), ("utf-16-le", "utf-16-le")]
    + [("utf-16-be", "utf-16-be")],
)
def test_a_file_of_another_encoding_says_what_to_pass(
    encoding, advice, tmp_path
):
    rows = [f"{'café' if i == 7 else 'tea'} {i},{i % 2}" for i in range(40)]
    path = csv_of(tmp_path / "a.csv", rows, "text,sold", encoding)
    with pytest.raises(ValueError, match=f"`encoding`.*{advice}") as caught:
        ft.from_csv(path, "text", "sold")
    assert "a.csv" in str(caught.value)
    if encoding == "latin-1":
        assert "line 9, byte 0xe9" in str(caught.value)
    data = ft.from_csv(path, "text", "sold", encoding=encoding)
    texts = np.concatenate([data.arrays(name)[0] for name in data.sizes])
    assert "café 7" in [text.decode() for text in texts]
    with pytest.raises(ValueError, match="that Python knows"):
        ft.from_csv(path, "text", "sold", encoding="klingon")
    path = csv_of(tmp_path / "a.conll", ["é O"], "é B", encoding)
    with pytest.raises(ValueError, match="`encoding`"):
        ft.read_conll(path)
    assert ft.read_conll(path, encoding=encoding)[0] == [["é", "é"]]


def test_questions_in_json_lines_say_what_is_wanted(tmp_path):
    entry = {"question": "who", "context": "ann", "answers": {"text": ["ann"]}}
    paragraph = {"context": "ann", "qas": [{**entry, "answers": entry}]}
    for text, found in (
        (f"{json.dumps(entry)}\n" * 3, "JSON Lines"),
        (json.dumps([entry]), "TypeError"),
        (json.dumps({"data": [entry]}), "paragraphs"),
        (json.dumps({"data": [{"paragraphs": [paragraph]}]}), "KeyError"),
        ("{", "JSONDecodeError"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=f'"paragraphs".*{found}'):
            ft.read_squad(tmp_path / "a.json")
