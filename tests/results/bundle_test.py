import io
import os
import zipfile

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.pixel_guard import guard_pixels
from finetune_keras.models.preprocessing import scale_pixels
from finetune_keras.results import exported
from finetune_keras.results.bundle import load_bundle, save_bundle
from finetune_keras.testing import randomize
from finetune_keras.testing.fresh_process import reload

layers = keras.layers


def image_model():
    """The layers of a MobileNet, few of each; raw pixels go in."""
    inputs = keras.Input((32, 32, 3))
    x = scale_pixels(inputs, "tf")
    for i, width in enumerate((8, 64)):
        x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        x = layers.DepthwiseConv2D(3, strides=2, use_bias=False)(x)
        x = layers.Conv2D(width, 1, use_bias=False, name=f"conv_{i}")(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(64, 3, name="conv_last")(x)
    model = ft.image_classifier(guard_pixels(keras.Model(inputs, x)), 3)
    randomize(model)
    return model


def photo(mode, size, seed=0):
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype("uint8")
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, its data and its bundle. No test changes any of them."""
    root = tmp_path_factory.mktemp("saved")
    for i, name in enumerate(["ant", "bee", "wasp"]):
        (root / "photos" / name).mkdir(parents=True)
        for j in range(6):
            image = photo("RGB", (40 + j, 36), 10 * i + j)
            image.save(root / "photos" / name / f"{j}.png")
    data = ft.image_folder(root / "photos", image_size=32, verbose=0, seed=0)
    model = image_model()
    plan = ft.plans.linear_probe()
    path = save_bundle(model, root / "insects.keras", data, plan=plan)
    return model, data, path


def test_data_of_another_size_are_refused_before_they_are_written(
    saved, tmp_path
):
    _, data, _ = saved
    parts = [keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(3)]
    model = keras.Sequential([*parts, layers.Softmax()])
    with pytest.raises(ValueError, match="another size than the model takes"):
        save_bundle(model, tmp_path / "small.keras", data)
    assert not (tmp_path / "small.keras").exists()


def test_files_arrays_images_and_bytes_are_the_same_photo(saved, tmp_path):
    model, _, path = saved
    bundle = load_bundle(path)
    assert bundle.classes == ["ant", "bee", "wasp"]
    photos = [
        photo("RGB", (50, 40), 1),
        photo("L", (33, 70), 2),
        photo("RGBA", (32, 32), 3),
        photo("CMYK", (64, 48), 4),
    ]
    files, contents = [], []
    for i, image in enumerate(photos):
        kind = "TIFF" if image.mode == "CMYK" else "PNG"
        buffer = io.BytesIO()
        image.save(buffer, kind)
        contents.append(buffer.getvalue())
        files.append(str(tmp_path / f"new {i}.{kind.lower()}"))
        image.save(files[-1])
    answers = bundle.predict(files)
    for same in (photos, contents):
        np.testing.assert_array_equal(
            bundle.predict(same).probabilities, answers.probabilities
        )
    x = bundle.prepare(files)
    assert x.shape == (4, 32, 32, 3) and x.max() > 100
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
    best = [bundle.classes[i] for i in expected.argmax(-1)]
    assert answers.labels == best and len(answers) == 4
    assert answers[0]["probability"] == pytest.approx(expected[0].max())
    one = bundle.predict(files[2])
    np.testing.assert_allclose(one.probabilities, expected[2:3], atol=1e-5)


def test_training_and_prediction_see_the_same_pixels(saved):
    _, data, path = saved
    bundle = load_bundle(path)
    x = next(iter(data.test))[0].numpy()
    paths = list(data.columns["test"]["path"])
    np.testing.assert_array_equal(bundle.prepare(paths)[: len(x)], x)


def test_the_export_agrees(saved, tmp_path):
    import tensorflow as tf

    _, data, path = saved
    bundle = load_bundle(path)
    bundle.export(tmp_path / "served")
    x = bundle.prepare(list(data.columns["test"]["path"]))
    served_model = tf.saved_model.load(str(tmp_path / "served"))
    served = served_model.serve(x)
    answers = bundle.predict(list(data.columns["test"]["path"]))
    np.testing.assert_allclose(served, answers.probabilities, atol=1e-5)


@pytest.mark.needs("3.13", "litert")
@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_other_formats_agree(saved, tmp_path, format):
    """`export` compares the outputs itself."""
    packages = ["onnx", "tf2onnx", "onnxruntime"]
    for package in packages if format == "onnx" else []:
        pytest.importorskip(package, reason="writes and runs ONNX files")
    bundle = load_bundle(saved[2])
    suffix = {"onnx": "onnx", "litert": "tflite"}[format]
    path = bundle.export(tmp_path / f"model.{suffix}", format)
    assert os.path.getsize(path) > 10_000
    with pytest.raises(ValueError, match="tf_saved_model"):
        bundle.export(tmp_path / "model", "h5")


def test_an_export_that_differs_is_refused(saved, tmp_path, monkeypatch):
    bundle = load_bundle(saved[2])
    monkeypatch.setitem(
        exported.RUNNERS, "tf_saved_model", lambda path, x: np.zeros((1, 3))
    )
    with pytest.raises(ValueError, match="other outputs"):
        bundle.export(tmp_path / "served")


def test_it_is_a_plain_keras_file(saved):
    model, data, path = saved
    x = next(iter(data.test))[0].numpy()
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    facts = load_bundle(path).facts
    assert facts["plan"] == ft.plans.linear_probe().to_dict()
    assert facts["data"]["fingerprint"] == data.fingerprint
    assert facts["environment"]["packages"]["keras"] == keras.__version__


def test_calibration_and_abstention_travel_with_it(saved, tmp_path):
    model, data, _ = saved
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (60, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 3, 60)
    calibrated = ft.calibrate(model, (x, y), coverage=0.5, conformal=0.8)
    path = save_bundle(calibrated, tmp_path / "sure.keras", data)
    answers = load_bundle(path).predict(x)
    assert 25 <= answers.abstained.sum() <= 32
    assert [label is None for label in answers.labels] == list(
        answers.abstained
    )
    assert set(sum(answers.sets, [])) <= set(data.classes)
    assert "abstained" in str(answers)
    assert list(answers.to_frame().columns)[:2] == ["label", "abstained"]
    found = reload(calibrated, x, ["finetune_keras"])["outputs"][0]
    np.testing.assert_allclose(found, answers.probabilities, atol=1e-6)


def dense_model(outputs, activation, inputs=4):
    tensor = keras.Input((inputs,))
    head = layers.Dense(outputs, activation=activation)
    model = keras.Model(tensor, head(tensor))
    randomize(model)
    return model


def test_one_sigmoid_and_many_and_a_regression(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    cases = [
        (dense_model(1, "sigmoid"), ["no", "yes"]),
        (dense_model(3, "sigmoid"), ["a", "b", "c"]),
        (dense_model(1, None), None),
    ]
    for model, classes in cases:
        path = save_bundle(model, tmp_path / "m.keras", classes=classes)
        bundle = load_bundle(path)
        answers, p = bundle.predict(x), model.predict(x, verbose=0)
        if classes is None:
            np.testing.assert_allclose(answers.labels, p[:, 0], atol=1e-6)
        elif len(classes) == 2:
            expected = [classes[int(v > 0.5)] for v in p[:, 0]]
            assert answers.labels == expected
            np.testing.assert_allclose(answers.probabilities.sum(-1), 1)
        else:
            expected = [
                [c for c, v in zip(classes, row, strict=True) if v > 0.5]
                for row in p
            ]
            assert answers.labels == expected


def test_a_table_is_read_by_its_columns(tmp_path):
    pandas = pytest.importorskip("pandas", reason="reads data frames")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(40, 2)), columns=["a", "b"])
    frame["kind"] = ["x", "y"] * 20
    data = ft.from_frame(frame, ["a", "b"], "kind")
    model = dense_model(2, "softmax", 2)
    path = save_bundle(model, tmp_path / "table.keras", data)
    bundle = load_bundle(path)
    answers = bundle.predict(frame[["kind", "b", "a"]])
    expected = model.predict(frame[["a", "b"]].to_numpy("float32"), verbose=0)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"lacks columns.*'b'"):
        bundle.predict(frame[["a"]])
    # Rows, as a CSV file has them too.
    row = {"b": frame["b"][3], "a": frame["a"][3]}
    strings = {name: str(value) for name, value in row.items()}
    for form in (row, [row], [strings], {k: [v] for k, v in strings.items()}):
        found = bundle.predict(form).probabilities
        np.testing.assert_allclose(found, expected[3:4], atol=1e-6)
    with pytest.raises(ValueError, match="without missing values.*'b' lacks"):
        bundle.predict([row, {"a": 1.0, "b": ""}])
    with pytest.raises(ValueError, match=r"NaN or infinity.*1 such of 2.*at 1"):
        bundle.predict([[1.0, 2.0], [np.nan, 1.0]])


def test_texts(tmp_path):
    vectorize = layers.TextVectorization(
        max_tokens=20, output_mode="multi_hot", vocabulary=["good", "bad"]
    )
    inputs = keras.Input((), dtype="string")
    outputs = layers.Dense(2, activation="softmax")(vectorize(inputs))
    model = keras.Model(inputs, outputs)
    path = save_bundle(model, tmp_path / "t.keras", classes=["neg", "pos"])
    bundle = load_bundle(path)
    assert len(bundle.predict("a good film")) == 1
    two = bundle.predict(["good", "bad"]).probabilities
    assert np.abs(two[0] - two[1]).max() > 1e-3
    with pytest.raises(ValueError, match="takes strings"):
        bundle.predict([3, None])


def test_bad_files_and_inputs_are_named(saved, tmp_path):
    model, data, path = saved
    bundle = load_bundle(path)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    with pytest.raises(ValueError, match="broken.jpg"):
        bundle.predict([str(broken)])
    with pytest.raises(ValueError, match=r"ends in `\.keras`"):
        save_bundle(model, tmp_path / "model.h5", data)
    with pytest.raises(ValueError, match="3 outputs"):
        save_bundle(model, tmp_path / "m.keras", classes=["a", "b"])
    model.save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match="no bundle"):
        load_bundle(tmp_path / "plain.keras")
    small = dense_model(2, "softmax")
    save_bundle(small, tmp_path / "s.keras", classes=["a", "b"])
    with pytest.raises(ValueError, match=r"shape \(None, 4\)"):
        load_bundle(tmp_path / "s.keras").predict(np.zeros((2, 5)))


def test_a_failed_save_leaves_the_old_file(saved, tmp_path, monkeypatch):
    model, data, path = saved
    before = open(path, "rb").read()

    def fail(self, name, data):
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError):
        save_bundle(model, path, data)
    assert open(path, "rb").read() == before
