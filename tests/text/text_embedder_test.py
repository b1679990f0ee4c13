import json

import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.text_encoder import TextEncoder
from finetune_keras.testing import randomize
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.text.sentence_files import read_modules
from finetune_keras.text.text_backbones import _strip_accents

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
pytestmark = pytest.mark.usefixtures("op_by_op")
QUESTIONS = ["who ran", "where was bob", "good", "paris ?"]
ANSWERS = ["ann", "bob was very badly a film a film", "bad", "film"]
PLAN = ft.Plan([ft.Phase("all", 1, 1e-2)])


@pytest.fixture
def tiny_bert(small_bert):
    """One layer: training it is cheap."""
    config = {**small_bert[0].get_config(), "num_layers": 1, "dropout": 0.0}
    bert = hub.models.BertBackbone(**{**config, "name": "tiny"})
    return bert, small_bert[1]


@pytest.fixture
def encoder(tiny_bert):
    bert, tokenizer = tiny_bert
    model = ft.text_embedder(bert, 32, tokenizer)
    randomize(model)
    return model


def test_pairs_come_together(tiny_bert):
    bert, tokenizer = tiny_bert
    encoder = ft.text_embedder(bert, 32, tokenizer)
    data = ft.pairs(QUESTIONS, ANSWERS)
    before = ft.evaluate(encoder, data, verbose=0)
    plan = ft.Plan([ft.Phase("all", 4, 5e-2)])
    history = ft.fine_tune(encoder, plan, data, batch_size=8, verbose=0)
    report = ft.evaluate(encoder, data, verbose=0)
    losses = [row["loss"] for row in history.epochs]
    assert losses[-1] < 0.8 * losses[0]
    assert report.metrics["mrr"] >= before.metrics["mrr"]
    assert len(report) == 4
    assert ft.compare(before, report).metrics["mrr"]["difference"] >= 0
    again = ft.Report.from_json(report.to_json())
    assert again.metrics == report.metrics and again.task == "vectors"
    assert "nDCG at 10" in str(again)


def test_labelled_texts_and_a_classifier_on_top(encoder, tmp_path):
    texts = ["ann ran", "bob ran", "a good film", "a bad film ?"] * 2
    labels = ["who", "who", "what", "what"] * 2
    report = ft.evaluate(encoder, (texts, labels), bootstrap=0, verbose=0)
    assert len(report) == 8 and len(report.worst) == 8
    model = ft.text_classifier(encoder, ["what", "who"], pooling="avg")
    ft.fine_tune(model, ft.plans.linear_probe(), (texts, labels), verbose=0)
    accuracy = ft.evaluate(model, (texts, labels), verbose=0).metrics
    assert accuracy["accuracy"] == 1.0
    assert ft.replace_head(encoder, 3).output_shape == (None, 3)


def test_the_file_gives_the_same_vectors(encoder, tmp_path):
    vectors = encoder.predict(QUESTIONS, verbose=0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    ft.save_bundle(encoder, tmp_path / "encoder.keras")
    process = FreshProcess(
        "-c",
        f"""
import keras, numpy as np, finetune_keras as ft
path = {str(tmp_path / "encoder.keras")!r}
assert keras.models.load_model(path).task == "vectors"
np.save(path + ".npy", ft.load_bundle(path).predict({QUESTIONS}))
""",
    )
    assert process.wait() == 0, process.stderr[-3000:]
    found = np.load(tmp_path / "encoder.keras.npy")
    np.testing.assert_allclose(found, vectors, atol=1e-5)


def bert_by_hand(folder, ids):
    """The mean of the tokens of one text, from a folder, in NumPy alone."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    heads = config["num_attention_heads"]
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        q, k, v = (
            dense(x, f"{at}.attention.self.{name}").reshape(len(ids), heads, -1)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1])
        scores = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        y = np.einsum("hij,jhd->ihd", scores, v).reshape(x.shape)
        y = dense(y, f"{at}.attention.output.dense")
        x = norm(x + y, f"{at}.attention.output.LayerNorm")
        y = dense(x, f"{at}.intermediate.dense")
        y = 0.5 * y * (1 + np.tanh(0.7978845608 * (y + 0.044715 * y**3)))
        y = dense(y, f"{at}.output.dense")
        x = norm(x + y, f"{at}.output.LayerNorm")
    assert config["hidden_act"] == "gelu_pytorch_tanh"
    x = x.mean(axis=0)
    return x / np.linalg.norm(x)


def test_files_of_sentence_transformers(encoder, tmp_path):
    ft.add_adapters(encoder, ft.LoRA(rank=2))
    with pytest.raises(ValueError, match="merge_adapters"):
        ft.save_sentence_transformer(encoder, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
    ft.plans.adapters(epochs=1).check(ft.layer_groups(encoder))
    randomize(encoder)
    ft.merge_adapters(encoder)
    folder = tmp_path / "encoder"
    ft.save_sentence_transformer(encoder, folder)
    vectors = encoder.predict(ANSWERS, verbose=0)
    words = (folder / "vocab.txt").read_text("utf-8").split("\n")
    for text, vector in zip(ANSWERS, vectors, strict=False):
        pieces = f"[CLS] {text.replace('badly', 'bad ##ly')} [SEP]".split()
        expected = bert_by_hand(folder, [words.index(x) for x in pieces])
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    again = ft.text_embedder(folder)
    assert again.encoder.sequence_length == 32
    found = again.predict(ANSWERS, verbose=0)
    np.testing.assert_allclose(found, vectors, atol=1e-5)


def test_folders_say_how_they_pool(tiny_bert, tmp_path):
    bert, tokenizer = tiny_bert
    encoder = ft.text_embedder(bert, 16, tokenizer, "token", normalize=False)
    ft.save_sentence_transformer(encoder, tmp_path)
    again = ft.text_embedder(tmp_path)
    names = [layer.name for layer in again.layers]
    assert not {"head_pooling", "head_unit"} & set(names)
    found = [m.predict(["ann ran"], verbose=0) for m in (encoder, again)]
    np.testing.assert_allclose(*found, atol=1e-5)
    config = tmp_path / "1_Pooling" / "config.json"
    config.write_text('{"pooling_mode": "max"}')
    told = {"pooling": "max", "normalize": False, "sequence_length": 16}
    assert read_modules(tmp_path) == told
    config.write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(ValueError, match="pools by one of"):
        read_modules(tmp_path)


@pytest.mark.parametrize("told, strips", [(None, True), (False, False)])
def test_accents_are_those_of_hugging_face(small_bert, tmp_path, told, strips):
    tokenizer = small_bert[1]
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"do_lower_case": True, "strip_accents": told}))
    _strip_accents(tokenizer, tmp_path)
    assert tokenizer.strip_accents == strips
    found = TextEncoder(tokenizer, 16).token_ids(["Ánn"])[0]
    assert (found == [tokenizer.token_to_id("ann")]) == strips


def test_what_is_no_encoder_is_refused(tiny_bert):
    backbone = ft.text_backbone(*tiny_bert, sequence_length=32)
    classifier = ft.text_classifier(backbone, 2)
    data = ft.pairs(QUESTIONS, ANSWERS)
    for use in (
        lambda: ft.fine_tune(classifier, PLAN, data, verbose=0),
        lambda: ft.evaluate(classifier, data, verbose=0),
    ):
        with pytest.raises(ValueError, match="text_embedder"):
            use()
    with pytest.raises(ValueError, match="text_embedder"):
        ft.save_sentence_transformer(classifier, "folder")
