import datetime
import decimal

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.table_columns import kinds_of, read_column
from finetune_keras.testing import randomize

pytestmark = pytest.mark.usefixtures("op_by_op")
strings = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strings in a model"
)
DAY = datetime.date(2024, 3, 1)


def column(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, None], "number"),
        ([decimal.Decimal("1.5"), True], "number"),
        (["Rome", None, "Oslo"], "category"),
        (["2024-03-01", "", "2024-03-02T10:30"], "date"),
        (["2024-03-01T10:30+02:00", "2024-03-02T10:30:05Z"], "date"),
        ([DAY, None], "date"),
        ([np.datetime64("2024-03-01"), np.datetime64("NaT")], "date"),
        ([f"a note of day {i}" for i in range(30)], "text"),
        (["a note of it", "no note at all"] * 9, "category"),
    ],
)
def test_kinds_are_found(values, kind):
    assert kinds_of({"a": column(values)}, "auto") == {"a": kind}


def test_values_are_read_alike_from_tables_and_rows():
    def read(values, kind):
        return read_column("a", column(values), kind)[:, 0].tolist()

    numbers = read([1, "2.5", None, "", np.nan, decimal.Decimal(4)], "number")
    np.testing.assert_array_equal(numbers, [1, 2.5, *[np.nan] * 3, 4])
    assert read([3, 3.0, "3", None, np.nan, True], "category") == [
        *["3"] * 3,
        *["", "", "True"],
    ]
    noon = datetime.datetime(2024, 3, 1, 12)
    zone = datetime.timezone(datetime.timedelta(hours=2))
    days = [
        *(DAY, noon, "2024-03-01T12:00", np.datetime64("2024-03-01T12")),
        *(noon.replace(hour=14, tzinfo=zone), "2024-03-01T12:00:00Z", None),
    ]
    np.testing.assert_array_equal(
        read(days, "date"), [19783, *[19783.5] * 5, np.nan]
    )
    whole = np.array(["2024-03-01", "NaT"], "datetime64[ns]")
    np.testing.assert_array_equal(
        read_column("a", whole, "date")[:, 0], [19783, np.nan]
    )


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (
            [1, "many"],
            "number",
            "'a' is one of numbers, and holds 'many' in row 1",
        ),
        ([1e300], "number", "holds 1e\\+300 in row 0"),
        (["01.03.2024"], "date", "Write dates as 2024-03-01"),
        ([20240301], "date", "holds 20240301"),
    ],
)
def test_values_of_another_kind_are_refused(values, kind, message):
    with pytest.raises(ValueError, match=message):
        read_column("a", column(values), kind)


def table(count=40):
    """One column tells the label, and half of it is told by another."""
    city = ["Rome", "Oslo", "Paris", "Rome"]
    frame = {
        "size/cm": [float(i % 4) if i % 5 else None for i in range(count)],
        "city": [city[i % 4] if i % 7 else None for i in range(count)],
        "when": [f"2024-0{1 + i % 4}-0{1 + i % 9}" for i in range(count)],
        "note": [f"room number {i} of {city[i % 4]}" for i in range(count)],
        "kind": ["a" if i % 4 < 2 else "b" for i in range(count)],
    }
    frame["city"][9] = "Bergen"
    return frame


FEATURES = ["size/cm", "city", "when", "note"]


def model_of(data):
    space = data.feature_space()
    x = keras.layers.Dense(8, "relu", name="hidden")(
        space.get_encoded_features()
    )
    return ft.replace_head(keras.Model(space.get_inputs(), x), 2)


@strings
def test_a_table_from_its_columns_to_rows_in_a_bundle(tmp_path):
    frame = table()
    data = ft.from_frame(frame, FEATURES, "kind", test_split=0.25)
    assert data.kinds == dict(
        zip(FEATURES, ["number", "category", "date", "text"], strict=True)
    )
    assert "'city': category, 4 values, 15.0% missing" in str(data)
    x, y = next(iter(data.train))
    assert x["size_cm"].shape == (len(y), 1) and x["note"].dtype == "string"
    model = randomize(model_of(data))
    report = ft.evaluate(model, data.test, classes=data.classes, verbose=0)
    places = data.places["test"]
    expected = model.predict(data.test, verbose=0)
    right = (expected.argmax(1) == data.arrays("test")[1]).mean()
    assert report.metrics["accuracy"] == pytest.approx(right)
    bundle = ft.load_bundle(ft.save_bundle(model, tmp_path / "a.keras", data))
    columns = {n: [frame[n][i] for i in places] for n in FEATURES}
    rows = [{n: frame[n][i] for n in frame} for i in places]
    found = bundle.predict(columns)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    read = bundle.prepare(rows)
    strings = [
        {k: "" if v is None else str(v) for k, v in row.items()} for row in rows
    ]
    for form in (columns, strings):
        for name, column in bundle.prepare(form).items():
            np.testing.assert_array_equal(column, read[name])
    assert bundle.prepare(rows[1])["city"].shape == (1, 1)
    # What was never seen is as what is missing or rare.
    some = [{**rows[1], "city": c} for c in ("Atlantis", "Bergen", None)]
    found = bundle.predict(some)
    assert np.ptp(found.probabilities, axis=0).max() < 1e-6
    with pytest.raises(ValueError, match=r"no column \['note'\]"):
        bundle.prepare({k: v for k, v in rows[0].items() if k != "note"})
    with pytest.raises(ValueError, match="'size/cm' .* holds 'big' in row 0"):
        bundle.prepare({**rows[0], "size/cm": "big"})
    with pytest.raises(ValueError, match="takes rows of a table"):
        bundle.prepare(np.ones((2, 4)))


@strings
def test_all_is_known_from_the_training_data_alone():
    frame = table()
    split = ["train"] * 20 + ["validation"] * 10 + ["test"] * 10
    frame["split"] = split
    frame["size/cm"][25:] = [1e6] * 15
    frame["city"][30:] = ["Lima"] * 10
    data = ft.from_frame(frame, FEATURES[:2], "kind", split="split")
    space = data.feature_space()
    number = space.preprocessors["size_cm"]
    known = [v for v in frame["size/cm"][:20] if v is not None]
    assert number.mean == pytest.approx(np.mean(known))
    assert number.deviation == pytest.approx(np.std(known))
    assert "Lima" not in space.preprocessors["city"].vocabulary
    # Bergen stands there once: it is rare, and not known.
    assert space.preprocessors["city"].vocabulary == ["Rome", "Oslo", "Paris"]


@strings
def test_columns_that_never_learnt_stay_zero():
    frame = {"n": [1.0, 3.0] * 10, "c": ["a", "b"] * 10, "y": ["u", "v"] * 10}
    data = ft.from_frame(frame, ["n", "c"], "y")
    space = data.feature_space()
    x = {"n": np.array([[3.0], [np.nan]], "f4"), "c": np.array([["b"], ["z"]])}
    found = keras.ops.convert_to_numpy(space(x))
    assert found.tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]


@pytest.mark.backends
def test_numbers_and_dates_on_each_backend(tmp_path):
    count = 24
    frame = {
        "size": [float(i % 2) if i % 5 else None for i in range(count)],
        "when": [DAY + datetime.timedelta(i % 8) for i in range(count)],
        "y": [f"class {i % 2}" for i in range(count)],
    }
    data = ft.from_frame(frame, ["size", "when"], "y", kinds="auto")
    model = model_of(data)
    x, _ = data.arrays("test")
    expected = model.predict(x, verbose=0)
    bundle = ft.load_bundle(ft.save_bundle(model, tmp_path / "a.keras", data))
    rows = {n: [frame[n][i] for i in data.places["test"]] for n in frame}
    np.testing.assert_allclose(
        bundle.predict(rows).probabilities, expected, atol=1e-5
    )


def test_dates_have_their_place_in_the_year_and_the_week():
    when = [DAY + datetime.timedelta(i % 8) for i in range(24)]
    frame = {"when": when, "y": ["a", "b"] * 12}
    data = ft.from_frame(frame, ["when"], "y", kinds="auto")
    monday = {"when": np.array([[19786.0], [19786.0 + 7], [np.nan]], "f4")}
    found = keras.ops.convert_to_numpy(data.feature_space()(monday))
    # The same day of the week, another of the year; no hour is told.
    np.testing.assert_allclose(found[0, 4:6], found[1, 4:6], atol=1e-4)
    assert np.abs(found[0, 2:4] - found[1, 2:4]).max() > 0.05
    assert not found[:, 6:].any() and not found[2].any()


def test_what_does_not_go_together_is_refused():
    frame = table()
    with pytest.raises(ValueError, match='`kinds` must be "auto", or a dict'):
        ft.from_frame(frame, FEATURES, "kind", kinds={"city": "place"})
    for nothing in ([None] * 40, np.full(40, np.nan)):
        with pytest.raises(ValueError, match="'note' has no value at all"):
            ft.from_frame({**frame, "note": nothing}, FEATURES, "kind")
    with pytest.raises(ValueError, match="called alike"):
        names = ["size/cm", "size_cm"]
        more = {**frame, "size_cm": frame["city"]}
        ft.from_frame(more, names, "kind")
    data = ft.from_frame({"n": [1.0, 2.0] * 9, "y": ["a", "b"] * 9}, "n", "y")
    with pytest.raises(ValueError, match='`?kinds="auto"'):
        data.feature_space()
    data = ft.from_frame(frame, FEATURES, "kind")
    with pytest.raises(ValueError, match="table with columns of several"):
        ft.cross_validate(lambda: None, ft.plans.full(), data)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="its inputs are"):
        ft.save_bundle(other, "a.keras", data)


def test_what_training_never_sees_is_refused():
    count = 20
    frame = {
        "n": [float(i % 5) for i in range(count)],
        "late": [np.nan] * 12 + [1.0] * 8,
        "y": ["a", "b"] * 10,
        "part": ["train"] * 12 + ["test"] * 4 + ["validation"] * 4,
    }
    data = ft.from_frame(frame, ["n", "late"], "y", split="part", kinds="auto")
    with pytest.raises(ValueError, match="'late' has no value in the training"):
        data.feature_space()


def test_columns_of_one_name_are_told():
    pandas = pytest.importorskip("pandas", reason="reads data frames")
    frame = pandas.DataFrame(np.ones((9, 3)), columns=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"name of its own.*\['a'\] twice"):
        ft.from_frame(frame, ["a"], "b")
