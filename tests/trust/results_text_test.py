"""Texts with labels of their own, sentences as strings, and no answer."""

import warnings

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.model import FineTuneModel
from finetune_keras.models.text_encoder import TextEncoder
from finetune_keras.testing import randomize

pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
CONTEXT = "ann ran . paris was good"
QUESTION = ["who ran ?"]


@pytest.fixture
def base(small_bert):
    return ft.text_backbone(*small_bert, sequence_length=16)


@pytest.fixture
def tagger(base):
    model = ft.token_classifier(base, ["O", "B-p", "B-l"])
    randomize(model)
    return model


@pytest.fixture
def reader(base):
    return ft.question_answerer(base)


# === As many labels as texts ===


@pytest.mark.parametrize("extra", [1, -1])
def test_more_or_fewer_labels_or_weights_than_texts_are_refused(extra, base):
    texts, count = ["good film", "bad", "bob ran"], 3 + extra
    model = ft.text_classifier(base, ["neg", "pos"])
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels, weights = ["pos", "neg", "pos", "neg"], [1.0] * 4
    plan = ft.plans.full(epochs=1)
    for y, weight in ((count, 3), (3, count)):
        data = texts, labels[:y], weights[:weight]
        message = f"3 texts and {count}"
        with pytest.raises(ValueError, match=message):
            ft.fine_tune(model, plan, data, verbose=0)
        with pytest.raises(ValueError, match=message):
            model.fit(texts, data[1], sample_weight=data[2], verbose=0)
        good = texts, labels[:3]
        with pytest.raises(ValueError, match=message):
            model.fit(*good, validation_data=data, verbose=0)
        with pytest.raises(ValueError, match=message):
            model.evaluate(*data[:2], sample_weight=data[2], verbose=0)


def test_more_labels_than_pairs_sentences_or_questions_are_refused(
    base, tagger, reader
):
    pairs = ft.text_classifier(base, 2)
    cases = [
        (pairs, (["a", "good"], ["film", "bad"]), [0, 1, 1]),
        (tagger, [["ann", "ran"], ["bob"]], [["B-p", "O"], ["O"], ["O"]]),
        (reader, (QUESTION * 2, [CONTEXT] * 2), [(0, 3)] * 3),
    ]
    for model, x, y in cases:
        with pytest.raises(ValueError, match="2 texts and 3 labels"):
            model.tokenize((x, y))
        with pytest.raises(ValueError, match="2 texts and 1 labels"):
            model.tokenize((x, y[:1]))


# === Sentences as strings ===


def test_a_sentence_as_a_string_gets_a_tag_for_each_word(tagger):
    words = [["ann", "ran", "badly"], ["bob"]]
    strings = [" ".join(words[0]), "  bob\n"]
    expected = tagger.predict(words, verbose=0)
    assert [len(tags) for tags in expected] == [3, 1]
    assert tagger.predict(np.array(strings), verbose=0) == expected
    assert tagger.predict(strings[0], verbose=0) == expected[:1]
    tags = [["B-p", "O", "O"], ["B-p"]]
    a, b = (tagger.encoder.prepare(x, tags) for x in (words, strings))
    keras.tree.map_structure(np.testing.assert_array_equal, a, b)


def test_one_sentence_as_a_list_of_words_is_told(tagger):
    with pytest.warns(UserWarning, match=r"\[\['ann', 'ran'\]\]"):
        tagger.encoder.prepare(["ann", "ran"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tagger.encoder.prepare(["ann ran", "bob"])


# === No answer ===


def outputs(encoder, x, none, first, last, answer):
    """What a model gives that is this sure of no answer and of an answer."""
    windows = encoder._windows(*x)
    width = max(len(window.ids) for window in windows)
    found = np.zeros((len(windows), 2, width))
    found[:, :, 0] = none
    for row, window in zip(found, windows, strict=True):
        row[0, window.first + first] = answer
        row[1, window.first + last] = answer
    return found


def test_no_answer_is_given_where_the_model_holds_it_likelier(reader):
    x = QUESTION, [CONTEXT]
    encoder = reader.encoder
    none = {"text": "", "start": -1, "end": -1}
    sure = encoder.finish(outputs(encoder, x, 0.9999, 0, 0, 0.0001), x)
    score = pytest.approx(0.9998, abs=1e-4)
    assert sure == [{**none, "score": score, "no_answer": pytest.approx(1.0)}]
    found = encoder.finish(outputs(encoder, x, 0.4, 0, 1, 0.6), x)
    assert found[0]["text"] == "ann ran"
    assert found[0]["score"] == pytest.approx(0.36)
    assert found[0]["no_answer"] == pytest.approx(0.16 / (0.16 + 0.36))
    encoder.threshold = 0.3
    (found,) = encoder.finish(outputs(encoder, x, 0.4, 0, 1, 0.6), x)
    assert found["text"] == "" and found["score"] == pytest.approx(0.16)


def test_an_answer_in_one_window_counts_though_others_have_none(reader):
    x = QUESTION, ["a good film . " * 6 + CONTEXT]
    encoder = reader.encoder
    found = outputs(encoder, x, 0.99, 0, 0, 0.01)
    assert len(found) > 2
    found[1] = outputs(encoder, x, 0.3, 1, 1, 0.7)[1]
    window = encoder._windows(*x)[1]
    answer = encoder.finish(found, x)[0]
    assert (answer["start"], answer["end"]) == (
        window.starts[1],
        window.ends[1],
    )
    found[1] = outputs(encoder, x, 0.8, 1, 1, 0.2)[1]
    assert encoder.finish(found, x)[0]["text"] == ""


def test_blanks_at_the_edge_of_an_answer_are_left_out_and_told(reader):
    x = QUESTION, [CONTEXT]
    start = CONTEXT.index("paris")
    exact = reader.encoder.prepare(x, [(start, start + 5)])[2]
    assert exact[0].min() > 0
    with pytest.warns(UserWarning, match="1 of 1 answers have blanks"):
        found = reader.encoder.prepare(x, [(start - 1, start + 6)])[2]
    np.testing.assert_array_equal(found[0], exact[0])


@pytest.mark.parametrize(
    "answer",
    [
        (5, 2),
        (4, 4),
        (-1, 3),
        (0, len(CONTEXT) + 1),
        (0, np.nan),
        (0, 2.5),
        (3, 4),  # a blank
    ],
)
def test_answers_that_are_no_part_of_their_context_are_refused(answer, reader):
    with pytest.raises(ValueError, match="no part of their context") as error:
        reader.encoder.prepare((QUESTION * 2, [CONTEXT] * 2), [(0, 3), answer])
    assert "answers [1]" in str(error.value)


def test_an_answer_that_no_window_holds_is_told(reader):
    context = "ann was a good film " * 4
    with pytest.warns(UserWarning, match="1 of 1 answers stand in no window"):
        labels = reader.encoder.prepare((QUESTION, [context]), [(0, 79)])[2]
    assert labels[0].max() == 0


# === Cross-validation and evaluation of texts ===


def bag_of_words(tokenizer):
    """The quickest of text models, which trains as the others do."""
    keras.utils.set_random_seed(0)
    names = "token_ids", "padding_mask"
    inputs = {name: keras.Input((None,), name=name) for name in names}
    size = tokenizer.vocabulary_size()
    x = keras.layers.Embedding(size, 8, name="words")(inputs["token_ids"])
    x = keras.layers.GlobalAveragePooling1D()(x, mask=inputs["padding_mask"])
    outputs = keras.layers.Dense(2, "softmax", name="head")(x)
    model = FineTuneModel(inputs, outputs)
    model.encoder = TextEncoder(tokenizer, 16, ["pos", "neg"])
    return model


TEXTS = ["good film", "a bad film", "very good", "bad bad"] * 6
NAMES = ["pos", "neg"] * 12


def test_a_list_of_texts_is_cross_validated(small_bert):
    plan = ft.plans.full(epochs=8, learning_rate=0.3)
    found = ft.cross_validate(
        lambda: bag_of_words(small_bert[1]),
        plan,
        (TEXTS, NAMES),
        folds=2,
        verbose=0,
    )
    assert found.mean["accuracy"] > 0.9
    assert found.reports[0].classes == ["pos", "neg"]


def test_labels_of_a_text_model_are_read_by_its_own_names(small_bert):
    """Names in the order of the outputs, in the labels too."""
    model = bag_of_words(small_bert[1])
    best = model.predict(TEXTS, verbose=0).argmax(-1)
    right = np.array(NAMES) == np.array(["pos", "neg"])[best]
    report = ft.evaluate(model, (TEXTS, NAMES), verbose=0, bootstrap=0)
    assert report.metrics["accuracy"] == right.mean()
    ids = [["pos", "neg"].index(name) for name in NAMES]
    pairs = TEXTS, [""] * len(TEXTS)
    best = model.predict(pairs, verbose=0).argmax(-1)
    report = ft.evaluate(model, (pairs, ids), verbose=0, bootstrap=0)
    assert report.metrics["accuracy"] == (best == ids).mean()


def test_labels_that_no_fold_can_judge_are_refused(base):
    plan = ft.plans.full(epochs=1)
    tagged = [["ann", "ran"], ["bob"]] * 4, [["O", "O"], ["O"]] * 4
    with pytest.raises(ValueError, match="entity_scores"):
        ft.cross_validate(lambda: base, plan, tagged, folds=2, verbose=0)
    with pytest.raises(ValueError, match=r"\[4\] examples and 3 labels"):
        ft.cross_validate(lambda: base, plan, (["a"] * 4, [0, 1, 0]), folds=2)
