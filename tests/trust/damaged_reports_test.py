"""A damaged report gives one clear error, and never fills the memory."""

import base64
import json
import zlib

import keras
import numpy as np
import pytest

import finetune_keras as ft

Y = np.arange(12) % 3


def classifier():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    x = np.eye(3)[Y] + np.linspace(0, 1, 36).reshape(12, 3)
    slices = {"site": np.arange(12) % 2}
    return ft.evaluate(model, (x, Y), slices=slices, bootstrap=9, verbose=0)


def labeller():
    layer = keras.layers.Activation("sigmoid")
    model = keras.Sequential([keras.Input((2,)), layer])
    x = np.linspace(-1, 1, 24).reshape(12, 2)
    y = (x[::-1] > 0.3).astype(int)
    return ft.evaluate(model, (x, y), bootstrap=0, verbose=0)


def regression():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    x = np.linspace(-1, 1, 24).reshape(12, 2)
    return ft.evaluate(model, (x, x[::-1]), bootstrap=0, verbose=0)


@pytest.fixture(scope="module", params=[classifier, labeller, regression])
def report(request):
    return request.param()


ABSENT = object()
VALUES = [ABSENT, None, -1, "x", [1], {"a": 1}]


def places(value, path=()):
    """Lists the places in plain data; of many alike the first and the last."""
    yield path
    if isinstance(value, dict):
        keys = list(value)
        # The metrics, all of one kind.
        alike = len(path) and len(keys) > 6
        for key in {keys[0], keys[-1]} if alike else keys:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for i in {0, len(value) - 1}:
            yield from places(value[i], (*path, i))


def changed(text, path, value):
    record = json.loads(text)
    here = record
    for key in path[:-1]:
        here = here[key]
    if value is ABSENT:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return record


def test_any_damage_to_a_report_is_told_or_does_no_harm(report, tmp_path):
    text = report.to_json()
    refused = 0
    for path in list(places(json.loads(text)))[1:]:
        for value in VALUES:
            record = changed(text, path, value)
            target = tmp_path / "report.json"
            target.write_text(json.dumps(record))
            try:
                read = ft.Report.from_json(target)
            except ValueError as error:
                assert str(target) in str(error), (path, value)
                assert "Received" in str(error), (path, value)
                refused += 1
                continue
            assert str(read) and repr(read) and len(read) == 12
            assert read.to_json()
    assert refused > 150


def test_a_page_is_made_of_what_was_let_in(report, tmp_path):
    text = report.to_json()
    made = 0
    for name in ("ece", "accuracy", "mae", "log_loss", "subset_accuracy"):
        if name in json.loads(text)["metrics"]:
            record = changed(text, ("metrics", name), None)
            try:
                read = ft.Report.from_json(json.dumps(record))
            except ValueError:
                continue
            read.to_html(tmp_path / "report.html")
            made += 1
    assert made


def test_a_report_that_is_cut_off_is_told(report, tmp_path):
    target = tmp_path / "report.json"
    data = report.to_json().encode()
    for damaged in (data[:0], data[:99], data[:-1], b"\xff" + data, b"{" * 99):
        target.write_bytes(damaged)
        with pytest.raises(ValueError, match="report.json.*"):
            ft.Report.from_json(target)


def packed(zeros, shape, dtype="<f4"):
    data = base64.b64encode(zlib.compress(bytes(zeros))).decode()
    return {"dtype": dtype, "shape": shape, "data": data}


def test_a_small_report_does_not_fill_the_memory(tmp_path):
    record = json.loads(classifier().to_json())
    rows = 2**25
    # It says what it would expand to.
    record["arrays"]["outputs"] = packed(2**20, [rows, 3])
    with pytest.raises(ValueError, match="would expand to"):
        ft.Report.from_json(json.dumps(record))
    # It says that it is small, and is not.
    record["arrays"]["outputs"] = packed(50 * 2**20, [12, 3])
    text = json.dumps(record)
    assert len(text) < 2**20
    with pytest.raises(ValueError, match="not the 144 bytes"):
        ft.Report.from_json(text)


def test_no_array_of_objects_is_made():
    record = json.loads(classifier().to_json())
    for dtype in ("|O", "O", "<U99999999", "V8", ">f8", "<f4,<f4"):
        record["arrays"]["keys"] = packed(96, [12], dtype)
        with pytest.raises(ValueError, match="dtype"):
            ft.Report.from_json(json.dumps(record))


def test_a_thumbnail_is_small():
    Image = pytest.importorskip("PIL.Image")
    import io

    stream = io.BytesIO()
    Image.new("RGB", (3000, 2000)).save(stream, "JPEG")
    record = json.loads(classifier().to_json())
    for data, message in (
        (stream.getvalue(), "thumbnail has"),
        (b"GIF89a" + bytes(50), "no JPEG"),
    ):
        image = base64.b64encode(data).decode()
        record["inputs"][0] = {"image": image, "text": ""}
        with pytest.raises(ValueError, match=message):
            ft.Report.from_json(json.dumps(record))
