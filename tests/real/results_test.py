"""Calibration, bundles and exports of a real model on real photos."""

import numpy as np
import pytest
from PIL import Image

import finetune_keras as ft

WEIGHTS = "weights/mobilenet_2_5_224_tf_no_top.h5"


@pytest.fixture(scope="module")
def trained(shared_data):
    data = ft.image_folder(
        shared_data / "flowers-160",
        image_size=160,
        validation_split=0.25,
        verbose=0,
    )
    backbone = ft.backbone(
        "MobileNet",
        input_shape=(160, 160, 3),
        weights=shared_data / WEIGHTS,
        alpha=0.25,
    )
    model = ft.image_classifier(backbone, data.classes)
    # Long enough to be too sure of itself, as a solved head is not.
    plan = ft.Plan([ft.Phase("head", epochs=60, learning_rate=1e-2)])
    ft.fine_tune(model, plan, data.train, verbose=0)
    return model, data


def test_calibration_lowers_ece_and_changes_no_label(trained):
    model, data = trained
    calibrated = ft.calibrate(model, data.validation, coverage=0.8)
    before = ft.evaluate(model, data.test, verbose=0)
    after = ft.evaluate(calibrated, data.test, verbose=0)
    assert after.metrics["accuracy"] == before.metrics["accuracy"] > 0.7
    assert after.metrics["ece"] < before.metrics["ece"] - 0.02
    assert after.metrics["log_loss"] < before.metrics["log_loss"]


def test_abstention_keeps_its_promise(trained, tmp_path):
    model, data = trained
    calibrated = ft.calibrate(model, data.validation, coverage=0.8)
    path = ft.save_bundle(calibrated, tmp_path / "f.keras", data)
    answers = ft.load_bundle(path).predict(list(data.columns["test"]["path"]))
    # Three standard errors of both samples, of 188 and 375 photos.
    assert np.mean(~answers.abstained) == pytest.approx(0.8, abs=0.11)
    labels = np.concatenate([y for _, y in data.test])
    right = answers.probabilities.argmax(-1) == labels
    assert right[~answers.abstained].mean() > right.mean() + 0.02


def test_bundle_export_and_model_agree_on_photos_of_all_kinds(
    trained, tmp_path
):
    import tensorflow as tf

    model, data = trained
    paths = list(data.columns["test"]["path"][:6])
    for i, mode in enumerate(["L", "CMYK", "P", "RGBA"]):
        image = Image.open(paths[i]).convert(mode).resize((90 + 50 * i, 120))
        kind = "png" if mode in ("P", "RGBA") else "jpg"
        paths.append(str(tmp_path / f"{mode}.{kind}"))
        image.save(paths[-1])
    bundle = ft.load_bundle(ft.save_bundle(model, tmp_path / "f.keras", data))
    bundle.export(tmp_path / "served")
    x = bundle.prepare(paths)
    answers = bundle.predict(paths).probabilities
    exported = tf.saved_model.load(str(tmp_path / "served"))
    served = np.asarray(exported.serve(x))
    in_memory = model.predict(x, verbose=0)
    np.testing.assert_allclose(answers, in_memory, atol=1e-5)
    np.testing.assert_allclose(served, in_memory, atol=1e-5)
