import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models import tasks
from finetune_keras.testing import randomize

pytestmark = pytest.mark.usefixtures("op_by_op")


def backbone():
    model = ft.backbone(
        "MobileNet", input_shape=(32, 32, 3), weights=None, alpha=0.25
    )
    randomize(model)
    return model


def pixels():
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3))
    return x.astype("float32")


def test_classes_may_be_named():
    assert ft.image_classifier(backbone(), ["a", "b", "c"]).output_shape[1] == 3


@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_augmentation_acts_in_training_only(strength):
    base = backbone()
    plain = ft.image_classifier(base, 3)
    model = ft.image_classifier(base, 3, augmentation=strength)
    head = plain.get_layer("head_predictions").get_weights()
    model.get_layer("head_predictions").set_weights(head)
    x = pixels()
    expected = plain.predict(x, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    called = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(called, expected, atol=1e-5)
    trained = keras.ops.convert_to_numpy(model(x, training=True))
    assert np.abs(trained - expected).max() > 1e-3
    names = [group.name for group in ft.layer_groups(plain)]
    assert [group.name for group in ft.layer_groups(model)] == names


def test_an_augmented_model_warns_of_scaled_pixels_too():
    model = ft.image_classifier(backbone(), 3, augmentation="light")
    with pytest.warns(UserWarning, match="scaled"):
        model.predict(pixels() / 255, verbose=0)


def test_an_augmented_model_trains_by_a_plan(tmp_path):
    model = ft.image_classifier(backbone(), 3, augmentation="medium")
    plan = ft.plans.linear_probe_then_full(epochs=1)
    data = pixels(), np.arange(6) % 3
    history = ft.fine_tune(model, plan, data, data, verbose=0)
    assert "random" in history.phases[1]["cache"] or "no tensor" in (
        history.phases[1]["cache"]
    )
    history = ft.fine_tune(
        model, ft.plans.linear_probe(1), data, cache={"views": 2}, verbose=0
    )
    assert "2 views" in history.phases[0]["cache"]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(pixels(), verbose=0)
    found = again.predict(pixels(), verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_named_backbone_takes_any_size_and_works_at_that_of_its_weights(
    tmp_path, monkeypatch
):
    made = ft.backbone(
        "MobileNet", input_shape=(96, 96, 3), weights=None, alpha=0.25
    )
    randomize(made)
    # Stands for weights that would be downloaded.
    monkeypatch.setattr(tasks, "make_backbone", lambda name, **shape: made)
    named = ft.image_classifier("MobileNet", 3, augmentation="light")
    built = ft.image_classifier(made, 3)
    head = built.get_layer("head_predictions").get_weights()
    named.get_layer("head_predictions").set_weights(head)
    assert named.input_shape == (None, None, None, 3)
    enlarge = keras.layers.Resizing(96, 96, antialias=True)
    expected = built.predict(keras.ops.convert_to_numpy(enlarge(pixels())))
    assert np.allclose(named.predict(pixels()), expected, atol=1e-5)
    named.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.allclose(loaded.predict(pixels()), expected, atol=1e-5)
