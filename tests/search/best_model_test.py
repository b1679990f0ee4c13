import types

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.search.contest import Entrant, is_as_good, simplest
from finetune_keras.testing.processes import FreshProcess

pytestmark = pytest.mark.usefixtures("op_by_op")


def body(units=8, name="body"):
    """A body of three groups, the last of which has lost most."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(units, "tanh", name="low")(inputs)
    x = keras.layers.Dense(units, "tanh", name="mid")(x)
    x = keras.layers.Dense(1, "tanh", name="high")(x)
    return keras.Model(inputs, x, name=name)


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
    options = {"task": task, "classes": classes}
    return ft.from_arrays(x, y, **options, batch_size=128, seed=0)


def loss_of(model, data):
    return ft.evaluate(model, data, bootstrap=0, verbose=0).predictions.losses


def test_the_winner_of_two_backbones_and_its_file(tmp_path):
    data, choice = table(), {"rich": body(12), "poor": body(1)}
    before = [w.copy() for x in choice.values() for w in x.get_weights()]
    flags = [x.trainable for b in choice.values() for x in b.layers]
    best = ft.best_model(data, choice, minutes=5, verbose=0)
    after = [w for x in choice.values() for w in x.get_weights()]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert flags == [x.trainable for b in choice.values() for x in b.layers]
    names = [row["name"] for row in best.leaderboard]
    assert {"rich, head", "poor, head"} <= set(names)
    assert any(name.startswith("mean of ") for name in names)
    for row in best.leaderboard:
        low, high = row["interval"]
        assert low < row["loss"] < high
        assert 0 <= row["accuracy"] <= 1
    losses = {row["name"]: row["loss"] for row in best.leaderboard}
    # The model is the one whose figures are told.
    found = loss_of(best.model, data.validation).mean()
    np.testing.assert_allclose(found, losses[best.name], rtol=1e-5)
    assert found < losses["rich, head"] - 0.1
    assert best.name in str(best)
    x = data.arrays("test")[0]
    expected = best.model.predict(x, verbose=0)
    bundle = ft.load_bundle(best.save(tmp_path / "best.keras"))
    np.testing.assert_allclose(
        bundle.predict(x).probabilities, expected, atol=1e-6
    )
    assert list(best.predict(x).labels) == list(bundle.predict(x).labels)
    assert set(best.predict(x).labels) <= {"a", "b", "c"}
    calibrated = ft.calibrate(best.model, data.validation)
    assert calibrated.predict(x, verbose=0).shape == expected.shape


@pytest.mark.backends("multi_label")
@pytest.mark.parametrize(
    ("task", "metric", "minutes"),
    [("multi_label", "f1_micro", 1e-6), ("regression", "rmse", 5)],
)
def test_other_tasks(task, metric, minutes, tmp_path):
    data = table(task)
    best = ft.best_model(data, body(), minutes, verbose=0)
    assert np.isfinite([row[metric] for row in best.leaderboard]).all()
    x = data.arrays("test")[0]
    path = best.save(tmp_path / "best.keras")
    expected = best.model.predict(x, verbose=0)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import keras, numpy as np, finetune_keras, sys; "
        "model = keras.models.load_model(sys.argv[1]); "
        "x = np.load(sys.argv[2]); "
        "np.save(sys.argv[2], model.predict(x, verbose=0))"
    )
    done = FreshProcess("-c", code, path, tmp_path / "x.npy")
    assert done.wait() == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)


def test_without_time_there_are_the_heads_alone(capsys):
    best = ft.best_model(table(), [body(), body(2, "other")], minutes=1e-6)
    names = {row["name"] for row in best.leaderboard}
    assert "body, head" in names
    assert all(name.startswith("body, head") for name in names)
    assert best.plan == ft.plans.linear_probe()
    left_out = " ".join(best.notes)
    assert "other, heads: left out" in left_out
    assert "all layers" in left_out
    assert "body, head: validation loss" in capsys.readouterr().out


def made(kind, gain):
    """A candidate whose losses are lower by a gain that is not sure."""
    rng = np.random.default_rng(kind)
    losses = 1 - gain + rng.normal(0, 0.1, 25)
    return types.SimpleNamespace(
        kind=kind,
        losses=losses,
        loss=losses.mean(),
        wrong=rng.permutation(np.arange(25) >= 25 * gain) * 1.0,
        entrant=types.SimpleNamespace(parameters=1),
    )


def test_the_simpler_one_wins_ties():
    simple, better, best = made(0, 0.0), made(1, 0.5), made(2, 0.505)
    assert best.loss < better.loss < simple.loss
    assert simplest([best, simple, better]) is better
    assert simplest([best, simple]) is best


def test_a_mean_need_not_be_better_than_the_best_by_luck():
    candidates, mean = [made(0, 0.5), made(1, 0.0)], made(2, 0.49)
    assert mean.loss > candidates[0].loss
    assert is_as_good(mean, candidates)
    worse = made(2, 0.2)
    assert not is_as_good(worse, candidates)
    # As often right, it is only less sure.
    worse.wrong = candidates[0].wrong
    assert is_as_good(worse, candidates)


def test_views_of_photos(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    # Where the light falls from says nothing; its strength does.
    x = rng.normal(100, 60, (60, 16, 16, 3)) + 20 * y[:, None, None, None]
    x = x.clip(0, 255).astype("float32")
    data = ft.from_arrays(x, y, batch_size=64, seed=0)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    h = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    h = keras.layers.Conv2D(4, 3, activation="relu")(h)
    best = ft.best_model(data, keras.Model(inputs, h), minutes=5, verbose=0)
    views = [r["name"] for r in best.leaderboard if "views (" in r["name"]]
    assert views or "views (flip, zoom): no better, left out" in best.notes
    bundle = ft.load_bundle(best.save(tmp_path / "best.keras"))
    photo = rng.integers(0, 256, (20, 24, 3)).astype("uint8")
    np.testing.assert_allclose(
        bundle.predict([photo]).probabilities,
        best.predict([photo]).probabilities,
        atol=1e-6,
    )


def test_texts(small_bert, tmp_path, monkeypatch):
    def cost(entrant, phase):
        return 0 if phase.epochs == 5 else np.inf

    monkeypatch.setattr(Entrant, "cost", cost)
    texts = ["good film", "bad film", "a good one", "a bad one"] * 10
    data = ft.from_arrays(texts, ["pos", "neg"] * 20, batch_size=64, seed=0)
    backbone = ft.text_backbone(*small_bert, sequence_length=8)
    best = ft.best_model(data, backbone, minutes=5, verbose=0)
    assert "all layers, 3 epochs: left out" in best.notes[0]
    names = [row["name"].split(", ", 1)[-1] for row in best.leaderboard]
    assert {"head", "all, 5 epochs"} < set(names)
    assert any(name.startswith("mean of ") for name in names)
    bundle = ft.load_bundle(best.save(tmp_path / "best.keras"))
    words = ["good", "a bad film"]
    np.testing.assert_allclose(
        bundle.predict(words).probabilities,
        best.predict(words).probabilities,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ((np.ones((4, 6)), np.arange(4) % 2), "type tuple"),
        ("no validation", "without validation"),
    ],
)
def test_other_data_is_refused(data, match):
    if isinstance(data, str):
        x = np.ones((20, 6)) * np.arange(20)[:, None]
        data = ft.from_arrays(x, np.arange(20) % 2, validation_split=0)
    with pytest.raises(ValueError, match=match):
        ft.best_model(data, body())
