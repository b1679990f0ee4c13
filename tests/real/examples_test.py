"""The example scripts on real photos, against fixed bars."""

import os
import pathlib
import re
import shutil

from finetune_keras.results.bundle import load_bundle
from finetune_keras.testing.processes import FreshProcess

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"
WEIGHTS = "weights/mobilenet_2_5_224_tf_no_top.h5"


def accuracy(output):
    return float(re.search(r"Test accuracy: ([\d.]+)", output).group(1))


def test_image_classification(shared_data, tmp_path, run_example):
    output = run_example(
        "image_classification.py",
        *("--data", shared_data / "hymenoptera-160"),
        *("--backbone", "MobileNet", "--alpha", 0.25),
        *("--weights", shared_data / WEIGHTS),
    )
    assert accuracy(output) >= 0.75
    assert "Decided on" in output and "Calibration: method" in output
    html = (tmp_path / "report.html").read_text()
    assert html.startswith("<!DOCTYPE html>") and len(html) > 50_000
    card = (tmp_path / "record" / "MODEL_CARD.md").read_text()
    assert "## Plan" in card
    assert load_bundle(tmp_path / "photos.keras").classes


def test_image_classification_splits_a_folder_of_classes(
    shared_data, run_example
):
    output = run_example(
        "image_classification.py",
        *("--data", shared_data / "hymenoptera-160" / "test"),
        *("--backbone", "MobileNet", "--alpha", 0.25, "--weights", "none"),
        *("--image-size", 32, "--epochs", 1, "--hidden-units", 8, 4),
    )
    # A fifth of 70 ants and of 83 bees.
    assert re.search(r"ants: [\d.]+ of 14\n +bees: [\d.]+ of 17", output)


def test_vgg16_top_layers(shared_data, tmp_path, run_example):
    data = tmp_path / "few"
    for photos in (shared_data / "hymenoptera-160").glob("*/*"):
        few = data / photos.parent.name / photos.name
        few.mkdir(parents=True)
        for photo in sorted(photos.iterdir())[:16]:
            shutil.copy(photo, few)
    output = run_example(
        "vgg16_top_layers.py",
        *("--data", data, "--weights", "none"),
        *("--epochs", 1, "--image-size", 32),
    )
    assert accuracy(output) >= 0.3
    assert re.search(r"block4 .* 0 .*\n *block5 .*7,079,424", output)
    assert (tmp_path / "vgg16.keras").exists()


def test_tune(shared_data, tmp_path, run_example):
    options = [
        *("--data", shared_data / "hymenoptera-160", "--image-size", 96),
        *("--weights", shared_data / WEIGHTS),
        *("--algorithm", "random", "--trials", 2, "--epochs", 2),
    ]
    output = run_example("tune.py", *options)
    score = r"Validation accuracy: ([\d.]+), again: ([\d.]+)"
    won, again = re.search(score, output).groups()
    assert won == again
    # In a fresh process, which exits with an error if it is another score.
    process = FreshProcess(
        EXAMPLES / "tune.py",
        *(*options, "--reload"),
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        cwd=tmp_path,
    )
    assert process.wait() == 0, process.stderr[-3000:]
    output = process.stdout
    assert re.search(score, output).groups() == (won, won)
    assert accuracy(output) >= 0.6
