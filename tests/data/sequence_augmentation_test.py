import keras
import numpy as np
import pytest

from finetune_keras.data.sequence_augmentation import (
    RandomJitter,
    RandomScaling,
    SpecAugment,
)


def signals(number=50, steps=80, features=10):
    rng = np.random.default_rng(0)
    spread = np.arange(1, features + 1)
    return (rng.normal(size=(number, steps, features)) * spread).astype("f4")


def augmented(layer, x):
    return keras.ops.convert_to_numpy(layer(x, training=True))


@pytest.mark.backends
def test_jitter_is_relative_to_each_feature():
    x = signals()
    noise = augmented(RandomJitter(0.1, seed=0), x) - x
    ratio = noise.std((0, 1)) / x.std((0, 1))
    np.testing.assert_allclose(ratio, 0.1, rtol=0.1)


@pytest.mark.backends
def test_scaling_is_one_factor_a_feature():
    x = signals()
    ratio = augmented(RandomScaling(0.2, seed=0), x) / x
    spread = ratio.max(1) - ratio.min(1)
    assert np.abs(spread).max() < 1e-3
    assert ratio[:, 0].std() == pytest.approx(0.2, rel=0.15)


@pytest.mark.backends
def test_masks_hide_stretches_of_time_and_bands_of_features():
    x = signals(200, 80, 20)
    found = augmented(SpecAugment(0.25, 0.2, seed=0), x)
    hidden = found != x
    times, bands = hidden.all(2), hidden.all(1)
    # What is hidden is the union of both, and each is one run.
    np.testing.assert_array_equal(hidden, times[:, :, None] | bands[:, None, :])
    for masks, most in ((times, 20), (bands, 4)):
        assert masks.sum(1).max() <= most
        assert 0.3 * most < masks.sum(1).mean() < 0.7 * most
        steps = np.diff(masks.astype(int), axis=1, prepend=0, append=0)
        assert (np.abs(steps).sum(1) <= 2).all()
    means = np.broadcast_to(x.mean(1, keepdims=True), x.shape)
    np.testing.assert_allclose(found[hidden], means[hidden], atol=1e-5)


def test_no_mask_changes_nothing():
    x = signals(4)
    for layer in (SpecAugment(count=0), SpecAugment(0.0, 0.0)):
        np.testing.assert_array_equal(augmented(layer, x), x)


def test_bad_arguments():
    with pytest.raises(ValueError, match="factor"):
        RandomJitter(-1)
    with pytest.raises(ValueError, match="time"):
        SpecAugment(time=2)
