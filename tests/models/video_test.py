"""Frames, and volumes: groups, heads, training and bundles."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers
pytestmark = pytest.mark.usefixtures("op_by_op")


def frames():
    """A small backbone that runs on each of three frames, and a GRU."""
    x = image = keras.Input((8, 8, 1))
    for i in range(2):
        x = layers.Conv2D(3, 3, padding="same", name=f"block{i}_a")(x)
        x = layers.Conv2D(3, 3, padding="same", name=f"block{i}_b")(x)
        x = layers.MaxPooling2D()(x)
    backbone = keras.Model(image, x, name="backbone")
    inputs = keras.Input((3, 8, 8, 1))
    x = layers.TimeDistributed(backbone, name="frames")(inputs)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.GRU(4, name="memory")(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def volumes():
    """Two blocks of 3D convolutions, without names."""
    x = inputs = keras.Input((8, 8, 4, 1))
    for _ in range(2):
        x = layers.Conv3D(3, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(layers.MaxPooling3D(2)(x))
    x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


@pytest.mark.backends
@pytest.mark.parametrize(
    ("build", "names"),
    [
        (frames, ["block0", "block1", "memory", "head"]),
        (volumes, ["block1", "block2", "head"]),
    ],
)
def test_frames_and_volumes(build, names, tmp_path):
    model = ft.replace_head(build(), 3, dropout=0.1)
    groups = ft.layer_groups(model)
    assert [group.name for group in groups] == names
    grouped = [id(v) for group in groups for v in group.variables]
    assert sorted(grouped) == sorted({id(v) for v in model.weights})
    shape = (6, *model.input_shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    data = x, np.arange(6) % 3
    before = [np.array(v) for v in model.weights]
    plan = ft.Plan([ft.Phase(1, epochs=1, learning_rate=0.1)])
    ft.fine_tune(model, plan, data, verbose=0)
    last = {id(v) for group in groups[-2:] for v in group.variables}
    for old, variable in zip(before, model.weights, strict=True):
        same = np.array_equal(old, keras.ops.convert_to_numpy(variable))
        norm = "batch_normalization" in variable.path
        assert same == (norm or id(variable) not in last), variable.path
    path = ft.save_bundle(model, tmp_path / "model.keras", classes=list("abc"))
    found = ft.load_bundle(path).predict(x[0])
    np.testing.assert_allclose(
        found.probabilities, model.predict(x[:1], verbose=0), rtol=1e-5
    )
    assert ft.evaluate(model, data, bootstrap=0, verbose=0).classes


def test_other_heads_of_volumes():
    for pooling, width in (("max", 3), ("flatten", 12)):
        model = ft.replace_head(volumes(), 2, pooling=pooling)
        assert model.layers[-1].kernel.shape == (width, 2)
