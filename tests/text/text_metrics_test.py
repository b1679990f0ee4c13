import random

import pytest

import finetune_keras as ft


def test_the_example_of_seqeval():
    # Both figures stand in the README of seqeval.
    true = [
        ["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"],
        ["B-PER", "I-PER", "O"],
    ]
    found = [
        ["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"],
        ["B-PER", "I-PER", "O"],
    ]
    scores = ft.entity_scores(true, found)
    assert scores["f1"] == scores["precision"] == scores["recall"] == 0.5
    assert scores["types"]["PER"]["f1"] == 1.0
    assert scores["types"]["MISC"]["f1"] == 0.0
    assert scores["types"]["MISC"]["n"] == 1
    assert "MISC" in str(scores) and "all" in str(scores)


@pytest.mark.parametrize(
    "tags, entities",
    [
        (["B-a", "I-a", "O"], [(0, 1)]),
        (["I-a", "I-a"], [(0, 1)]),  # an entity may begin with I
        (["B-a", "B-a"], [(0, 0), (1, 1)]),
        (["I-a", "I-b"], [(0, 0), (1, 1)]),  # another type, another entity
        (["B-a", "I-b"], [(0, 0), (1, 1)]),
        (["S-a", "I-a"], [(0, 0), (1, 1)]),
        (["B-a", "E-a", "I-a"], [(0, 1), (2, 2)]),
        (["O", "E-a", "O"], [(1, 1)]),
        (["O", "O"], []),
    ],
)
def test_what_an_entity_is(tags, entities):
    """The rules of conlleval, which seqeval follows by default."""
    # Every entity alone, in place of the others, is found and right.
    for first, last in entities:
        kind = tags[first][2:]
        alone = ["O"] * len(tags)
        alone[first : last + 1] = ["B-" + kind] + ["I-" + kind] * (last - first)
        assert ft.entity_scores([alone], [tags])["recall"] == 1.0
    scores = ft.entity_scores([tags], [tags])
    assert scores["n"] == len(entities)


def test_equal_to_seqeval_on_random_tags():
    random.seed(0)
    tags = ["O", "O", "B-a", "I-a", "B-b", "I-b", "I-c"]
    draw = [[random.choices(tags, k=12) for _ in range(60)] for _ in "ab"]
    found = ft.entity_scores(*draw)
    # What seqeval 1.2.2 printed for these very tags.
    expected = {
        "precision": 0.16335540838852097,
        "recall": 0.1615720524017467,
        "f1": 0.16245883644346873,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12)


def test_counts_by_hand():
    true = [["B-a", "O", "B-b", "I-b"], ["B-a"]]
    found = [["B-a", "B-a", "B-b", "O"], ["O"]]
    scores = ft.entity_scores(true, found)
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == pytest.approx(1 / 3)
    assert scores["types"]["a"]["precision"] == 0.5
    assert scores["types"]["a"]["recall"] == 0.5
    assert scores["types"]["b"]["f1"] == 0.0


def test_no_entities_at_all():
    scores = ft.entity_scores([["O"]], [["O"]])
    assert scores["f1"] == 0.0 and scores["types"] == {}


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 true tags in 1 sentences and 1"):
        ft.entity_scores([["O", "O"]], [["O"]])


@pytest.mark.parametrize(
    "answer, accepted, exact, f1",
    [
        ("the Eiffel Tower", ["Eiffel tower."], 1, 1),
        ("Denver Broncos", ["The Denver Broncos!", "Broncos"], 1, 1),
        ("a cat", ["cat", "dog"], 1, 1),
        ("Paris, France", ["Paris"], 0, 2 / 3),
        ("1,000", ["1000"], 1, 1),
        ("in the old old town", ["old town hall"], 0, 4 / 7),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("the", ["an"], 1, 1),  # nothing is left of either
        ("don't", ["dont"], 1, 1),
    ],
)
def test_answers_by_the_definition_of_squad(answer, accepted, exact, f1):
    scores = ft.answer_scores([answer], [accepted])
    assert scores["exact_match"] == exact
    assert scores["f1"] == pytest.approx(f1)
    scores = ft.answer_scores([{"text": answer, "score": 0.1}], [accepted])
    assert scores["exact_match"] == exact


def test_means_over_questions():
    scores = ft.answer_scores(["cat", "dog"], [["cat"], ["cat"]])
    assert scores == {"exact_match": 0.5, "f1": 0.5}
    with pytest.raises(ValueError, match="1 predictions and answers to 2"):
        ft.answer_scores(["a"], [["a"], ["b"]])


def test_questions_without_an_answer_are_told_apart():
    # As the script of SQuAD 2.0 has HasAns, NoAns and the whole.
    said = ["cat", {"text": "", "no_answer": 0.9}, "dog", "old town"]
    scores = ft.answer_scores(said, [["cat"], [], ["the"], ["town"]])
    assert scores == {
        "exact_match": 0.5,
        "f1": pytest.approx((1 + 1 + 0 + 2 / 3) / 4),
        "no_answer": 0.5,
        "has_answer_exact_match": 0.5,
        "has_answer_f1": pytest.approx((1 + 2 / 3) / 2),
    }
    scores = ft.answer_scores(["", "cat"], [[], []])
    assert scores == {"exact_match": 0.5, "f1": 0.5, "no_answer": 0.5}
