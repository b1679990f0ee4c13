"""The examples that need nothing but the package run as they stand."""

import json
import pathlib
import re

import pytest

from finetune_keras.testing.processes import FreshProcess

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
# Examples make few steps here.
pytestmark = pytest.mark.usefixtures("op_by_op")


def test_quickstart_transfers():
    process = FreshProcess(EXAMPLES / "quickstart.py", "--seeds", "1")
    assert process.wait() == 0, process.stderr[-3000:]
    lines = process.stdout.splitlines()
    (mean,) = [line.split() for line in lines if line.startswith("mean")]
    fine_tuned, scratch, difference = map(float, mean[1:])
    assert difference >= 0.10
    assert abs(fine_tuned - scratch - difference) < 0.002
    assert len([line for line in lines if line[:1].isdigit()]) == 2


def test_vgg16_tells_how_to_call_it(run_example):
    assert "--data photos" in run_example("vgg16_top_layers.py")


def test_segmentation(run_example, tmp_path):
    options = ("--count", 12, "--image-size", 16, "--width", 2, "--epochs", 1)
    output = run_example("segmentation.py", *options)
    assert "3 classes, segmentation" in output and "48 x 48" in output
    assert float(output.split()[-1]) > 0.1
    for name in ("masks.keras", "report.html", "large.png"):
        assert (tmp_path / "segmentation" / name).exists()


def test_detection(run_example, tmp_path):
    pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    options = ("--pictures", 6, "--image-size", 32, "--epochs", 1)
    output = run_example("detection.py", *options)
    assert "6 images, 2 classes" in output and "mAP 50-95" in output
    assert 0 <= float(output.split()[-1]) <= 1
    assert (tmp_path / "detector.keras").exists()
    assert (tmp_path / "report.html").exists()


@pytest.fixture
def preset(small_bert, tmp_path):
    """Folder of a small BERT, as `--backbone` takes it."""
    for part in small_bert:
        part.save_to_preset(tmp_path / "bert")
    return tmp_path / "bert"


TEXT_OPTIONS = (
    *("--sequence-length", 32, "--epochs", 2),
    *("--learning-rate", 0.01, "--batch-size", 8),
)


@pytest.fixture
def on_texts(run_example, preset, tmp_path):
    """Runs an example on the texts of a folder."""
    places = ("--data", tmp_path, "--backbone", preset)
    return lambda script: run_example(script, *places, *TEXT_OPTIONS)


def test_bert_sentiment(on_texts, tmp_path):
    lines = ["label\tsentence"]
    lines += [f"{i % 2}\t{('bad', 'good')[i % 2]} film {i}" for i in range(40)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    output = on_texts("bert_sentiment.py")
    assert "2 classes, 40 examples" in output
    assert float(output.split()[-1]) >= 0.4
    assert (tmp_path / "sentiment" / "sentiment.keras").exists()


def test_embeddings(run_example, tmp_path):
    pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    output = run_example("embeddings.py", "--epochs", 3)
    before, after = re.search(r"nDCG at 10 (\S+) -> (\S+),", output).groups()
    assert float(after) > float(before) + 0.05
    assert (tmp_path / "encoder" / "modules.json").exists()


def test_named_entities(on_texts, tmp_path):
    text = "ann\tB-person\nran\tO\n\nparis\tB-place\n\n" * 12
    for name in ("train", "test"):
        (tmp_path / f"{name}.conll").write_text(text)
    output = on_texts("named_entities.py")
    assert "Berlin/" in output and "entity F1 " in output
    assert (tmp_path / "entities.keras").exists()


def test_question_answering(on_texts, tmp_path):
    answer = {"text": "ann", "answer_start": 11}
    entry = {"question": "who ran?", "answers": [answer]}
    paragraph = {"context": "a bad film ann ran", "qas": [entry] * 10}
    text = json.dumps({"data": [{"paragraphs": [paragraph]}]})
    for name in ("train", "test"):
        (tmp_path / f"{name}.json").write_text(text)
    output = on_texts("question_answering.py")
    assert "exact match " in output
    assert (tmp_path / "reader.keras").exists()


def test_compare_adapters(run_example, preset, tmp_path):
    lines = ["label\tsentence"]
    lines += [f"{i % 2}\t{('bad', 'good')[i % 2]} film {i}" for i in range(24)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    output = run_example(
        "compare_adapters.py",
        *("--data", tmp_path, "--backbone", preset, "--sequence-length", 32),
        *("--epochs", 1, "--ways", "LoRA", "prompt", "full"),
    )
    rows = [line.split() for line in output.splitlines()]
    (lora,) = [row for row in rows if row[:1] == ["LoRA"] and len(row) == 8]
    (full,) = [row for row in rows if row[:1] == ["full"] and len(row) == 8]
    assert float(lora[3].rstrip("%")) < 50 < float(full[3].rstrip("%"))
    assert (tmp_path / "compare_adapters.png").exists()


def test_sound(run_example, tmp_path):
    output = run_example("sound.py", "--count", 16, "--epochs", 1)
    assert "48 sounds, 3 classes" in output and "22,050 Hz (15)" in output
    assert float(output.split()[-1]) >= 0.95
    assert (tmp_path / "sounds.keras").exists()


def test_tables(run_example, tmp_path):
    output = run_example("tables.py", "--epochs", 1)
    assert (
        "Columns: 13" in output and "Predicted: {'label': 'class_0'" in output
    )
    *_, theirs = output.split("pipeline: ")[1].split("\n")[0].split()
    assert float(output.split()[-1]) >= float(theirs) - 0.05 >= 0.85
    assert (tmp_path / "table.keras").exists()


def write_columns(folder, rows):
    for name in ("train", "test"):
        lines = ["\t".join(row) for row in rows]
        (folder / f"{name}.tsv").write_text("\n".join(lines))


def test_language_model(run_example, small_writer, tmp_path):
    output = run_example("language_model.py", "--epochs", 1, "--limit", 2)
    assert "exact match" in output
    rows = [("question", "answer"), ("is a", "yes"), ("is b", "no")]
    write_columns(tmp_path, rows)
    small_writer(layers=1).save_to_preset(tmp_path / "preset")
    places = "--data", tmp_path, "--model", tmp_path / "preset"
    output = run_example("language_model.py", *places, "--epochs", 1)
    assert "before: {" in output and "'is a': " in output
    assert (tmp_path / "answers.safetensors").exists()


def test_translation(run_example, tmp_path):
    write_columns(tmp_path, [("source", "target"), ("jan 2", "2.1.")])
    for data in ((), ("--data", tmp_path)):
        options = "--epochs", 1, "--limit", 2
        output = run_example("translation.py", *data, *options)
        assert "ROUGE-L" in output and "bleu" in output and "'jan" in output
