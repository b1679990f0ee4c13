import time

import pytest

import finetune_keras as ft
from finetune_keras.text import text_backbones

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="bert_small_en_uncased"):
        ft.text_backbone("bert_smal_en_uncased")


def test_folder_without_a_model(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="no config.json"):
        ft.text_backbone(tmp_path)


def test_folder_with_a_damaged_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="cannot be loaded"):
        ft.text_backbone(tmp_path)


@pytest.mark.parametrize("preset", ["bert_small_en_uncased", "hf://a/b"])
def test_no_network_is_told_within_seconds(preset, monkeypatch, tmp_path):
    import socket

    def hang(*arguments, **options):
        time.sleep(20)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(text_backbones, "_ANSWER_SECONDS", 1)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="copy the folder here and pass"):
        ft.text_backbone(preset)
    assert time.perf_counter() - start < 6


def test_local_preset_folder(small_bert, tmp_path):
    backbone, tokenizer = small_bert
    backbone.save_to_preset(tmp_path)
    tokenizer.save_to_preset(tmp_path)
    model = ft.text_backbone(tmp_path, sequence_length=16)
    assert type(model).__name__ == "FineTuneModel"
    for a, b in zip(model.get_weights(), backbone.get_weights(), strict=True):
        assert (a == b).all()
    found, _ = model.encoder.encode(["a good film"])
    assert found["token_ids"].tolist() == [[2, 5, 6, 8, 3]]


def test_kerashub_task_brings_its_tokenizer(small_bert):
    backbone, tokenizer = small_bert
    task = hub.models.BertTextClassifier(
        backbone,
        num_classes=2,
        preprocessor=hub.models.BertTextClassifierPreprocessor(tokenizer, 16),
    )
    model = ft.text_backbone(task, sequence_length=16)
    assert model.encoder.tokenizer is tokenizer
    assert "logits" not in {layer.name for layer in model.layers}
