"""What is asked for in another form than it must be is told before training."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

rng = np.random.default_rng(0)
X = rng.normal(size=(12, 4)).astype("float32")
Y = np.arange(12) % 3
PLAN = ft.Plan([ft.Phase("all", 1, learning_rate=0.1)])


def network(units=3, activation="softmax", loss="auto"):
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(units, activation, name="head")(inputs)
    model = keras.Model(inputs, outputs)
    if loss == "auto":
        loss = "sparse_categorical_crossentropy"
    if loss:
        model.compile("sgd", loss)
    return model


def dataset(*arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays)


def tune(train=(X, Y), model=None, plan=PLAN, **options):
    model = model or network()
    return ft.fine_tune(model, plan, train, verbose=0, **options)


def test_inputs_and_labels_as_two_arguments_are_told():
    with pytest.raises(ValueError, match=r"fine_tune\(model, plan, \(x, y\)\)"):
        ft.fine_tune(network(), PLAN, X, Y)
    with pytest.raises(ValueError, match="`train` must hold labels.*a list"):
        ft.fine_tune(network(), PLAN, ["one", "two"], [0, 1])
    with pytest.raises(ValueError, match="`validation` must hold labels"):
        ft.fine_tune(network(), PLAN, (X, Y), X)
    with pytest.raises(ValueError, match="`train` must hold labels.*a dict"):
        ft.dry_run(network(), PLAN, {"x": X})


@pytest.mark.parametrize(
    ("plan", "cure"),
    [
        (list(PLAN), r"`ft.Plan\(\[...\]\)`. Received: \[Phase"),
        (PLAN[0], "Make one of the phases"),
        (ft.plans.linear_probe, "Call it"),
        ("plan.yaml", "`ft.Plan.load`"),
        (PLAN.to_dict(), "`ft.Plan.from_dict`"),
        (None, "Make one by"),
    ],
)
def test_what_is_no_plan_is_told_with_its_cure(plan, cure):
    with pytest.raises(ValueError, match=f"`plan` must be.*{cure}"):
        tune(plan=plan)
    with pytest.raises(ValueError, match=f"`plan` must be.*{cure}"):
        ft.dry_run(network(), plan, (X, Y))
    with pytest.raises(ValueError, match=f"`plan` must be.*{cure}"):
        ft.cross_validate(network, plan, (X, Y))


def test_plan_and_data_in_each_others_place_are_told():
    with pytest.raises(ValueError, match="the plan comes first"):
        tune(PLAN, plan=(X, Y))
    with pytest.raises(ValueError, match="the plan comes first"):
        ft.cross_validate(network, (X, Y), PLAN)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2, 1], r"a dict .*dict\(enumerate\(weights\)\)"),
        ("balanced", "compute_class_weight"),
        ({"cat": 1, "dog": 2, "fox": 1}, "0 to 2.*'cat' is none of them"),
        ({0: 1.0, 2: 3.0}, r"\[1\] lack"),
        ({0: 1, 1: 1, 2: 1, 3: 1}, "3 is none of them"),
        ({0: 1, 1: -1, 2: 1}, "-1 is none"),
        ({0: 1, 1: float("nan"), 2: 1}, "nan is none"),
    ],
)
def test_class_weights_in_another_form_are_told(weights, message):
    with pytest.raises(ValueError, match=f"`class_weight`.*{message}"):
        tune(class_weight=weights)


def test_the_class_weights_of_a_dataset_name_each_class():
    y = np.array(["a", "b"] * 20)
    data = ft.from_arrays(np.ones((40, 4)), y, classes=["a", "b", "c"])
    assert list(data.class_weight) == [0, 1, 2]
    tune(data.train, class_weight=data.class_weight)


def test_a_dataset_without_batches_is_told():
    single = dataset(X, Y)
    with pytest.raises(ValueError, match=r"pass `train.batch\(32\)`"):
        tune(single)
    with pytest.raises(ValueError, match=r"pass `data.batch\(32\)`"):
        ft.find_learning_rate(network(), single)
    rows = dataset(X, np.eye(3)[Y])
    model = network(loss="categorical_crossentropy")
    with pytest.raises(ValueError, match=r"pass `validation.batch\(32\)`"):
        tune(rows.batch(4), model, validation=rows)


def test_a_misspelt_output_among_the_labels_is_told():
    inputs = keras.Input((4,))
    kind = keras.layers.Dense(3, "softmax", name="kind")(inputs)
    size = keras.layers.Dense(1, name="size")(inputs)
    for outputs in ([kind, size], {"kind": kind, "size": size}):
        model = keras.Model(inputs, outputs)
        losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
        model.compile("sgd", losses)
        good = {"kind": Y, "size": X[:, :1]}
        bad = {"knid": Y, "size": X[:, :1]}
        for data in ((X, bad), dataset(X, bad).batch(4)):
            with pytest.raises(ValueError, match="'knid'.*mean 'kind'"):
                tune(data, model)
        tune((X, good), model)


@pytest.mark.backends
def test_scores_without_a_softmax_learn_classes():
    model = network(activation=None, loss=None)
    plan = ft.Plan([ft.Phase("all", 12, learning_rate=0.3)])
    x = np.eye(4)[Y].astype("float32")
    history = tune((x, Y), model, plan)
    assert history.history["accuracy"][-1] == 1.0
    assert model.loss.from_logits


def test_an_endless_generator_is_judged_by_as_many_steps_as_told():
    def endless():
        while True:
            yield X, Y

    model = network()
    with pytest.raises(ValueError, match="never ends, or, as a generator"):
        ft.evaluate(model, endless(), verbose=0)
    expected = ft.evaluate(model, (X, Y), bootstrap=0, verbose=0).metrics
    for data in (endless(), dataset(X, Y).batch(12).repeat()):
        found = ft.evaluate(model, data, bootstrap=0, steps=2, verbose=0)
        assert found.metrics == pytest.approx(expected)
        assert len(found.predictions) == 24
    with pytest.raises(ValueError, match="`validation` never ends"):
        ft.calibrate(model, dataset(X, Y).batch(12).repeat())


def test_a_generator_for_validation_names_its_own_argument():
    data = (batch for batch in [(X, Y)])
    with pytest.raises(ValueError, match="or `validation_steps` for"):
        tune(validation=data)
