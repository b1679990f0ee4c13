import numpy as np
import pytest
import tensorflow as tf

from finetune_keras.data.mixing import mix_examples


def photos(number=10, classes=3):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (number, 12, 16, 3)).astype("float32")
    return x, np.arange(number) % classes


def batches(x, y, *weights, size=4, **options):
    dataset = tf.data.Dataset.from_tensor_slices((x, y, *weights)).batch(size)
    return list(mix_examples(dataset, **{"num_classes": 3, **options}))


@pytest.mark.parametrize("method", ["mixup", "cutmix", "both"])
def test_labels_sum_to_one_and_batches_repeat_with_the_seed(method):
    x, y = photos()
    found = batches(x, y, method=method, alpha=1.0, seed=1)
    assert [len(images) for images, _ in found] == [4, 4, 2]
    for images, labels in found:
        assert labels.shape[1] == 3 and labels.dtype == tf.float32
        np.testing.assert_allclose(labels.numpy().sum(1), 1, atol=1e-6)
        assert images.numpy().min() >= 0 and images.numpy().max() <= 255
    again = batches(x, y, method=method, alpha=1.0, seed=1)
    other = batches(x, y, method=method, alpha=1.0, seed=2)
    first, same, new = (
        np.concatenate([images for images, _ in part])
        for part in (found, again, other)
    )
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - new).max() > 1


def test_each_epoch_mixes_anew():
    x, y = photos()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    mixed = mix_examples(dataset, 3, alpha=1.0, seed=0)
    first, second = (next(iter(mixed))[0].numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1


def test_mixup_is_the_same_blend_of_inputs_and_labels():
    """Inputs that are their own labels stay so."""
    y = np.arange(64) % 3
    x = np.eye(3, dtype="float32")[y]
    ((images, labels),) = batches(x, y, size=64, alpha=1.0, seed=0)
    np.testing.assert_allclose(images, labels, atol=1e-6)
    assert 0.05 < np.mean(np.abs(labels - x)) < 0.4


def test_cutmix_labels_are_the_area_that_is_left():
    y = np.arange(48) % 3
    x = np.broadcast_to(np.eye(3)[y][:, None, None], (48, 20, 30, 3))
    ((images, labels),) = batches(
        x.astype("float32"), y, size=48, method="cutmix", alpha=1.0, seed=0
    )
    np.testing.assert_allclose(images.numpy().mean((1, 2)), labels, atol=1e-5)
    assert set(np.unique(images)) <= {0.0, 1.0}


def test_a_small_alpha_mixes_little():
    x, y = photos(200)
    little, much = (
        batches(x, y, size=200, alpha=alpha, seed=0)[0][1].numpy().max(1).mean()
        for alpha in (0.05, 1.0)
    )
    assert little > 0.93 > 0.85 > much


def test_weights_lean_the_labels():
    y = np.array([0, 1])
    x = np.eye(2, dtype="float32")
    weights = np.array([3.0, 0.0], "float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(2)
    mixed = mix_examples(dataset, 2, alpha=1.0, seed=3)
    for images, labels, total in mixed.repeat(3):
        # The loss of each pair: the mixture of both weighted losses.
        np.testing.assert_allclose(
            total[:, None] * labels, images * weights, atol=1e-5
        )


def test_one_example_and_many_labels_and_values():
    x, y = photos(1)
    ((images, labels),) = batches(x, y, seed=0)
    np.testing.assert_allclose(images, x, atol=1e-4)
    np.testing.assert_array_equal(labels, [[1, 0, 0]])
    many = np.array([[1, 1, 0], [0, 1, 1]], "float32")
    ((_, labels),) = batches(photos(2)[0], many, alpha=1.0, seed=0)
    np.testing.assert_allclose(labels.numpy()[:, 1], 1, atol=1e-6)
    values = np.array([1.5, 4.0], "float32")
    ((_, mixed),) = batches(
        photos(2)[0], values, num_classes=None, alpha=1.0, seed=0
    )
    assert 1.5 <= mixed.numpy().min() <= mixed.numpy().max() <= 4.0


def test_bad_input_is_met_at_the_door():
    x, y = photos(4)
    single = tf.data.Dataset.from_tensor_slices((x, y))
    with pytest.raises(ValueError, match="batched"):
        mix_examples(single, 3)
    with pytest.raises(ValueError, match="method"):
        mix_examples(single.batch(2), 3, method="blend")
    with pytest.raises(ValueError, match="alpha"):
        mix_examples(single.batch(2), 3, alpha=0)
    table = tf.data.Dataset.from_tensor_slices((x[:, 0, 0], y)).batch(2)
    with pytest.raises(ValueError, match="CutMix takes"):
        mix_examples(table, 3, method="cutmix")
    texts = tf.data.Dataset.from_tensor_slices((["a", "b"], [0, 1])).batch(2)
    with pytest.raises(ValueError, match="not token ids"):
        mix_examples(texts, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 1"):
        batches(x, y, num_classes=2)
