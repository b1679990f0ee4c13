"""Scripts, models and files of Keras 2: what to do is said where they fail."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

X, Y = np.ones((4, 3), "float32"), np.arange(4) % 2
DOORS = {
    "layer_groups": ft.layer_groups,
    "freeze": ft.freeze,
    "unfreeze": ft.unfreeze,
    "trainable_summary": ft.trainable_summary,
    "replace_head": lambda model: ft.replace_head(model, 2),
    "inline_models": ft.inline_models,
    "backbone": lambda model: ft.backbone(model),
    "add_adapters": lambda model: ft.add_adapters(model, ft.LoRA()),
    "fine_tune": lambda model: ft.fine_tune(model, ft.plans.full(), (X, Y)),
    "dry_run": lambda model: ft.dry_run(model, ft.plans.full(), (X, Y)),
    "find_learning_rate": lambda model: ft.find_learning_rate(model, (X, Y)),
    "evaluate": lambda model: ft.evaluate(model, (X, Y)),
    "calibrate": lambda model: ft.calibrate(model, (X, Y)),
    "explain": lambda model: ft.explain(model, X),
    "save_bundle": lambda model: ft.save_bundle(model, "new.keras"),
}


@pytest.fixture(scope="module")
def old():
    """Stands for a model of the package `tf_keras`, which is not here."""
    model = type("Model", (), {"__module__": "tf_keras.src.engine.training"})
    kind = type("Functional", (model,), {"__module__": "mine"})
    kind.__call__ = lambda self, x: x
    return kind()


@pytest.mark.parametrize("door", DOORS)
def test_a_model_of_keras_2_is_refused_with_what_to_do(door, old):
    with pytest.raises(ValueError, match=r"Keras 2 .*set_weights\(old"):
        DOORS[door](old)


@pytest.mark.parametrize("door", sorted(set(DOORS) - {"backbone"}))
def test_a_path_is_no_model(door):
    with pytest.raises(ValueError, match=r"load_model\('old.h5'\)"):
        DOORS[door]("old.h5")


def test_a_model_of_hdf5_becomes_a_bundle_by_one_line_more(tmp_path):
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(2, "softmax")(inputs)
    path, new = str(tmp_path / "old.h5"), str(tmp_path / "new.keras")
    keras.Model(inputs, outputs).save(path)
    with pytest.raises(ValueError, match="ft.save_bundle"):
        ft.load_bundle(path)
    model = keras.models.load_model(path)
    ft.save_bundle(model, new, classes=["a", "b"])
    assert ft.load_bundle(new).predict(X).labels[0] in ("a", "b")


def test_a_generator_of_images_is_asked_for_what_it_makes():
    from keras.src.legacy.preprocessing import image

    generator = image.ImageDataGenerator()
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
    plan = ft.plans.full(epochs=1)
    with pytest.raises(ValueError, match="flow_from_directory"):
        ft.fine_tune(model, plan, generator, verbose=0)
