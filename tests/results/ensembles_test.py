import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.task import Task
from finetune_keras.results.member_weights import select, stack
from finetune_keras.testing.fresh_process import reload

pytestmark = pytest.mark.usefixtures("op_by_op")


def classifier(seed=0, activation="softmax", columns=3, names=None, size=4):
    """A classifier with weights of its own, and the same names of layers."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size,), name="features")
    x = keras.layers.Dense(6, activation="tanh", name="hidden")(inputs)
    x = keras.layers.Dense(columns, activation=activation, name="head")(x)
    model = keras.Model(inputs, x, name="classifier")
    if activation is None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
    return model


def photos(side=8, seed=0, number=12):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 255, (number, side, side, 3)).astype("float32")
    return x, rng.integers(0, 2, number)


def image_model(side, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Conv2D(2, 3, name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(2, activation="softmax", name="head")(x)
    return keras.Model(inputs, x)


def data(number=60, columns=3, size=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, size)).astype("float32")
    return x, rng.integers(0, columns, number)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.backends
def test_the_mean_of_probabilities_also_where_members_give_logits():
    members = [classifier(0), classifier(1, activation=None), classifier(2)]
    x, _ = data()
    wanted = [m.predict(x, verbose=0) for m in members]
    wanted[1] = softmax(wanted[1])
    together = ft.ensemble(members)
    found = together.predict(x, verbose=0)
    np.testing.assert_allclose(found, np.mean(wanted, axis=0), atol=1e-6)
    task = Task.of(together)
    assert task == "classification" and task.logits is False
    # The members are as they were.
    again = members[1].predict(x, verbose=0)
    np.testing.assert_allclose(softmax(again), wanted[1], atol=1e-7)
    assert [m.name for m in members] == ["classifier"] * 3


@pytest.mark.backends
def test_it_is_saved_calibrated_bundled_and_judged(tmp_path):
    members = [classifier(seed) for seed in range(3)]
    x, y = data()
    together = ft.ensemble(members)
    wanted = together.predict(x, verbose=0)
    loaded = reload(together, x, [])
    np.testing.assert_allclose(loaded["outputs"][0], wanted, atol=1e-6)
    assert len(loaded["weights"]) == len(set(loaded["weights"])) == 12
    calibrated = ft.calibrate(together, (x, y))
    names = ["cat", "dog", "fox"]
    path = ft.save_bundle(calibrated, tmp_path / "e.keras", classes=names)
    bundle = ft.load_bundle(path)
    found = bundle.model.predict(x, verbose=0)
    wanted = calibrated.predict(x, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    report = ft.evaluate(together, (x, y), bootstrap=0, verbose=0)
    assert report.metrics["log_loss"] > 0


@pytest.mark.backends
def test_a_backbone_that_two_members_share(tmp_path):
    backbone = classifier(0)
    x, _ = data()
    second = ft.replace_head(backbone, 3)
    shared = second.get_layer("hidden")
    assert shared is backbone.get_layer("hidden")
    wanted = [m.predict(x, verbose=0) for m in (backbone, second)]
    together = ft.ensemble([backbone, second])
    loaded = reload(together, x, [])["outputs"][0]
    np.testing.assert_allclose(loaded, np.mean(wanted, axis=0), atol=1e-6)


def test_members_train_apart():
    members = [classifier(seed) for seed in range(2)]
    together = ft.ensemble(members)
    assert len({id(v) for v in together.trainable_variables}) == 8
    x, y = data()
    before = [m.get_weights() for m in members]
    together.compile("sgd", "sparse_categorical_crossentropy")
    together.fit(x, y, verbose=0)
    for model, old in zip(members, before, strict=True):
        assert all(
            not np.array_equal(*pair)
            for pair in zip(model.get_weights(), old, strict=True)
        )


@pytest.mark.backends
def test_greedy_takes_the_better_and_leaves_the_useless():
    x, y = data(200)
    good, bad = classifier(0), classifier(1)
    # The inputs tell the classes of the one, and mislead the other.
    y = good.predict(x, verbose=0).argmax(-1)
    kernel, bias = good.get_layer("head").get_weights()
    good.get_layer("head").set_weights([kernel * 4, bias])
    bad.set_weights(good.get_weights())
    bad.get_layer("head").set_weights([-4 * kernel, bias])
    together = ft.ensemble([bad, good], (x, y), method="greedy")
    facts = together.layers[-1].facts
    assert facts["weights"] == [0.0, 1.0]
    assert facts["losses"][1] == pytest.approx(facts["loss"], abs=1e-6)
    assert facts["losses"][0] > facts["losses"][1]
    assert len(together.weights) == len(good.weights)
    found = together.predict(x, verbose=0)
    np.testing.assert_allclose(found, good.predict(x, verbose=0), atol=1e-6)


def one_hot_mistakes(rng, y, rate, sure=0.9):
    wrong = rng.random(len(y)) < rate
    said = np.where(wrong, (y + rng.integers(1, 3, len(y))) % 3, y)
    scores = np.full((len(y), 3), (1 - sure) / 2)
    scores[np.arange(len(y)), said] = sure
    return scores.astype("float32")


def test_greedy_finds_the_best_pair_of_all():
    rng = np.random.default_rng(0)
    task = Task.named("classification", None, 3)
    y = rng.integers(0, 3, 500)
    outputs = [one_hot_mistakes(rng, y, rate) for rate in (0.2, 0.22, 0.6)]
    weights = select(task, outputs, y, None)

    def loss(weights):
        mean = np.tensordot(weights, np.stack(outputs), 1)
        return task.losses(y, mean).mean()

    grid = [
        (a / 20, b / 20, 1 - (a + b) / 20)
        for a in range(21)
        for b in range(21 - a)
    ]
    assert loss(weights) <= min(map(loss, grid)) + 1e-3
    assert sum(weights) == pytest.approx(1)
    # Weights of examples count: those of no weight say nothing.
    counts = np.where(np.arange(500) < 250, 1.0, 0.0)
    half = select(task, [x[:250] for x in outputs], y[:250], None)
    assert select(task, outputs, y, counts) == half


def test_stacking_trusts_the_better_more_and_none_below_zero():
    rng = np.random.default_rng(1)
    task = Task.named("classification", None, 3)
    y = rng.integers(0, 3, 2000)
    outputs = [one_hot_mistakes(rng, y, rate) for rate in (0.1, 0.3, 0.95)]
    weights = stack(task, outputs, y, None)
    assert weights[0] > weights[1] > 0 == weights[2]
    logs = np.log(np.stack(outputs))
    stacked = task.softened(np.tensordot(weights, logs, 1))
    mean = np.mean(outputs, axis=0)
    assert task.losses(y, stacked).mean() < task.losses(y, mean).mean() - 0.1


@pytest.mark.backends
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_stacked_model_is_what_was_fitted(activation):
    x, y = data(200)
    if activation == "sigmoid":
        y = np.eye(3, dtype=int)[y]
    members = [classifier(seed, activation) for seed in range(3)]
    together = ft.ensemble(members, (x, y), method="stacking")
    facts, layer = together.layers[-1].facts, together.layers[-1]
    assert layer.of_logits and layer.factors == [
        w for w in facts["weights"] if w > 0
    ]
    loss = ft.evaluate(together, (x, y), bootstrap=0, verbose=0)
    assert loss.metrics["log_loss"] == pytest.approx(facts["loss"], abs=1e-4)
    loaded = reload(together, x, [])["outputs"][0]
    wanted = together.predict(x, verbose=0)
    np.testing.assert_allclose(loaded, wanted, atol=1e-6)


def test_stacked_values_are_as_scikit_learn_has_them():
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(0)
    task = Task.named("regression", None, 2)
    y = rng.normal(size=(5000, 2))
    outputs = [y + rng.normal(0, s, y.shape) for s in (0.5, 1.0, 3.0)]
    outputs.append(-y)
    weights = stack(task, outputs, y, None)
    rows = np.stack(outputs).reshape(4, -1).T
    wanted = LinearRegression(fit_intercept=False, positive=True)
    wanted = wanted.fit(rows, y.reshape(-1)).coef_
    np.testing.assert_allclose(weights, wanted, atol=2e-3)
    assert weights[3] == 0


def test_regressions_are_averaged_as_they_are():
    members = [classifier(seed, "linear", 1) for seed in range(2)]
    for model in members:
        model.compile("sgd", "mse")
    x, _ = data()
    y = members[0].predict(x, verbose=0)[:, 0]
    together = ft.ensemble(members)
    wanted = np.mean([m.predict(x, verbose=0) for m in members], axis=0)
    found = together.predict(x, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert Task.of(together) == "regression"
    chosen = ft.ensemble(members, (x, y), method="greedy")
    assert chosen.layers[-1].facts["weights"] == [1.0, 0.0]
    assert ft.evaluate(together, (x, y), verbose=0).metrics["rmse"] > 0


@pytest.mark.backends
def test_images_of_two_sizes():
    from PIL import Image

    small, large = image_model(8, 0), image_model(16, 1)
    x, y = photos(16)
    together = ft.ensemble([large, small], (x, y), method="stacking")
    assert together.input_shape == (None, 16, 16, 3)
    together = ft.ensemble([large, small])
    # As `image_folder` reads photos at the other size.
    shrunk = np.stack(
        [
            np.stack(
                [
                    Image.fromarray(photo[..., i]).resize(
                        (8, 8), Image.BILINEAR
                    )
                    for i in range(3)
                ],
                axis=-1,
            )
            for photo in x
        ]
    )
    wanted = large.predict(x, verbose=0) + small.predict(shrunk, verbose=0)
    found = reload(together, x, [])["outputs"][0]
    np.testing.assert_allclose(found, wanted / 2, atol=1e-5)


def test_pixels_are_looked_at_once():
    backbone = ft.backbone(
        "MobileNet", input_shape=(32, 32, 3), weights=None, alpha=0.25
    )
    models = [ft.image_classifier(backbone, ["cat", "dog"]) for _ in range(2)]
    together = ft.ensemble(models)
    assert Task.of(together).classes == ["cat", "dog"]
    x, _ = photos(32, number=2)
    with pytest.warns(UserWarning, match="scaled already") as caught:
        together.predict(x / 255, verbose=0)
    said = [w for w in caught if "scaled already" in str(w.message)]
    assert len(said) == 1


def test_labels_by_name_single_sigmoids_and_several_inputs():
    x, y = data(40, columns=2)
    members = [classifier(seed, "sigmoid", 1) for seed in range(2)]
    for model in members:
        model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    together = ft.ensemble(members, (x, y), method="greedy")
    assert together.evaluate(x, y, verbose=0)[1] >= 0
    calibrated = ft.calibrate(together, (x, y[:, None]))
    assert calibrated.predict(x, verbose=0).shape == (40, 1)

    def on_two(seed):
        keras.utils.set_random_seed(seed)
        inputs = {n: keras.Input((4,), name=n) for n in ("b", "a")}
        both = keras.layers.Concatenate()([inputs["b"], inputs["a"]])
        dense = keras.layers.Dense(2, activation="softmax")
        return keras.Model(inputs, dense(both))

    members = [on_two(seed) for seed in range(2)]
    pair = {"a": x, "b": 2 * x}
    wanted = np.mean([m.predict(pair, verbose=0) for m in members], axis=0)
    found = ft.ensemble(members).predict(pair, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: [classifier(), classifier(columns=4)], "as many outputs"),
        (lambda: [classifier(), classifier(activation="sigmoid")], "one task"),
        (lambda: [classifier(), classifier(size=5)], "same inputs"),
        (lambda: [classifier(activation="linear")], "may be anything"),
        (lambda: [], "at least one keras.Model"),
        (lambda: [classifier(), keras.Sequential()], "has a graph"),
        (lambda: [image_model(8, 0), classifier(columns=2)], "same inputs"),
    ],
)
def test_what_does_not_go_together_is_refused(models, message):
    with pytest.raises(ValueError, match=message):
        ft.ensemble(models())


def test_inputs_that_are_listed_in_another_order_are_refused():
    def on_two(names):
        inputs = [keras.Input((4,), name=name) for name in names]
        both = keras.layers.Concatenate()(inputs)
        dense = keras.layers.Dense(2, activation="softmax")
        return keras.Model(inputs, dense(both))

    ft.ensemble([on_two("ab"), on_two("ab")])
    with pytest.raises(ValueError, match="in another order"):
        ft.ensemble([on_two("ab"), on_two("ba")])


def test_classes_in_another_order_and_missing_validation_are_refused():
    backbone = classifier()
    first = ft.replace_head(backbone, 2)
    second = ft.replace_head(backbone, 2)
    from finetune_keras.models.model import keep_task

    keep_task(first, Task.named("classification", ["cat", "dog"], 2))
    keep_task(second, Task.named("classification", ["dog", "cat"], 2))
    with pytest.raises(ValueError, match="same classes in the same order"):
        ft.ensemble([first, second])
    with pytest.raises(ValueError, match="pass `validation`"):
        ft.ensemble([first], method="greedy")


def test_texts_of_one_tokeniser(small_bert, tmp_path):
    backbone, tokenizer = small_bert
    base = ft.text_backbone(backbone, tokenizer, sequence_length=16)
    members = [ft.text_classifier(base, ["no", "yes"]) for _ in range(2)]
    texts = ["a good film", "bad", "ann was not in paris", "the film"]
    wanted = np.mean([m.predict(texts, verbose=0) for m in members], axis=0)
    labels = ["yes", "no", "no", "yes"]
    together = ft.ensemble(members, (texts, labels), method="average")
    found = together.predict(texts, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert together.layers[-1].facts["examples"] == 4
    bundle = ft.load_bundle(ft.save_bundle(together, tmp_path / "t.keras"))
    assert bundle.classes == ["no", "yes"]
    found = bundle.model.predict(texts, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    other = ft.text_backbone(backbone, tokenizer, sequence_length=8)
    other = ft.text_classifier(other, ["no", "yes"])
    with pytest.raises(ValueError, match="split them alike"):
        ft.ensemble([members[0], other])


def test_frozen_layers_and_adapters_come_through():
    members = [classifier(seed) for seed in range(2)]
    ft.freeze(members[0], "hidden")
    ft.add_adapters(members[1], ft.LoRA(rank=2), "hidden")
    x, _ = data()
    for variable in members[1].trainable_variables:
        variable.assign(variable + 0.1)
    wanted = np.mean([m.predict(x, verbose=0) for m in members], axis=0)
    together = ft.ensemble(members)
    loaded = reload(together, x, [])
    np.testing.assert_allclose(loaded["outputs"][0], wanted, atol=1e-6)
    assert len(loaded["trainable"]) == len(together.trainable_variables)
