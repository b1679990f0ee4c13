import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize

pytestmark = pytest.mark.usefixtures("op_by_op")
RNG = np.random.default_rng(0)
SHAPES = RNG.normal(size=(4, 6, 6, 1))
LABELS = np.tile(range(4), 6)
IMAGES = SHAPES[LABELS] + 0.7 * RNG.normal(size=(24, 6, 6, 1))
IMAGES = IMAGES.astype("float32")
PLAN = ft.Plan([ft.Phase("all", 4, 5e-2)])


def make(**options):
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    return ft.image_embedder(keras.Model(inputs, x), **options)


def test_images_of_a_class_come_together(tmp_path):
    encoder = make(units=4, augmentation=keras.layers.GaussianNoise(0.1))
    assert encoder.output_shape == (None, 4)
    assert ft.layer_groups(encoder).head is not None
    data = IMAGES, np.eye(4)[LABELS]
    before = ft.evaluate(encoder, data, bootstrap=0, verbose=0).metrics
    ft.fine_tune(encoder, PLAN, data, batch_size=12, verbose=0)
    after = ft.evaluate(encoder, data, bootstrap=0, verbose=0)
    assert after.metrics["ndcg_at_10"] > before["ndcg_at_10"] + 0.05
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    assert again.task == "vectors"
    found = [m.predict(IMAGES, verbose=0) for m in (encoder, again)]
    np.testing.assert_allclose(*found, atol=1e-6)
    classifier = ft.replace_head(again, 4)
    assert getattr(classifier, "task", None) is None


def test_pairs_of_images_under_another_loss():
    encoder = make(normalize=False)
    loss = ft.ContrastiveLoss("triplet")
    encoder.compile(keras.optimizers.Adam(1e-2), loss)
    pairs = ft.pairs(IMAGES[:12], IMAGES[12:])
    before = ft.evaluate(encoder, pairs, verbose=0).metrics["mrr"]
    ft.fine_tune(encoder, PLAN, pairs, batch_size=24, verbose=0)
    assert ft.evaluate(encoder, pairs, verbose=0).metrics["mrr"] > before


def test_datasets_keep_their_batches():
    import tensorflow as tf

    encoder = make(units=4)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(12)
    ft.fine_tune(encoder, ft.plans.linear_probe(epochs=1), data, verbose=0)
    report = ft.evaluate(encoder, data, bootstrap=0, verbose=0)
    assert len(report) == 24 and report.worst == []
    one_hot = data.map(lambda x, y: (x, tf.one_hot(y, 4)))
    with pytest.raises(ValueError, match="argmax"):
        ft.fine_tune(encoder, PLAN, one_hot, verbose=0)
    with pytest.raises(ValueError, match="`threshold`"):
        ft.evaluate(encoder, data, threshold=0.3, verbose=0)
    with pytest.raises(ValueError, match="weighs classes"):
        ft.fine_tune(
            encoder, PLAN, (IMAGES, LABELS), class_weight={0: 2.0}, verbose=0
        )


def test_the_rest_of_a_batch_counts_for_nothing():
    encoder = make(units=4)
    data = IMAGES[:5], np.array([0, 0, 1, 1, 2])
    encoder.compile("sgd", ft.ContrastiveLoss())
    report = ft.evaluate(encoder, data, bootstrap=0, verbose=0)
    assert len(report) == 4
    weight = np.array([1.0, 0.0, 0.0, 0.0, 1.0])
    weighted = ft.evaluate(encoder, (*data, weight), bootstrap=0, verbose=0)
    found = weighted.metrics["mrr"]
    assert found == pytest.approx(report.predictions.outputs[0, 4])


def test_frozen_layers_are_computed_once():
    plan, found = ft.Plan([ft.Phase("head", 2, 1e-2)]), {}
    for cache in ("off", "memory"):
        encoder = make(units=4)
        randomize(encoder)
        keras.utils.set_random_seed(3)
        history = ft.fine_tune(
            encoder, plan, (IMAGES, LABELS), cache=cache, verbose=0
        )
        found[cache] = encoder.predict(IMAGES, verbose=0)
    assert "in memory" in history.phases[0]["cache"]
    np.testing.assert_allclose(found["off"], found["memory"], atol=1e-5)
