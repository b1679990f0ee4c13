"""Texts in the forms in which people have them."""

import numpy as np
import pandas as pd
import pytest

import finetune_keras as ft
from finetune_keras.training.data_checks import check_given
from finetune_keras.training.inputs import Inputs

PLAN = ft.plans.full(epochs=1)
TEXTS = ["a good film", "bad"] * 4
NAMES = ["pos", "neg"] * 4


@pytest.fixture
def model(small_bert):
    bert, tokenizer = small_bert
    return ft.text_classifier(
        bert, ["neg", "pos"], sequence_length=8, tokenizer=tokenizer
    )


def refused(model, data, match):
    with pytest.raises(ValueError, match=match):
        ft.fine_tune(model, PLAN, data, verbose=0)


@pytest.fixture
def frame():
    return pd.DataFrame({"text": TEXTS, "label": NAMES, "other": TEXTS})


def test_a_column_of_a_frame_is_a_list_of_texts(model, frame):
    """Whether it is one column or a frame of one, of texts and of labels."""
    model.compile("sgd", "sparse_categorical_crossentropy")
    expected = model.tokenize((TEXTS, NAMES)).parts
    outputs = model.predict(TEXTS, verbose=0)
    for x in (frame["text"], frame[["text"]], frame[["text"]].to_numpy()):
        for y in (frame["label"], frame[["label"]], np.array([[1], [0]] * 4)):
            inputs = Inputs((x, y), model, "train")
            for one, other in zip(inputs.data.parts, expected, strict=True):
                np.testing.assert_array_equal(
                    one[0]["token_ids"], other[0]["token_ids"]
                )
                np.testing.assert_array_equal(one[1], other[1])
        np.testing.assert_array_equal(model.predict(x, verbose=0), outputs)
        report = ft.evaluate(model, (x, frame["label"]), ["neg", "pos"])
        assert report.metrics["accuracy"] in (0, 0.5, 1)


def test_a_whole_frame_is_told_from_its_columns(model, frame):
    refused(model, frame, r"\(frame\['text'\], frame\['label'\]\)")
    refused(model, (frame, NAMES), "'text', 'label', 'other'")


def test_texts_without_labels_say_what_they_are_for(model, small_bert):
    for data in ((TEXTS,), (TEXTS, None)):
        refused(model, data, "must hold labels.*masked_language_model")
    for data in (TEXTS, TEXTS[:2]):
        refused(model, data, "must hold labels")
    with pytest.raises(ValueError, match="must hold labels"):
        model.fit(TEXTS, verbose=0)
    bert, tokenizer = small_bert
    learner = ft.masked_language_model(bert, tokenizer=tokenizer)
    # Alone they pass the door of `fine_tune`, and are tokenised.
    check_given((TEXTS,), "train")
    assert len(learner.tokenize((TEXTS,))) == 1


@pytest.mark.parametrize("missing", [np.nan, None])
def test_a_missing_label_of_a_text_is_told_by_its_row(model, missing):
    names = [*NAMES[:5], missing, *NAMES[6:]]
    for y in (names, np.array(names, object), pd.Series(names)):
        refused(model, (TEXTS, y), r"1 of the 8 texts.*\[5\]")


@pytest.mark.parametrize("bad", [np.nan, 0.5, -1, 2])
def test_a_label_of_a_text_that_is_no_class_is_refused(model, bad):
    y = np.array([1.0, 0.0] * 4)
    y[5] = bad
    refused(model, (TEXTS, y), "labels of `train`")
    refused(model, (TEXTS, y[:, None]), "labels of `train`")
