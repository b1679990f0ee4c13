import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.task import Task
from finetune_keras.testing.fresh_process import reload

pytestmark = pytest.mark.usefixtures("op_by_op")


def model(seed=0, activation="softmax", side=20):
    """What stands left and in the middle counts."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(2, activation=activation, name="head")(x)
    return keras.Model(inputs, x)


def photos(number=40, side=20, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 255, (number, side, side, 3)).astype("float32")
    return x, rng.integers(0, 2, number)


@pytest.mark.backends
def test_the_mean_over_the_mirror_image_and_the_middle():
    plain = model()
    x, _ = photos(number=4)
    mirrored = x[:, :, ::-1]
    # 85 % of 20: one and a half from each edge, as whole pixels.
    edge = round(20 * 0.15 / 2)
    resize = keras.layers.Resizing(20, 20)
    middle = [
        keras.ops.convert_to_numpy(resize(y[:, edge:-edge, edge:-edge]))
        for y in (x, mirrored)
    ]
    views = [x, mirrored, *middle]
    predicted = [plain.predict(view, verbose=0) for view in views]
    steadier = ft.test_time_augmentation(plain)
    found = steadier.predict(x, verbose=0)
    np.testing.assert_allclose(found, np.mean(predicted, axis=0), atol=1e-5)
    flipped = ft.test_time_augmentation(plain, ["flip"])
    wanted = np.mean(predicted[:2], axis=0)
    found = flipped.predict(x, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    same = flipped.predict(mirrored, verbose=0)
    np.testing.assert_allclose(same, wanted, atol=1e-6)
    assert len(flipped.weights) == len(plain.weights)


@pytest.mark.backends
def test_it_is_saved_calibrated_and_bundled(tmp_path):
    x, y = photos()
    steadier = ft.test_time_augmentation(model(), ["flip", "zoom", "scales"])
    wanted = steadier.predict(x, verbose=0)
    loaded = reload(steadier, x, [])["outputs"][0]
    np.testing.assert_allclose(loaded, wanted, atol=1e-6)
    calibrated = ft.calibrate(steadier, (x, y))
    path = ft.save_bundle(calibrated, tmp_path / "v.keras", classes=["a", "b"])
    found = ft.load_bundle(path).model.predict(x, verbose=0)
    wanted = calibrated.predict(x, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.backends
def test_logits_become_probabilities():
    plain = model(activation=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile("adam", loss, metrics=["accuracy"])
    x, y = photos()
    steadier = ft.test_time_augmentation(plain, ["flip"])
    found = steadier.predict(x, verbose=0)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert Task.of(steadier).logits is False
    report = ft.evaluate(steadier, (x, y), bootstrap=0, verbose=0)
    told = steadier.evaluate(x, y, verbose=0)
    assert told[0] == pytest.approx(report.metrics["log_loss"], abs=1e-4)


def sides(number=60):
    """The class is the side on which the picture is light."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, number)
    x = rng.uniform(0, 100, (number, 20, 20, 3)).astype("float32")
    for photo, label in zip(x, y, strict=True):
        photo[:, 10:] += 100 * label
        photo[:, :10] += 100 * (1 - label)
    return x, y


def test_a_view_that_does_harm_is_left_out():
    x, y = sides()
    plain = model()
    kernel = np.zeros((20, 20, 3, 2), "float32")
    kernel[:, 10:, :, 1] = kernel[:, :10, :, 0] = 0.02
    plain.get_layer("head").set_weights([kernel.reshape(-1, 2), np.zeros(2)])
    steadier = ft.test_time_augmentation(plain, ["flip"], (x, y))
    assert steadier is plain


def test_a_view_that_helps_is_kept():
    # The light is to be seen from both sides, and one half is noise.
    x, y = photos(number=200)
    x += 6.0 * y[:, None, None, None]
    plain = model()
    kernel = np.zeros((20, 20, 3, 2), "float32")
    kernel[:, :4, :, 1] = 0.5
    half = 240 * 0.5 * (127.5 + 3) / 255
    weights = [kernel.reshape(-1, 2), np.array([0, -half])]
    plain.get_layer("head").set_weights(weights)
    steadier = ft.test_time_augmentation(plain, ["zoom", "flip"], (x, y))
    facts = steadier.layers[-1].facts
    assert "flip" in facts["views"]
    assert facts["after"] < facts["before"]
    report = ft.evaluate(steadier, (x, y), bootstrap=0, verbose=0)
    assert report.metrics["log_loss"] == pytest.approx(facts["after"], abs=1e-4)


@pytest.mark.parametrize(
    ("make", "views", "message"),
    [
        (model, ["flop"], "Did you mean 'flip'"),
        (model, [], "at least one name"),
        (lambda: model(activation=None), ["flip"], "may be anything"),
    ],
)
def test_what_has_no_views_is_refused(make, views, message):
    with pytest.raises(ValueError, match=message):
        ft.test_time_augmentation(make(), views)


def test_what_is_no_image_of_a_fixed_size_is_refused():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    for made in (
        keras.Model(inputs, keras.layers.Softmax()(x)),
        keras.Sequential([keras.Input((4,)), keras.layers.Softmax()]),
    ):
        with pytest.raises(ValueError, match="fixed size"):
            ft.test_time_augmentation(made, ["flip"])
