import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.engine import graph
from finetune_keras.testing import randomize, weights_snapshot

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
SENTENCES = [["ann", "ran"], ["paris", "was", "badly", "good"], ["bob"]] * 8
TAGS = [["B-p", "O"], ["B-l", "O", "O", "O"], ["B-p"]] * 8
CONTEXT = "a good film was bad . ann ran . " * 3
START = CONTEXT.index("ann")


@pytest.fixture
def backbone(small_bert):
    return ft.text_backbone(*small_bert, sequence_length=32)


def reload(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


def test_multi_label(backbone):
    model = ft.text_classifier(backbone, ["a", "b", "c"], task="multi_label")
    y = np.array([[1, 0, 1], [0, 0, 0]] * 8)
    texts = ["good film", "bad"] * 8
    plan = ft.plans.full(epochs=20, learning_rate=2e-2)
    history = ft.fine_tune(model, plan, (texts, y), batch_size=4, verbose=0)
    assert model.loss == "binary_crossentropy"
    losses = [row["loss"] for row in history.epochs]
    assert losses[-1] < losses[0] / 3


def test_pairs_and_regression(backbone):
    model = ft.text_regressor(backbone)
    x = ["good film", "bad"] * 8, ["ann", "a good film"] * 8
    y = np.array([1.0, -1.0] * 8)
    plan = ft.plans.full(epochs=15, learning_rate=1e-2)
    ft.fine_tune(model, plan, (x, y), batch_size=4, verbose=0)
    found = model.predict(x, verbose=0)
    assert found.shape == (16, 1)
    assert found[0, 0] > 0.3 > -0.3 > found[1, 0]


def family(name, tokenizer):
    config = {
        "vocabulary_size": tokenizer.vocabulary_size(),
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "max_sequence_length": 32,
    }
    if name == "Albert":
        config["embedding_dim"] = 4
    return getattr(hub.models, f"{name}Backbone")(**config)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize(
    "name, pooler",
    [
        ("Albert", "pooled_dense"),
        ("DebertaV3", "head_dense_1"),
        ("DistilBert", "head_dense_1"),
        ("Roberta", "head_dense_1"),
    ],
)
def test_other_families_by_the_same_code(small_bert, name, pooler, tmp_path):
    tokenizer = small_bert[1]
    model = ft.text_classifier(
        family(name, tokenizer), 2, tokenizer=tokenizer, sequence_length=32
    )
    assert pooler in [layer.name for layer in model.layers]
    before = weights_snapshot(model)
    texts = ["good film", "bad " * 20] * 4, [1, 0] * 4
    plan = ft.Plan([ft.Phase("head", 1, 1e-2), ft.Phase("all", 1, 1e-2)])
    ft.fine_tune(model, plan, texts, batch_size=8, verbose=0)
    after = weights_snapshot(model)
    assert all((before[p] != after[p]).any() for p in before if "head" in p)
    found = model.predict(texts[0], verbose=0)
    again = reload(model, tmp_path).predict(texts[0], verbose=0)
    np.testing.assert_allclose(again, found, atol=1e-5)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_padding_is_not_pooled(backbone, pooling, tmp_path):
    model = ft.text_classifier(backbone, 2, pooling=pooling, dropout=0.1)
    texts = ["good film", "bad bad film good bad"]
    alone = [model.predict([text], verbose=0)[0] for text in texts]
    together = model.predict(texts, verbose=0)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    again = reload(model, tmp_path).predict(texts, verbose=0)
    np.testing.assert_allclose(again, together, atol=1e-5)

    other = ft.replace_head(model, 3, pooling=pooling)
    assert other.layers[-1].output.shape == (None, 3)
    assert len(other.layers) == len(model.layers) - 1  # the dropout
    found = {}
    for cache in ("off", "memory"):
        model = ft.text_classifier(backbone, 2, pooling=pooling, dropout=0.0)
        for layer in graph.all_layers(model):
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        model.layers[-1].kernel.assign(0.1 * np.arange(16).reshape(8, 2))
        plan = ft.plans.linear_probe(epochs=2, learning_rate=1e-2)
        ft.fine_tune(model, plan, (texts, [1, 0]), cache=cache, verbose=0)
        found[cache] = model.predict(texts, verbose=0)
    np.testing.assert_allclose(found["off"], found["memory"], atol=1e-4)
    assert np.abs(found["off"] - together).max() > 1e-4


@pytest.mark.usefixtures("op_by_op")
def test_tags_are_learnt_saved_and_scored(backbone, tmp_path):
    model = ft.token_classifier(backbone, ["O", "B-p", "B-l"])
    plan = ft.plans.full(epochs=15, learning_rate=4e-2)
    data = SENTENCES, TAGS
    history = ft.fine_tune(
        model, plan, data, data, batch_size=24, validation_freq=15, verbose=0
    )
    assert history.epochs[-1]["val_accuracy"] > 0.9
    found = model.predict(SENTENCES, verbose=0)
    assert [len(tags) for tags in found] == [len(s) for s in SENTENCES]
    assert ft.entity_scores(TAGS, found)["f1"] > 0.9
    assert reload(model, tmp_path).predict(SENTENCES, verbose=0) == found
    ft.save_bundle(model, tmp_path / "tags.keras")
    bundle = ft.load_bundle(tmp_path / "tags.keras")
    assert bundle.facts["task"] == "tags"
    assert bundle.predict(SENTENCES[:3]) == found[:3]


@pytest.mark.backends
@pytest.mark.usefixtures("op_by_op")
def test_padding_weighs_nothing(backbone):
    model = ft.token_classifier(backbone, ["O", "B-p", "B-l"], dropout=0.0)
    randomize(model)
    model.compile("sgd", **model.task.compile_arguments())
    data = SENTENCES, TAGS
    loss, _ = model.evaluate(*data, batch_size=24, verbose=0)
    x = model.arrays(SENTENCES)
    found = keras.ops.convert_to_numpy(model(x))
    losses = []
    for i, tags in enumerate(TAGS):
        starts = model.encoder._rows([SENTENCES[i]])[0][1]
        numbers = [["O", "B-p", "B-l"].index(tag) for tag in tags]
        losses += [-np.log(found[i, starts, numbers])]
    assert loss == pytest.approx(np.concatenate(losses).mean(), abs=1e-4)


@pytest.mark.backends
@pytest.mark.usefixtures("op_by_op")
def test_answers_are_learnt_saved_and_scored(backbone, tmp_path):
    model = ft.question_answerer(backbone, sequence_length=20)
    x = ["who ran ?"] * 8, [CONTEXT] * 8
    y = np.array([(START, START + 3)] * 8)
    plan = ft.plans.full(epochs=12, learning_rate=4e-2)
    ft.fine_tune(model, plan, (x, y), verbose=0)
    found = model.predict((x[0][:2], x[1][:2]), verbose=0)
    assert found[0]["text"] == "ann"
    scores = ft.answer_scores(found, [["Ann"], ["Ann!"]])
    assert scores == {"exact_match": 1.0, "f1": 1.0}
    loaded = reload(model, tmp_path)
    again = loaded.predict((x[0][:2], x[1][:2]), verbose=0)
    assert [a["text"] for a in again] == [a["text"] for a in found]
    outputs = loaded.predict(loaded.arrays((x[0][:1], x[1][:1])), verbose=0)
    np.testing.assert_allclose(outputs.sum(axis=-1), 1, atol=1e-5)


def test_masked_words_are_learnt_and_leave_the_backbone_adapted(backbone):
    model = ft.masked_language_model(backbone, mask_rate=0.3)
    before = weights_snapshot(backbone)
    texts = ["a good film was not very bad"] * 32
    plan = ft.plans.full(epochs=12, learning_rate=2e-2)
    data = (texts,)
    history = ft.fine_tune(model, plan, data, data, batch_size=8, verbose=0)
    losses = [row["val_loss"] for row in history.epochs]
    assert losses[-1] < losses[0] * 0.7
    classifier = ft.text_classifier(backbone, 2)
    after = weights_snapshot(classifier)
    moved = [(before[p] != after[p]).any() for p in before if p in after]
    assert sum(moved) > 30


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("name", ["Roberta", "DistilBert", "Albert"])
def test_masked_words_in_other_families(small_bert, name):
    tokenizer = small_bert[1]
    model = ft.masked_language_model(family(name, tokenizer), 32, tokenizer)
    history = ft.fine_tune(
        model, ft.plans.full(epochs=1), (["good film bad"] * 8,), verbose=0
    )
    assert np.isfinite(history.epochs[0]["loss"])


def test_faults_are_met_at_the_door(backbone, small_bert):
    with pytest.raises(ValueError, match="needs its tokeniser"):
        ft.text_backbone(small_bert[0])
    with pytest.raises(ValueError, match="at most 32 tokens"):
        ft.text_backbone(*small_bert, sequence_length=33)
    with pytest.raises(ValueError, match="at least 2"):
        ft.text_classifier(backbone, 1)
    model = ft.text_classifier(backbone, 2)
    with pytest.raises(ValueError, match="must hold labels"):
        ft.fine_tune(model, ft.plans.full(), (["good"],), verbose=0)
    with pytest.raises(ValueError, match="The labels of `train`"):
        ft.fine_tune(model, ft.plans.full(), (["a", "a"], [0, 2]), verbose=0)
