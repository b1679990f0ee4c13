import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing.fresh_process import reload

pytestmark = pytest.mark.usefixtures("op_by_op")


def classifier(seed, normalised=False, dropout=0.0, units=6, names=True):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    name = {"name": "hidden"} if names else {}
    x = keras.layers.Dense(units, **name)(inputs)
    if normalised:
        x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("tanh")(x)
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    name = {"name": "head"} if names else {}
    x = keras.layers.Dense(3, activation="softmax", **name)(x)
    model = keras.Model(inputs, x, name=f"of_{seed}")
    if normalised:
        rng = np.random.default_rng(seed)
        norm = model.get_layer("norm")
        norm.set_weights([np.abs(rng.normal(1, 0.3, 6)) for _ in range(4)])
    return model


def data(number=96, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, 4)).astype("float32")
    return x, rng.integers(0, 3, number)


@pytest.mark.backends
def test_weights_are_averaged_and_the_models_stay():
    models = [classifier(seed) for seed in range(3)]
    before = [m.get_weights() for m in models]
    adam = keras.optimizers.Adam(1e-3)
    models[0].compile(adam, "sparse_categorical_crossentropy", metrics=["acc"])
    soup = ft.average_weights(models, weights=[0.5, 0.3, 0.2])
    for found, *three in zip(soup.get_weights(), *before, strict=True):
        wanted = 0.5 * three[0] + 0.3 * three[1] + 0.2 * three[2]
        np.testing.assert_allclose(found, wanted, atol=1e-7)
    for model, old in zip(models, before, strict=True):
        for pair in zip(model.get_weights(), old, strict=True):
            np.testing.assert_array_equal(*pair)
    assert not {id(v) for v in soup.weights} & {
        id(v) for model in models for v in model.weights
    }
    x, y = data()
    assert np.isfinite(soup.evaluate(x, y, verbose=0)).all()
    assert soup.optimizer is not adam
    loaded = reload(soup, x, [])["outputs"][0]
    np.testing.assert_allclose(loaded, soup.predict(x, verbose=0), atol=1e-6)


def test_the_ends_of_an_interpolation_are_the_models():
    pair = [classifier(0, normalised=True), classifier(1, normalised=True)]
    x, _ = data()
    for weights, model in zip(np.eye(2).tolist(), pair, strict=True):
        found = ft.average_weights(pair, weights=weights).predict(x, verbose=0)
        wanted = model.predict(x, verbose=0)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.backends
def test_statistics_are_those_of_the_new_weights():
    pair = [classifier(0, normalised=True), classifier(1, normalised=True)]
    x, y = data()
    with pytest.raises(ValueError, match="data=data.train"):
        ft.average_weights(pair)
    soup = ft.average_weights(pair, data=(x, y))
    kernel, bias = soup.get_layer("hidden").get_weights()
    batches = (x @ kernel + bias).reshape(3, 32, 6)
    norm = soup.get_layer("norm")
    mean, variance = map(
        keras.ops.convert_to_numpy, (norm.moving_mean, norm.moving_variance)
    )
    np.testing.assert_allclose(mean, batches.mean((0, 1)), atol=1e-5)
    wanted = batches.var(1).mean(0)
    np.testing.assert_allclose(variance, wanted, rtol=1e-4)
    # The layer is its own again.
    assert "call" not in vars(norm)


@pytest.mark.backends
def test_statistics_of_images_below_a_frozen_flag_and_under_dropout():
    def model(seed):
        keras.utils.set_random_seed(seed)
        x = inputs = keras.Input((6, 6, 2))
        x = keras.layers.Dropout(0.5)(x)
        x = keras.layers.BatchNormalization(name="first")(x)
        x = keras.layers.Conv2D(3, 3, name="conv")(x)
        x = keras.layers.BatchNormalization(name="second")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dense(2, activation="softmax", name="head")(x)
        return keras.Model(inputs, x)

    pair = [model(0), model(1)]
    pair[1].get_layer("second").moving_mean.assign([1.0, 2.0, 3.0])
    pair[0].get_layer("second").trainable = False
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 6, 6, 2)).astype("float32")
    soup = ft.average_weights(pair, data=(x, np.zeros(20)))
    # Those that did not differ stay.
    np.testing.assert_array_equal(soup.get_layer("first").moving_mean, [0, 0])
    first = keras.Model(soup.inputs, soup.get_layer("conv").output)
    wanted = first.predict(x, verbose=0).mean((0, 1, 2))
    found = keras.ops.convert_to_numpy(soup.get_layer("second").moving_mean)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not soup.get_layer("second").trainable


def test_greedy_leaves_out_what_does_harm():
    x, _ = data(200)
    good = classifier(0)
    kernel, bias = good.get_layer("head").get_weights()
    good.get_layer("head").set_weights([kernel * 5, bias])
    y = good.predict(x, verbose=0).argmax(-1)
    near, other = classifier(0), classifier(1)
    near.get_layer("head").set_weights([kernel * 9, bias])
    both = ft.average_weights([good, near])
    soup = ft.average_weights([other, good, near], (x, y), method="greedy")
    found = dict(zip("kb", soup.get_layer("head").get_weights(), strict=True))

    def loss(model):
        report = ft.evaluate(model, (x, y), bootstrap=0, verbose=0)
        return report.metrics["log_loss"]

    least = min(map(loss, (good, near, both)))
    assert loss(soup) == pytest.approx(least, abs=1e-6)
    assert any(np.allclose(found["k"], kernel * factor) for factor in (5, 7, 9))


def test_layers_that_keras_numbered_find_each_other():
    models = [classifier(seed, names=False) for seed in (0, 1)]
    assert models[0].layers[1].name != models[1].layers[1].name
    soup = ft.average_weights(models)
    wanted = np.mean([m.layers[1].get_weights()[0] for m in models], axis=0)
    found = soup.layers[1].get_weights()[0]
    np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_dropout_may_differ():
    models = [classifier(0, dropout=0.3), classifier(1)]
    soup = ft.average_weights(models)
    assert any(isinstance(x, keras.layers.Dropout) for x in soup.layers)


def _with_lora(model):
    ft.add_adapters(model, ft.LoRA(rank=2), "hidden")
    return model


def _with_own_lora(model):
    model.get_layer("hidden").enable_lora(2)
    return model


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (lambda: classifier(1, units=7), {}, "one architecture"),
        (lambda: classifier(1, normalised=True), {}, "one architecture"),
        (lambda: _with_lora(classifier(1)), {}, "merge_adapters"),
        (lambda: _with_own_lora(classifier(1)), {}, "merge_adapters"),
        (lambda: classifier(1), {"weights": [1.0]}, "sum to 1"),
        (lambda: classifier(1), {"weights": [1.5, -0.5]}, "at least 0"),
        (lambda: classifier(1), {"method": "greedy"}, "chooses by"),
        (lambda: classifier(1), {"method": "gredy"}, "greedy"),
    ],
)
def test_what_has_no_mean_is_refused(other, options, message):
    with pytest.raises(ValueError, match=message):
        ft.average_weights([classifier(0), other()], **options)


def test_models_for_texts(small_bert):
    backbone, tokenizer = small_bert
    base = ft.text_backbone(backbone, tokenizer, sequence_length=16)
    before = ft.text_classifier(base, ["no", "yes"])
    after = ft.text_classifier(base, ["no", "yes"])
    texts, labels = ["a good film", "bad"], ["yes", "no"]
    soup = ft.average_weights([before, after], (texts, labels), method="greedy")
    assert soup.class_names == ["no", "yes"]
    assert soup.predict(texts, verbose=0).shape == (2, 2)
