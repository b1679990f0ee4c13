import json

import numpy as np
import pytest

import finetune_keras as ft


def test_conll(tmp_path):
    path = tmp_path / "train.conll"
    path.write_text(
        "-DOCSTART- -X- O O\n\nAnn NNP B-PER\nruns VBZ O\n\n\nBob NNP B-PER",
        encoding="utf-8",
    )
    sentences, tags = ft.read_conll(path)
    assert sentences == [["Ann", "runs"], ["Bob"]]
    assert tags == [["B-PER", "O"], ["B-PER"]]


def test_conll_with_tabs_and_blanks_in_words(tmp_path):
    path = tmp_path / "train.conll"
    path.write_text("New York\tB-LOC\n", encoding="utf-8")
    assert ft.read_conll(path, separator="\t")[0] == [["New York"]]


def test_conll_without_a_tag(tmp_path):
    path = tmp_path / "train.conll"
    path.write_text("Ann B-PER\nruns\n", encoding="utf-8")
    with pytest.raises(ValueError, match="'runs' in line 2"):
        ft.read_conll(path)


def squad(path, start, answers=True):
    answer = {"text": "Ann", "answer_start": start}
    entry = {"question": "Who?", "answers": [answer] if answers else []}
    paragraph = {"context": "It was Ann.", "qas": [entry]}
    text = json.dumps({"data": [{"title": "", "paragraphs": [paragraph]}]})
    path.write_text(text, encoding="utf-8")
    return path


def test_squad(tmp_path):
    x, y, answers = ft.read_squad(squad(tmp_path / "a.json", 7))
    assert x == (["Who?"], ["It was Ann."])
    np.testing.assert_array_equal(y, [[7, 10]])
    assert answers == [["Ann"]]


def test_squad_2_without_an_answer(tmp_path):
    _, y, answers = ft.read_squad(squad(tmp_path / "a.json", 7, answers=False))
    np.testing.assert_array_equal(y, [[-1, -1]])
    assert answers == [[]]


def test_squad_faults(tmp_path):
    with pytest.raises(ValueError, match="'Ann' does not stand at character 3"):
        ft.read_squad(squad(tmp_path / "a.json", 3))
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(ValueError, match="a list of articles"):
        ft.read_squad(tmp_path / "b.json")
