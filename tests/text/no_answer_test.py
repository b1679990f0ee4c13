"""From which probability on a question has no answer."""

import itertools

import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.results.answer_threshold import (
    accepted_texts,
    best_threshold,
)
from finetune_keras.testing import randomize


def score(threshold, shares, given, none):
    return sum(np.where(np.array(shares) > threshold, none, given))


@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    shares = rng.integers(0, 5, 12) / 4
    given, none = rng.random(12), rng.integers(0, 2, 12)
    found = best_threshold(shares, given, none)
    others = [score(t, shares, given, none) for t in np.linspace(0, 1, 41)]
    best = score(found, shares, given, none)
    assert best == pytest.approx(max(others))
    if seed == 0:
        assert best_threshold(shares, none, none) == 0.5


@pytest.mark.usefixtures("op_by_op")
def test_threshold_is_chosen_on_validation_and_kept(small_bert, tmp_path):
    config = {**small_bert[0].get_config(), "num_layers": 1, "name": "tiny"}
    bert = type(small_bert[0])(**config)
    backbone = ft.text_backbone(bert, small_bert[1], sequence_length=32)
    reader = ft.question_answerer(backbone)
    randomize(reader)
    words = ["ann ran", "bob was bad", "a good film", "paris"]
    contexts = [" . ".join(two) for two in itertools.permutations(words, 2)]
    x = ["who ran ?", "where was bob ?"] * 6, contexts
    plain = reader.predict(x, verbose=0)
    # Those that the model is surer of have an answer, and it is the right one.
    shares = np.array([one["no_answer"] for one in plain])
    reader.encoder.threshold = 1.0
    texts = [one["text"] for one in reader.predict(x, verbose=0)]
    reader.encoder.threshold = 0.5
    cut = np.sort(shares)[7]
    accepted = [
        [text] if share <= cut else []
        for text, share in zip(texts, shares, strict=True)
    ]
    better = ft.calibrate(reader, (x, accepted), metric="accuracy")
    found = better.predict(x, verbose=0)
    assert ft.answer_scores(found, accepted)["exact_match"] == 1.0
    assert [a["text"] for a in reader.predict(x, verbose=0)] == [
        a["text"] for a in plain
    ]
    ft.save_bundle(better, tmp_path / "reader.keras")
    again = ft.load_bundle(tmp_path / "reader.keras").predict(x)
    assert [a["text"] for a in again] == [a["text"] for a in found]

    spans = np.array([(0, 3), (-1, -1)])
    assert accepted_texts(["ann ran"] * 2, spans) == [["ann"], []]
    for options in ({"coverage": 0.5}, {"method": "vector"}):
        with pytest.raises(ValueError, match="`metric` alone"):
            ft.calibrate(reader, (x, spans), **options)
    with pytest.raises(ValueError, match="exact match"):
        ft.calibrate(reader, (x, spans), metric="balanced_accuracy")
    with pytest.raises(ValueError, match="list for each question"):
        ft.calibrate(reader, (x, ["ann"] * 12))
