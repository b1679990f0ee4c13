"""`find_label_errors`: labels that are likely wrong."""

import numpy as np
import pytest

import finetune_keras as ft


def by_loops(labels, probabilities):
    """Confident learning as it is written: suspects, joint and order."""
    count, places = probabilities.shape[1], range(len(labels))
    thresholds = [
        np.mean([probabilities[i][c] for i in places if labels[i] == c])
        for c in range(count)
    ]
    joint = np.zeros((count, count), int)
    for i in places:
        p = probabilities[i]
        sure = [c for c in range(count) if p[c] >= thresholds[c]]
        if sure:
            joint[labels[i], max(sure, key=lambda c, p=p: p[c])] += 1
    chances = [probabilities[i][labels[i]] for i in places]
    suspects = set()
    for c in range(count):
        own = [i for i in places if labels[i] == c]
        wrong = round(len(own) * (1 - joint[c, c] / joint[c].sum()))
        suspects |= set(sorted(own, key=chances.__getitem__)[:wrong])
    shares = [chances[i] / thresholds[labels[i]] for i in places]
    return suspects, joint, np.argsort(shares)


def examples(seed=0):
    rng = np.random.default_rng(seed)
    true = np.arange(60) % 3
    probabilities = rng.dirichlet(np.ones(3) / 2, size=60) + np.eye(3)[true]
    labels = true.copy()
    labels[:5] = (true[:5] + 1) % 3
    return labels, probabilities / 2


@pytest.mark.parametrize("seed", range(3))
def test_suspects_are_those_of_confident_learning(seed):
    labels, probabilities = examples(seed)
    suspects, joint, order = by_loops(labels, probabilities)
    found = ft.find_label_errors(labels, probabilities)
    assert len(suspects) > 3
    np.testing.assert_array_equal(found.counts, joint)
    np.testing.assert_array_equal(found.order, order)
    wanted = [i for i in order if i in suspects]
    assert [row["index"] for row in found.rows] == wanted
    for row in found.rows:
        i = row["index"]
        own = labels[i]
        others = {c: probabilities[i, c] for c in range(3) if c != own}
        likely = max(others, key=others.get)
        assert (row["label"], row["suggested"]) == (str(own), str(likely))
        assert row["of_label"] == pytest.approx(probabilities[i, own])
        assert row["of_suggested"] == pytest.approx(others[likely])


def test_wrong_labels_come_first():
    labels, probabilities = examples()
    found = ft.find_label_errors(labels, probabilities, ["ant", "bee", "wasp"])
    assert set(range(5)) <= set(found.order[:10].tolist())
    text = str(found).splitlines()
    assert text[0] == f"{len(found.rows)} of 60 labels are suspect"
    assert text[3].split()[1] in ("ant", "bee", "wasp")


@pytest.mark.parametrize(
    "form",
    [
        lambda y: np.array(["ant", "bee", "wasp"])[y],
        lambda y: y[:, None],
        lambda y: np.eye(3)[y],
        lambda y: y.tolist(),
    ],
    ids=["names", "column", "one-hot", "list"],
)
def test_forms_of_labels(form):
    labels, probabilities = examples()
    names = ["ant", "bee", "wasp"]
    expected = ft.find_label_errors(labels, probabilities, names)
    got = ft.find_label_errors(form(labels), probabilities, names)
    assert got.rows == expected.rows


def test_a_class_that_no_label_names_is_never_suggested():
    labels, probabilities = examples()
    wide = np.concatenate([probabilities / 2, np.full((60, 1), 0.5)], axis=1)
    found = ft.find_label_errors(labels, wide)
    assert found.counts.shape == (4, 4)
    assert not found.counts[3].any() and not found.counts[:, 3].any()


def test_nothing_is_suspect_where_all_is_right():
    labels = np.arange(12) % 3
    found = ft.find_label_errors(labels, np.eye(3)[labels])
    assert found.rows == []
    assert str(found) == "0 of 12 labels are suspect"


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.2, 0.8], "a row for each example"),
        ([0, 1], [[0.9, 0.9], [0.1, 0.1]], "no probabilities"),
        ([0, 1, 1], [[0.9, 0.1], [0.1, 0.9]], "3 labels and 2 rows"),
        ([0, 2], [[0.9, 0.1], [0.1, 0.9]], "from 0 to 2"),
        ([0, 1], [[np.nan, 0.1], [0.1, 0.9]], "NaN"),
    ],
)
def test_what_does_not_fit(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        ft.find_label_errors(labels, probabilities)
