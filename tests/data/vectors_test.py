"""Pairs, batches of groups, the contrastive loss, and what a search finds."""

import keras
import numpy as np
import pytest
from sklearn.metrics import ndcg_score

import finetune_keras as ft
from finetune_keras.data.grouped import in_groups, rows_of
from finetune_keras.data.pairs import DOCUMENT, QUERY
from finetune_keras.results.retrieval import score_search, search_groups

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(7, 4)).astype("float32")
GROUPS = np.array([0, 0, 1, 1, 1, 2, 0])
UNITS = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
COSINES = UNITS.astype("float64") @ UNITS.T.astype("float64")


def softmax(positive, negatives):
    others = np.exp(negatives / 0.1).sum()
    return -np.log(np.exp(positive / 0.1) / (np.exp(positive / 0.1) + others))


def triplet(positive, negatives):
    return [n - positive + 0.4 for n in negatives if n - positive + 0.4 > 0]


def by_hand(kind, asks, positives, negatives):
    """The loss as its definition has it, one input at a time."""
    losses = []
    for i in asks:
        near = [COSINES[i, j] for j in positives(i)]
        far = np.array([COSINES[i, j] for j in negatives(i)])
        if not near:
            continue
        if kind == "softmax":
            losses.append(np.mean([softmax(p, far) for p in near]))
        elif kind == "triplet":
            lacks = [lack for p in near for lack in triplet(p, far)]
            losses.append(np.mean(lacks) if lacks else 0.0)
        else:
            lacks = 0.4 - (1 - far)
            lacks = lacks[lacks > 0] ** 2
            losses.append(
                np.mean([(1 - p) ** 2 for p in near])
                + (lacks.mean() if len(lacks) else 0.0)
            )
    return np.mean(losses)


@pytest.mark.backends("softmax", "triplet")
@pytest.mark.parametrize("kind", ["softmax", "triplet", "margin"])
def test_loss_is_that_of_its_definition(kind):
    loss = ft.ContrastiveLoss(kind, temperature=0.1, margin=0.4)
    expected = by_hand(
        kind,
        range(7),
        lambda i: [j for j in range(7) if j != i and GROUPS[j] == GROUPS[i]],
        lambda i: np.flatnonzero(GROUPS != GROUPS[i]),
    )
    for y in (GROUPS, GROUPS[:, None]):
        assert float(loss(y, 3 * VECTORS)) == pytest.approx(expected, rel=1e-4)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()

    # Queries 0, 1, 2 and their documents 3, 4, 5; 6 is a hard negative. The
    # first two are of one group, and so no negatives of each other.
    groups, asks = np.array([7, 7, 8, 7, 7, 8, 9]), np.arange(7) < 3
    y = np.stack([groups, np.where(asks, QUERY, DOCUMENT)], axis=1)
    expected = by_hand(
        kind,
        range(3),
        lambda i: [j for j in range(3, 7) if groups[j] == groups[i]],
        lambda i: [j for j in range(3, 7) if groups[j] != groups[i]],
    )
    assert float(loss(y, VECTORS)) == pytest.approx(expected, rel=1e-4)


def test_pairs_alone_have_the_ranking_loss():
    y = np.stack([np.tile(range(3), 2), np.repeat([QUERY, DOCUMENT], 3)], 1)
    logits = COSINES[:3, 3:6] / 0.05
    likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = float(ft.ContrastiveLoss()(y, VECTORS[:6]))
    assert found == pytest.approx(-np.diag(likely).mean(), rel=1e-4)


def test_labels_that_are_no_groups_are_refused():
    loss = ft.ContrastiveLoss()
    with pytest.raises(ValueError, match=r"argmax\(axis=1\)"):
        loss(np.eye(3)[[0, 1, 1]], VECTORS[:3])
    one_hot = np.eye(2)[[0, 1, 1]]
    assert np.isnan(float(loss(one_hot, VECTORS[:3])))
    with pytest.raises(ValueError, match="argmax"):
        loss.check_labels(one_hot, "train")
    with pytest.raises(ValueError, match="return_inverse"):
        loss.check_labels(np.array([1, 2**24]), "train")
    with pytest.raises(ValueError, match="`kind`"):
        ft.ContrastiveLoss("cosine")


def test_pairs_that_share_an_input_are_of_one_group():
    data = ft.pairs(["q", "r", "s", "t"], ["a", "b", "a", "c"], ["b", "x"] * 2)
    assert len(data) == 4
    first, second, third, fourth = data.groups
    assert first == third and len({first, second, fourth}) == 3
    # "b" is the positive of "r", and a negative that belongs to it.
    assert data.y[8, 0] == second == data.y[5, 0]
    assert data.y[9, 0] not in data.groups
    assert data.x[:5] == ["q", "r", "s", "t", "a"]
    queries, documents, relevant = data.search()
    assert documents == ["a", "b", "c", "x"]
    assert relevant == [[0], [1], [0], [2]] and queries == data.columns[0]
    images = RNG.normal(size=(3, 2, 2, 1))
    data = ft.pairs(images, images[[1, 0, 2]])
    assert data.groups[0] == data.groups[1] != data.groups[2]
    assert data.x.shape == (6, 2, 2, 1)


@pytest.mark.parametrize(
    "columns, message",
    [
        ((["a"], ["b", "c"]), "of one length"),
        ((["a"], np.zeros((1, 4))), "one encoder"),
        ((np.zeros((2, 4)), np.zeros((2, 3))), "one encoder"),
        ((["a", None], ["b", "c"]), "must be a string"),
        (("a", "b"), "list of strings"),
    ],
)
def test_columns_that_make_no_pairs(columns, message):
    with pytest.raises(ValueError, match=message):
        ft.pairs(*columns)


def test_batches_hold_several_of_each_group():
    y = np.repeat(["a", "b", "c"], [13, 8, 20])
    data = in_groups((np.arange(41.0)[:, None], y), batch_size=8)
    keras.utils.set_random_seed(1)
    epochs = [[], []]
    dataset = data.dataset(shuffle=True)
    for epoch in epochs:
        for x, groups in dataset:
            epoch.append(x.numpy().ravel())
            assert (y[x.numpy().astype(int).ravel()] == "b")[
                groups.numpy() == 1
            ].all()
            counts = np.bincount(groups)
            assert len(groups) < 8 or counts[counts > 0].min() > 1
        assert sorted(np.concatenate(epoch)) == list(range(41))
    assert not np.array_equal(epochs[0][0], epochs[1][0])


@pytest.mark.parametrize("triplets", [False, True])
def test_pairs_stay_in_one_batch(triplets):
    count, width = 10, 2 + triplets
    columns = [np.arange(count)[:, None] + 100 * i for i in range(width)]
    data = in_groups(ft.pairs(*columns), batch_size=8)
    assert data.batch_size == (6 if triplets else 8)
    again = data.with_parts(data.parts)
    for x, y in again.dataset(shuffle=True):
        rows = x.numpy().ravel()
        assert sorted(rows) == sorted(
            i + 100 * j for i in set(rows % 100) for j in range(width)
        )
        assert (y.numpy()[:, 1] == np.where(rows < 100, QUERY, DOCUMENT)).all()


@pytest.mark.parametrize(
    "data, message",
    [
        ((np.zeros((4, 1)), [1, 2, 3, 4]), "two inputs"),
        ((np.zeros((4, 1)), [1] * 4), "several groups"),
        ((np.zeros((4, 1)), np.ones((4, 2))), "one-hot row"),
        ((np.zeros((4, 1)), ["a", "a", None, "b"]), "missing"),
        (((["a"] * 4, ["b"] * 4), [0, 0, 1, 1]), "one input at a time"),
        (ft.pairs(["a"] * 3, ["b"] * 3), "at least 4 inputs"),
    ],
)
def test_data_without_groups_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        rows_of(data, batch_size=3 if "least" in message else 32)


def test_labels_that_hardly_meet_are_told():
    with pytest.warns(UserWarning, match="4 of 6 inputs are alone"):
        rows_of((np.zeros((6, 1)), ["a", "b", "c", "d", "e", "e"]), 32)


def test_search_is_scored_as_by_hand():
    cosines = RNG.normal(size=(6, 15)).astype("float32")
    relevant = RNG.random((6, 15)) < 0.3
    relevant[:, 0] = True
    reached, best = score_search(cosines.copy(), relevant.copy())
    for row, scores, found, most in zip(
        relevant, cosines, reached, best, strict=True
    ):
        ranked = row[np.argsort(-scores)]
        count = row.sum()
        recalls = [ranked[:k].sum() / count for k in (1, 5, 10)]
        first = 1 / (1 + np.flatnonzero(ranked)[0])
        ndcg = ndcg_score(row[None].astype(int), scores[None], k=10)
        expected = [ranked[0], *recalls, first, ndcg]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        limits = [min(k, count) / count for k in (1, 5, 10)]
        np.testing.assert_allclose(most, [1, *limits, 1, 1])


def test_vectors_that_are_all_alike_find_nothing():
    vectors = np.ones((6, 3)) + 1e-9 * RNG.normal(size=(6, 3))
    found, asks = search_groups(vectors, [0, 0, 1, 1, 2, 3])
    assert asks.tolist() == [0, 1, 2, 3]
    assert found.outputs[:, 0].max() == 0.0
    assert found.outputs[:, 4].max() == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="nothing"):
        search_groups(vectors, np.arange(6))
    with pytest.raises(ValueError, match="NaN"):
        search_groups(np.full((4, 2), np.nan), [0, 0, 1, 1])
