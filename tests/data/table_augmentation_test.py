import keras
import numpy as np
import pytest

from finetune_keras.data.table_augmentation import (
    RandomCellNoise,
    RandomCellSwap,
    table_augmentation,
)


def table(rows=400):
    rng = np.random.default_rng(0)
    columns = [
        rng.normal(5, 3, rows),
        rng.integers(0, 3, rows),
        np.arange(rows),
    ]
    return np.stack(columns, 1).astype("float32")


def augmented(layer, x):
    return keras.ops.convert_to_numpy(layer(x, training=True))


@pytest.mark.backends
def test_noise_is_relative_to_each_column_and_only_where_allowed():
    x = table()
    noise = augmented(RandomCellNoise(0.1, columns=[0, -1], seed=0), x) - x
    ratio = noise.std(0) / x.std(0)
    np.testing.assert_allclose(ratio[[0, 2]], 0.1, rtol=0.15)
    assert ratio[1] == 0


@pytest.mark.backends
def test_swaps_take_values_of_the_column_from_other_rows():
    x = table()
    found = augmented(RandomCellSwap(0.3, seed=0), x)
    changed = found[:, 2] != x[:, 2]  # all values of this column differ
    assert 0.24 < changed.mean() < 0.36
    for column in range(3):
        assert set(found[:, column]) <= set(x[:, column])


@pytest.mark.backends
def test_one_row_has_no_other():
    x = table(1)
    for layer in (RandomCellSwap(1.0), RandomCellNoise(0.5)):
        np.testing.assert_allclose(augmented(layer, x), x, atol=1e-6)


def test_codes_stay_codes_in_every_preset():
    x = table()
    for strength in ("light", "medium", "strong"):
        layer = table_augmentation(strength, numeric=[0, 2], seed=0)
        assert set(augmented(layer, x)[:, 1]) == {0, 1, 2}


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match="3 columns"):
        RandomCellNoise(columns=[7])(table(), training=True)
