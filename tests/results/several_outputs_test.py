"""Models of several inputs and outputs: judged, changed and shipped."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing.processes import FreshProcess

layers = keras.layers
pytestmark = pytest.mark.usefixtures("op_by_op")
NAMES = {"species": ["cat", "dog", "fox"]}


def made_data(n=24):
    rng = np.random.default_rng(0)
    species = rng.integers(0, 3, n)
    x = {
        "pixels": np.eye(3)[species][:, None, None]
        * rng.uniform(0.5, 1, (n, 4, 4, 1)),
        "age": rng.uniform(0, 9, n),
    }
    y = {"species": species, "weight": x["age"] * 2 + species}
    return {k: v.astype("float32") for k, v in x.items()}, y


def made_model(logits=False, as_list=False):
    pixels = keras.Input((4, 4, 3), name="pixels")
    age = keras.Input((1,), name="age")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(pixels)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Concatenate(name="both")([x, age])
    ends = None if logits else "softmax"
    outputs = {
        "species": layers.Dense(3, activation=ends, name="species")(x),
        "weight": layers.Dense(1, name="weight")(x),
    }
    if as_list:
        outputs = list(outputs.values())
    return keras.Model({"pixels": pixels, "age": age}, outputs)


def compiled(model, logits=False):
    cross = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile("adam", {"species": cross, "weight": "mse"})
    return model


@pytest.mark.parametrize("form", ["arrays", "pipeline", "batches", "list"])
def test_each_output_is_judged_for_itself(form):
    x, y = made_data()
    model = compiled(made_model(logits=True, as_list=form == "list"), True)
    weight = np.linspace(0, 1, 24)
    data = x, y, {"species": weight}
    if form == "pipeline":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices(data).shuffle(24).batch(7)
    elif form == "batches":
        data = Batches(data)
    elif form == "list":
        data = x, list(y.values()), [weight, None]
    reports = ft.evaluate(
        model, data, classes=NAMES, bootstrap=0, verbose=0, worst=2
    )
    assert list(reports) == ["species", "weight"]
    found = model.predict(x, verbose=0)
    if form == "list":
        found = dict(zip(y, found, strict=True))
    right = found["species"].argmax(1) == y["species"]
    np.testing.assert_allclose(
        reports["species"].metrics["accuracy"],
        np.average(right, weights=weight),
        rtol=1e-6,
    )
    assert reports["species"].task == "classification"
    assert "cat" in str(reports["species"])
    error = np.sqrt(np.mean((found["weight"][:, 0] - y["weight"]) ** 2))
    np.testing.assert_allclose(
        reports["weight"].metrics["rmse"], error, rtol=1e-5
    )


class Batches(keras.utils.PyDataset):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(index * 12, index * 12 + 12)
        return keras.tree.map_structure(lambda a: a[rows], self.data)


def test_labels_and_options_by_wrong_names_are_refused():
    x, y = made_data()
    model = made_model()
    with pytest.raises(ValueError, match="dict by their names"):
        ft.evaluate(model, (x, y["species"]), verbose=0)
    with pytest.raises(ValueError, match="names an output that is none"):
        ft.evaluate(model, (x, y), classes={"kind": ["a"]}, verbose=0)
    with pytest.raises(ValueError, match="Did you mean 'weight'"):
        ft.replace_head(model, 2, output="weigth")
    with pytest.raises(ValueError, match="one output"):
        ft.calibrate(model, (x, y))


@pytest.mark.backends
@pytest.mark.parametrize("as_list", [False, True])
def test_the_head_of_one_output_is_replaced(as_list):
    x, y = made_data()
    model = made_model(as_list=as_list)
    new = ft.replace_head(model, 5, hidden_units=(4,), output="species")
    before, after = model.predict(x, verbose=0), new.predict(x, verbose=0)
    if as_list:
        assert new.output_names == ["species", "weight"]
        (_, before), (species, after) = before, after
    else:
        species, after = after["species"], after["weight"]
        before = before["weight"]
    assert species.shape == (24, 5)
    np.testing.assert_array_equal(before, after)
    assert new.get_layer("conv").kernel is model.get_layer("conv").kernel
    twice = ft.replace_head(new, 2, output="weight", task="regression")
    groups = ft.layer_groups(twice)
    assert len(groups["head"].layers) == 3


def test_a_plan_trains_it_and_a_bundle_ships_it(tmp_path):
    x, y = made_data()
    model = ft.replace_head(made_model(), 3, output="species")
    before = np.array(model.get_layer("conv").kernel)
    plan = ft.Plan([ft.Phase("head", 1, 0.05), ft.Phase("all", 1, 0.001)])
    history = ft.fine_tune(
        model, plan, (x, y), (x, y), batch_size=12, verbose=0
    )
    assert {"loss", "species_accuracy"} <= set(history.history)
    assert history.ledger[0]["head"]["trained"]
    assert not np.array_equal(before, np.array(model.get_layer("conv").kernel))

    path = ft.save_bundle(model, tmp_path / "pets.keras", classes=NAMES)
    bundle = ft.load_bundle(path)
    found = bundle.predict(x)
    outputs = model.predict(x, verbose=0)
    best = outputs["species"].argmax(1)
    assert found["species"].labels == [NAMES["species"][i] for i in best]
    np.testing.assert_allclose(
        found["weight"].labels, outputs["weight"][:, 0], rtol=1e-5
    )
    row = {"pixels": x["pixels"][3:4], "age": 7}
    one = bundle.predict(row)
    assert len(one["species"]) == 1 and one["species"][0]["probabilities"]
    with pytest.raises(ValueError, match="missing"):
        bundle.predict({"age": [1.0]})
    with pytest.raises(ValueError, match="as many examples"):
        bundle.predict({**x, "age": [1.0]})
    code = (
        "import sys, numpy as np, finetune_keras as ft\n"
        "x = np.load(sys.argv[2])\n"
        "found = ft.load_bundle(sys.argv[1]).predict(dict(x))\n"
        "print(found['species'].labels)"
    )
    np.savez(tmp_path / "x.npz", **x)
    process = FreshProcess("-c", code, path, tmp_path / "x.npz")
    assert process.wait() == 0, process.stderr
    assert str(found["species"].labels) in process.stdout


def test_what_an_output_is_must_be_told(tmp_path):
    with pytest.raises(ValueError, match="Each output of a model"):
        ft.save_bundle(made_model(logits=True), tmp_path / "a.keras")
    path = ft.save_bundle(
        compiled(made_model(logits=True), True), tmp_path / "b.keras"
    )
    found = ft.load_bundle(path).predict(made_data()[0])["species"]
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert found.labels[0] in ("0", "1", "2")
