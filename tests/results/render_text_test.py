"""Numbers and names as people read them."""

from finetune_keras.results import render_text as text


def test_numbers():
    assert text.number(None) == "-"
    assert text.number(0.123456) == "0.1235"
    assert text.number(0.0123456, 2) == "0.012"
    assert text.interval(None) == "-"
    assert text.interval([0.5, 1.0]) == "0.5 to 1"
    assert text.label("f1_macro") == "f1 macro"
    assert text.label("roc_auc") == "ROC-AUC"


def test_outcomes():
    assert text.outcome("cat") == "cat"
    assert text.outcome(["cat", "dog"]) == "cat, dog"
    assert text.outcome([]) == "none"
    assert text.outcome([1.0, 2.34567]) == "1, 2.346"
    assert text.chance({"cat": 0.5}) == "cat 0.50"
    assert text.chance(None) == ""


def test_names_stay_in_their_line():
    assert text.one_line("a\n b\tc") == "a b c"
    assert text.one_line("x" * 40) == "x" * 29 + "…"
    assert text.one_line("a\x00\ud800\u202eb") == "a\ufffd\ufffd\ufffdb"
    # Joiners belong to scripts and to emoji.
    family = "\U0001f468\u200d\U0001f469"
    assert text.one_line(family) == family
