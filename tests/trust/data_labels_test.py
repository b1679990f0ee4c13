"""Labels and names of classes that would train, or be shown, wrongly."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.labels import one_column
from finetune_keras.text.tag_encoder import TagEncoder
from finetune_keras.training.inputs import Inputs

PLAN = ft.plans.full(epochs=1)
X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = np.arange(24) % 3


def classifier(units=3, loss=None, activation="softmax", shape=(4,)):
    inputs = keras.Input(shape)
    outputs = keras.layers.Dense(units, activation=activation)(inputs)
    model = keras.Model(inputs, outputs)
    if loss is not None:
        model.compile("adam", loss)
    return model


def refused(model, y, *parts, x=X, validation=None):
    """The message with which `fine_tune` refuses labels."""
    with pytest.raises(ValueError) as caught:
        ft.fine_tune(model, PLAN, (x, y), validation, verbose=0)
    message = str(caught.value)
    assert all(part in message for part in parts), message


# === Names of classes ===

BAD_CLASSES = {
    "string": "cat",
    "set": {"ant", "bee", "cat"},
    "dict": {"ant": 0, "bee": 1, "cat": 2},
    "twice": ["ant", "bee", "ant"],
    "none": ["ant", "bee", None],
    "numbers in another order": [2, 1, 0],
    "empty": [],
}


def takers(classes, small_bert):
    """Everything that takes names of classes."""
    bert, tokenizer = small_bert
    model = classifier()
    body = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    yield lambda: ft.from_arrays(X, Y, classes=classes)
    yield lambda: ft.from_arrays(X, np.eye(3)[Y], classes=classes)
    yield lambda: ft.from_frame(
        {"x": X[:, 0], "y": Y}, "x", "y", classes=classes
    )
    yield lambda: ft.image_classifier(body, classes)
    yield lambda: ft.replace_head(body, classes)
    yield lambda: ft.text_classifier(bert, classes, tokenizer=tokenizer)
    yield lambda: ft.token_classifier(bert, classes, tokenizer=tokenizer)
    yield lambda: TagEncoder(tokenizer, 8, classes)
    yield lambda: ft.evaluate(model, (X, Y), classes=classes, verbose=0)
    yield lambda: ft.save_bundle(model, "m.keras", classes=classes)


@pytest.mark.parametrize("kind", BAD_CLASSES)
def test_names_of_classes_without_an_order_are_refused(
    kind, small_bert, tmp_path, monkeypatch
):
    """A string is three letters, a set has another order in each process."""
    monkeypatch.chdir(tmp_path)
    for take in takers(BAD_CLASSES[kind], small_bert):
        with pytest.raises(ValueError, match="must be (a list|an integer)"):
            take()


def test_names_come_as_lists_tuples_and_arrays(small_bert):
    names = ["b", "a", "c"]
    bert, tokenizer = small_bert
    for given in (names, tuple(names), np.array(names)):
        data = ft.from_arrays(X, np.array(names)[Y], classes=given)
        assert data.classes == names
        model = ft.text_classifier(bert, given, tokenizer=tokenizer)
        assert model.encoder.classes == names
        report = ft.evaluate(
            classifier(), (X, Y), classes=given, verbose=0, bootstrap=0
        )
        assert report.classes == names
    assert ft.from_arrays(X, Y, classes=[0, 1, 2]).classes == ["0", "1", "2"]


def test_integer_labels_are_not_taken_for_swapped_names():
    """0 is the first place, and also the name of the second class."""
    with pytest.raises(ValueError, match="'1' stands in another place"):
        ft.from_arrays(X, Y % 2, classes=["1", "0"])
    data = ft.from_arrays(X, (Y % 2).astype(str), classes=["1", "0"])
    y = np.concatenate([data.arrays(n)[1] for n in data.sizes])
    assert data.classes == ["1", "0"] and (y == 1).sum() == (Y % 2 == 0).sum()


# === Labels that a loss cannot learn ===


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.5, -1, 3])
def test_labels_that_are_no_classes_are_refused_before_training(bad):
    """JAX trains on all of them without a word; here it is the last one."""
    y = Y.astype("float32")
    y[-1] = bad
    model = classifier(loss="sparse_categorical_crossentropy")
    refused(model, y, "labels of `train`")
    refused(model, y[:, None], "labels of `train`")
    refused(model, Y, "labels of `validation`", validation=(X, y))
    with pytest.raises(ValueError, match="labels of `train`"):
        ft.fine_tune(classifier(), PLAN, (X, y), verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(name="mine")
    refused(classifier(loss=loss), y, "labels of `train`")


def test_a_missing_label_is_named_with_its_row():
    y = Y.astype("float32")
    y[5] = np.nan
    model = classifier(1, "mse", None)
    refused(model, y, "1 of the 24 labels", "at [5]")


def test_validation_of_nothing_but_nan_is_refused():
    model = classifier(1, "mse", None)
    y = Y.astype("float32")
    refused(model, y, "`validation`", validation=(X, y * np.nan))
    refused(model, y, "`validation`", validation=(X * np.nan, y))


def test_a_validation_loss_that_is_no_number_is_told():
    """One such row makes the loss of all of them NaN."""
    x = X.copy()
    x[7] = np.nan
    model = classifier(1, "mse", None)
    with pytest.warns(UserWarning, match="val_loss.*NaN.*validation data"):
        ft.fine_tune(model, PLAN, (X, Y), (x, Y), verbose=0)


def test_a_loss_of_ones_own_may_take_nan_for_not_known():
    def masked(y, outputs):
        known = keras.ops.logical_not(keras.ops.isnan(y))
        return keras.ops.where(known, (y - outputs) ** 2, 0.0)

    y = Y.astype("float32")[:, None]
    y[5] = np.nan
    Inputs((X, y), classifier(1, masked, None), "train")
    refused(classifier(1, "mse", None), y, "1 of the 24 labels")


def test_strings_for_a_loss_of_numbers_are_told():
    names = np.array(["ant", "bee", "cat"])[Y]
    for loss in ("sparse_categorical_crossentropy", "mse"):
        for y in (names, names.tolist(), names.astype(object)):
            refused(classifier(loss=loss), y, "must be numbers", "'ant'")
    refused(classifier(loss="mse"), np.array([1, None] * 12), "None")


@pytest.mark.parametrize(
    "loss", ["binary_crossentropy", "dice", keras.losses.BinaryCrossentropy()]
)
def test_masks_of_0_and_255_are_told(loss):
    model = classifier(1, loss, "sigmoid", (6, 6, 4))
    x, masks = np.ones((3, 6, 6, 4)), np.zeros((3, 6, 6, 1), "uint8")
    masks[-1, 0, 0] = 255
    refused(model, masks, "Divide masks of 0 and 255 by 255", x=x)
    Inputs((x, masks / 255), model, "train")


def test_three_classes_for_one_sigmoid_are_told():
    model = classifier(1, "binary_crossentropy", "sigmoid")
    refused(model, Y, "from 0 to 2", "one output a class")
    refused(model, Y % 2 * 2 - 1, "from -1 to 1", "Number two classes 0 and 1")


def test_one_hot_labels_for_a_sparse_loss_are_told():
    model = classifier(loss="sparse_categorical_crossentropy")
    refused(model, np.eye(3)[Y], "a column for each class", "argmax")


@pytest.mark.parametrize("shape", [(), (6, 6)])
def test_several_classes_at_once_for_a_softmax_are_told(shape):
    model = classifier(loss="categorical_crossentropy", shape=(*shape, 4))
    x, y = np.ones((5, *shape, 4)), np.zeros((5, *shape, 3))
    y[..., 0] = 1
    Inputs((x, y), model, "train")
    y[2, ..., 1] = 1
    refused(model, y, "more than one class at once", "sigmoid", x=x)


def test_maps_that_may_be_values_or_scores_are_not_guessed():
    model = classifier(activation=None, shape=(6, 6, 4))
    data = np.ones((5, 6, 6, 4)), np.ones((5, 6, 6, 3))
    with pytest.raises(ValueError, match="may be values, or scores"):
        ft.fine_tune(model, ft.plans.full(epochs=1), data)


def test_the_labels_of_each_output_are_checked():
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(n, name=f"head{n}")(inputs) for n in (3, 1)]
    model = keras.Model(inputs, heads)
    losses = ["sparse_categorical_crossentropy", "mse"]
    model.compile("adam", losses)
    bad = Y.astype("float32")
    bad[3] = np.nan
    refused(model, [Y, bad], "at [3]")
    refused(model, [Y + 1, Y], "from 1 to 3")
    model.compile("adam", dict(zip(("head3", "head1"), losses, strict=True)))
    refused(model, {"head1": bad, "head3": Y}, "at [3]")
    refused(model, {"head1": Y, "head3": Y + 1}, "from 1 to 3")


@pytest.mark.parametrize("bad", [np.nan, 0.5, -1, 3, "ant"])
def test_labels_are_checked_wherever_they_are_read(bad):
    """A label of 0.5 was calibrated, and swept, as class 0."""
    y = Y.astype(object if bad == "ant" else "float32")
    y[-1] = bad
    model = classifier(loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="labels of `validation`"):
        ft.calibrate(model, (X, y))
    with pytest.raises(ValueError, match="labels of `data`"):
        ft.find_learning_rate(model, (X, y), verbose=0)
    with pytest.raises(ValueError, match="[Ll]abels"):
        ft.evaluate(model, (X, y), verbose=0)


# === Labels in a column, as cifar10 has them ===


def test_labels_in_a_column_are_those_in_a_row():
    for shape, expected in (((5, 1), (5,)), ((5,), (5,)), ((5, 2), (5, 2))):
        assert one_column(np.ones(shape)).shape == expected
    assert one_column(np.ones((5, 4, 4, 1))).shape == (5, 4, 4)
    assert one_column(np.ones((1,))).shape == (1,)


@pytest.mark.backends
def test_a_column_of_labels_trains_to_the_same_weights():
    weights = []
    for y in (Y, Y[:, None]):
        keras.utils.set_random_seed(0)
        model = classifier()
        plan = ft.plans.full(epochs=1, learning_rate=0.1)
        ft.fine_tune(model, plan, (X, y), (X, y), verbose=0)
        assert "sparse" in model.loss
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_column_of_labels_is_judged_and_calibrated_as_a_row():
    model = classifier()
    row, column = (
        ft.evaluate(model, (X, y), verbose=0, bootstrap=0)
        for y in (Y, Y[:, None])
    )
    assert row.metrics == column.metrics
    row, column = (ft.calibrate(model, (X, y)) for y in (Y, Y[:, None]))
    assert row.layers[-1].scale == column.layers[-1].scale
    data = ft.from_arrays(X, Y[:, None])
    assert data.task == "classification" and len(data.classes) == 3


def test_a_column_of_labels_solves_the_head_as_a_row():
    kernels = []
    for y in (Y, Y[:, None]):
        keras.utils.set_random_seed(0)
        body = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
        model = ft.replace_head(body, 3)
        plan = ft.Plan([ft.Phase("head", epochs=1)], head_initializer="ridge")
        history = ft.fine_tune(model, plan, (X, y), verbose=0)
        assert "ridge" in history.phases[0]["head_initializer"]
        kernels.append(model.layers[-1].get_weights()[0])
    np.testing.assert_allclose(*kernels, rtol=1e-6)
