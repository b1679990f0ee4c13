import keras
import numpy as np
import pytest

from finetune_keras.data.buckets import LENGTHS, Buckets


def make(lengths, batch_size=4):
    lengths = np.array(lengths)
    ids = np.where(np.arange(max(lengths)) < lengths[:, None], 7, 0)
    x = {"ids": ids + np.arange(len(lengths))[:, None] * (ids > 0)}
    y = np.arange(len(lengths))
    return x, Buckets.sort(x, lengths, (y,), batch_size)


def test_every_example_is_in_one_batch_and_whole():
    lengths = np.random.default_rng(0).integers(1, 90, size=101)
    x, buckets = make(lengths)
    seen = []
    for part, y in buckets:
        for row, label in zip(part["ids"], y, strict=True):
            kept = row[row > 0]
            whole = x["ids"][label]
            np.testing.assert_array_equal(kept, whole[whole > 0])
            seen.append(label)
    assert sorted(seen) == list(range(101))


def test_one_incomplete_batch_at_most():
    lengths = np.random.default_rng(1).integers(1, 90, size=101)
    _, buckets = make(lengths)
    sizes = [len(y) for _, y in buckets]
    assert sum(size < 4 for size in sizes) == 1
    assert len(buckets) == len(sizes) == 26


def test_shapes_are_few_and_padding_is_little():
    lengths = np.random.default_rng(2).integers(1, 90, size=400)
    _, buckets = make(lengths, 8)
    shapes = {x["ids"].shape[1] for x, _ in buckets}
    assert shapes <= {*LENGTHS, max(lengths)}
    tokens = sum(x["ids"].size for x, _ in buckets)
    assert tokens < 1.35 * lengths.sum() < 0.75 * 400 * max(lengths)


def test_dataset_changes_the_order_with_each_epoch_and_repeats_by_seed():
    _, buckets = make([3, 5, 20, 30, 17, 2, 9, 40] * 4)

    def epochs(seed):
        keras.utils.set_random_seed(seed)
        dataset = buckets.dataset(shuffle=True)
        return [[tuple(y.numpy()) for _, y in dataset] for _ in range(3)]

    first = epochs(1)
    assert first[0] != first[1] != first[2]
    for epoch in first:
        assert sorted(sum(epoch, ())) == list(range(32))
    assert first == epochs(1)
    assert first != epochs(2)


def test_dataset_without_shuffle_repeats():
    _, buckets = make([3, 20, 30, 17, 2, 9, 40])
    dataset = buckets.dataset()
    expected = [list(y) for _, y in buckets]
    for _ in range(2):
        assert [list(y.numpy()) for _, y in dataset] == expected


def test_renewed_data():
    def again():
        return Buckets([(np.full((4, 2), 9), np.arange(4))], 4)

    first = Buckets([(np.zeros((4, 2), int), np.arange(4))], 4, again)
    dataset = first.dataset()
    seen = [[int(x.numpy().max()) for x, _ in dataset] for _ in range(2)]
    assert seen == [[0], [9]]


@pytest.mark.parametrize("shape", [(3,), (None, 2)])
def test_restore_puts_outputs_back(shape):
    lengths = [3, 40, 20, 5, 17, 2, 30]
    x, buckets = make(lengths, 2)
    outputs = []
    for part, y in buckets.parts:
        size = len(y), *(n or part["ids"].shape[1] for n in shape)
        column = y.reshape(-1, *[1] * len(shape))
        outputs.append(np.broadcast_to(column, size))
    restored = buckets.restore(outputs)
    first = restored.reshape(len(lengths), -1)[:, 0]
    np.testing.assert_array_equal(first, np.arange(7))
