import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.search.advice import Steps

pytestmark = pytest.mark.usefixtures("op_by_op")


def body(units=8):
    """A body of three groups, the last of which has lost most."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(units, "tanh", name="low")(inputs)
    x = keras.layers.Dense(units, "tanh", name="mid")(x)
    x = keras.layers.Dense(1, "tanh", name="high")(x)
    return keras.Model(inputs, x, name="body")


def table(task="classification", rows=90):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    scores = x[:, :3] + rng.normal(0, 0.3, (rows, 3))
    y = {
        "classification": np.array(["a", "b", "c"])[scores.argmax(1)],
        "multi_label": (scores > 0).astype(int),
        "regression": scores[:, 0],
    }[task]
    classes = ["a", "b", "c"] if task == "multi_label" else None
    return ft.from_arrays(x, y, task=task, classes=classes, seed=0)


def values(model):
    return [keras.ops.convert_to_numpy(v).copy() for v in model.weights]


@pytest.mark.backends
def test_the_head_reads_the_depths_that_tell_most():
    backbone, data = body(), table()
    backbone.get_layer("mid").trainable = False
    before = values(backbone)
    advice = ft.advise(backbone, data, verbose=0)
    assert advice.features > 1
    assert advice.depths[advice.features] == min(advice.depths.values())
    assert advice.depths[1] > advice.depths[advice.features] + 0.2
    steps = [row["step"] for row in advice.rows]
    assert steps == ["data", "features", "training"]
    assert advice.plan[0] == ft.plans.linear_probe()[0]
    assert "log loss lower by" in str(advice)
    assert 0 < advice.seconds < 600
    told = [line for line in str(advice).splitlines() if "time" in line]
    assert len(told) == 1 and told[0].split()[-3] == "about"
    for one, other in zip(before, values(backbone), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not backbone.get_layer("mid").trainable
    assert backbone.get_layer("low").trainable
    model = advice.model()
    ft.fine_tune(model, advice.plan, data.train, data.validation, verbose=0)
    assert ft.evaluate(model, data.test, verbose=0).metrics["accuracy"] > 0.6


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks(task):
    data = table(task)
    advice = ft.advise(body(), data, verbose=0)
    model = advice.model()
    history = ft.fine_tune(
        model, advice.plan, data.train, data.validation, verbose=0
    )
    assert "strength" in history.phases[0]["head_initializer"]
    assert model.output_shape == (None, 1 if task == "regression" else 3)


def test_several_backbones_are_ranked_and_the_lines_are_told(capsys):
    choice = {"poor": body(1), "rich": body(12)}
    advice = ft.advise(choice, table())
    assert advice.backbone == advice.ranking.best
    assert advice.rows[0]["step"] == "backbone"
    assert "features: " in capsys.readouterr().out


def test_photos_are_resized_to_what_the_backbone_takes(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = rng.normal(100, 20, (60, 16, 16, 3)) + 60 * y[:, None, None, None]
    data = ft.from_arrays(x.clip(0, 255).astype("float32"), y, seed=0)
    keras.utils.set_random_seed(0)
    backbone = ft.backbone(
        "MobileNet", input_shape=(32, 32, 3), weights=None, alpha=0.25
    )
    advice = ft.advise(backbone, data, verbose=0)
    assert advice.rows[1]["choice"] == "resized to 32 x 32"
    model = advice.model(augmentation="light")
    assert model.input_shape == (None, 16, 16, 3)
    # The pixels are scaled once: the features are those of the backbone.
    plain = advice.model()
    below = keras.Model(
        plain.input, plain.get_layer(backbone.layers[-1].name).output
    )
    large = keras.layers.Resizing(32, 32, antialias=True)(x[:4])
    np.testing.assert_allclose(
        below.predict(x[:4], verbose=0),
        backbone.predict(large, verbose=0),
        atol=1e-4,
    )
    model.save(tmp_path / "advised.keras")
    loaded = keras.models.load_model(tmp_path / "advised.keras")
    np.testing.assert_allclose(
        loaded.predict(x[:4], verbose=0), model.predict(x[:4], verbose=0), 1e-5
    )


def test_texts(small_bert, monkeypatch):
    monkeypatch.setattr("finetune_keras.search.advice.MOST_TEXTS", 16)
    texts = ["good film", "bad film", "a good one", "a bad one"] * 10
    data = ft.from_arrays(texts, ["pos", "neg"] * 20, batch_size=8, seed=0)
    some = [len(y) for _, y in Steps(data, 0, 0).some()]
    assert some == [8, 8]
    backbone = ft.text_backbone(*small_bert, sequence_length=16)
    advice = ft.advise(backbone, data, verbose=0)
    model = advice.model()
    assert model.predict(["good"], verbose=0).shape == (1, 2)
    ft.fine_tune(model, advice.plan, data.train, data.validation, verbose=0)


def test_without_validation_data_the_head_alone():
    x = np.random.default_rng(0).normal(size=(40, 6))
    data = ft.from_arrays(x, np.arange(40) % 2, validation_split=0, seed=0)
    advice = ft.advise(body(), data, verbose=0)
    assert advice.plan == ft.plans.linear_probe()
    assert advice.rows[-1]["found"] == "no validation data"


def test_other_data_is_refused():
    with pytest.raises(ValueError, match="from_arrays"):
        ft.advise(body(), (np.ones((4, 6)), np.arange(4) % 2))
