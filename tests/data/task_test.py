"""What labels and outputs mean, and what does not fit."""

import keras
import numpy as np
import pytest
from keras import layers, losses

from finetune_keras.data.outputs import activation_of, as_columns
from finetune_keras.data.task import Task


def read(model, labels, outputs, classes=None, task=None, from_logits=None):
    """The task that a model and a batch tell."""
    labels, outputs = np.asarray(labels), as_columns(outputs)
    return Task.of_batch(model, labels, outputs, task, classes, from_logits)


def model_of(units, activation=None, loss=None, outer=None):
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(units, activation=activation)]
    )
    if outer is not None:
        model = keras.Sequential([keras.Input((2,)), model, outer])
    if loss is not None:
        model.compile("sgd", loss)
    return model


P3 = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], "float32")
MANY = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.3]], "float32")
LOGITS3 = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]], "float32")
ONE = np.array([[0.2], [0.9]], "float32")
LOGIT1 = np.array([[-3.0], [2.0]], "float32")
IDS, BINARY = np.array([2, 1]), np.array([0, 1])
ONE_HOT, MULTI_HOT = np.eye(3)[IDS], np.array([[1, 1, 0], [0, 1, 0]])
VALUES = np.array([1.5, -2.0])


@pytest.mark.parametrize(
    "model, labels, outputs, task, logits",
    [
        (model_of(3, "softmax"), IDS, P3, "classification", False),
        (model_of(3, "softmax"), ONE_HOT, P3, "classification", False),
        (model_of(3), IDS, P3, "classification", False),
        (model_of(3), IDS, LOGITS3, "classification", True),
        (model_of(3), ONE_HOT, LOGITS3, "classification", True),
        (
            model_of(3, loss=losses.SparseCategoricalCrossentropy(True)),
            IDS,
            LOGITS3,
            "classification",
            True,
        ),
        (model_of(1, "sigmoid"), BINARY, ONE, "classification", False),
        (model_of(1, "sigmoid"), BINARY[:, None], ONE, "classification", False),
        (
            model_of(1, loss=losses.BinaryCrossentropy(from_logits=True)),
            BINARY,
            ONE,  # Logits that happen to lie in [0, 1].
            "classification",
            True,
        ),
        (
            model_of(1, loss="binary_crossentropy"),
            BINARY,
            LOGIT1,
            "classification",
            True,
        ),
        (model_of(1), BINARY, ONE, "classification", False),
        (model_of(1), VALUES, LOGIT1, "regression", False),
        (model_of(1, "sigmoid"), VALUES, ONE, "regression", False),
        (model_of(1, loss="mse"), BINARY, ONE, "regression", False),
        (model_of(1, "sigmoid", "mse"), BINARY, ONE, "classification", False),
        (model_of(3, "sigmoid"), MULTI_HOT, MANY, "multi_label", False),
        (model_of(3, "sigmoid"), ONE_HOT, MANY, "multi_label", False),
        (model_of(3), MULTI_HOT, LOGITS3, "multi_label", True),
        (
            model_of(3, loss=losses.BinaryCrossentropy(from_logits=True)),
            ONE_HOT,
            MANY,
            "multi_label",
            True,
        ),
        (model_of(3), ONE_HOT * 0.5, LOGITS3, "regression", False),
        (
            model_of(3, loss="mean_squared_error"),
            ONE_HOT,
            LOGITS3,
            "regression",
            False,
        ),
        (
            model_of(3, outer=layers.Softmax()),
            ONE_HOT,
            P3,
            "classification",
            False,
        ),
        (
            model_of(1, outer=model_of(1, "sigmoid")),
            BINARY,
            ONE,
            "classification",
            False,
        ),
        (object(), IDS, LOGITS3, "classification", True),
    ],
)
def test_task_and_logits(model, labels, outputs, task, logits):
    found = read(model, labels, outputs)
    assert (found, found.logits) == (task, logits)
    found.labels(labels), found.scores(outputs)


def test_the_activation_of_a_layer_may_be_a_string():
    last = layers.Identity()
    last.activation = "sigmoid"
    model = keras.Sequential([keras.Input((3,)), last])
    # By the values alone these would be logits of one class among several.
    found = read(model, ONE_HOT, MANY)
    assert (found, found.logits) == ("multi_label", False)


def test_the_word_of_the_user_wins():
    found = read(
        model_of(3, "softmax"), MULTI_HOT, MANY, task="multi_label"
    )
    assert found == "multi_label"
    found = read(object(), BINARY, ONE, from_logits=True)
    np.testing.assert_allclose(
        found.scores(ONE)[:, 1], 1 / (1 + np.exp(-ONE[:, 0])), rtol=1e-6
    )


def test_logits_become_probabilities():
    found = read(object(), IDS, LOGITS3).scores(1e3 * LOGITS3)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    found = read(object(), IDS, LOGITS3).scores(LOGITS3)
    powers = np.exp(LOGITS3)
    np.testing.assert_allclose(
        found, powers / powers.sum(1, keepdims=True), rtol=1e-6
    )
    far = np.array([[-800.0, 800.0, 0.0]], "float32")
    found = read(object(), MULTI_HOT, LOGITS3).scores(far)
    np.testing.assert_allclose(found, [[0, 1, 0.5]], atol=1e-6)


def test_one_sigmoid_is_two_classes():
    found = read(model_of(1, "sigmoid"), BINARY, ONE)
    assert found.classes == ["0", "1"]
    np.testing.assert_allclose(
        found.scores(ONE), [[0.8, 0.2], [0.1, 0.9]], rtol=1e-6
    )


def test_labels_in_any_form_become_ids():
    for labels in (IDS, IDS[:, None], IDS.astype("float32"), ONE_HOT):
        found = read(object(), labels, P3).labels(labels)
        np.testing.assert_array_equal(found, IDS)
    names = ["cat", "dog", "fox"]
    for labels in (["fox", "dog"], [b"fox", b"dog"], [["fox"], ["dog"]]):
        found = read(object(), labels, P3, names).labels(labels)
        np.testing.assert_array_equal(found, IDS)
    found = read(object(), np.array([False, True]), ONE)
    assert found.labels(np.array([True, False])).tolist() == [1, 0]


def test_half_precision():
    rounded = np.full((2, 300), 1 / 300, "float16")
    found = read(object(), IDS, rounded)
    assert not found.logits
    assert found.scores(rounded).dtype == np.float32


@pytest.mark.parametrize(
    "arguments, labels, outputs, message",
    [
        ({}, [0, 3], P3, "go from 0 to 3"),
        ({}, [0, -1], P3, "go from -1 to 0"),
        ({}, [0.5, 1.0], P3, "whole numbers"),
        ({}, np.eye(4)[:2], P3, "do not fit the outputs"),
        ({"task": "classification"}, MULTI_HOT, P3, "exactly one 1"),
        ({"task": "classification"}, 0.9 * ONE_HOT, P3, "all 0 or 1"),
        ({"task": "multi_label"}, 2 * MULTI_HOT, MANY, "all 0 or 1"),
        ({"task": "multi_label"}, MULTI_HOT[:, :2], MANY, "do not fit"),
        ({"task": "regression"}, [np.nan, 1.0], ONE, "finite numbers"),
        ({"task": "regression"}, [1.0, 1.0], P3, "do not fit"),
        ({"classes": ["a", "b"]}, IDS, P3, "3 different names"),
        ({"classes": ["a", "a", "b"]}, IDS, P3, "3 different names"),
        ({"classes": ["a", "b", "c"]}, ["a", "x"], P3, r"name: \['x'\]"),
        ({}, ["a", "b"], P3, "among `classes`"),
        ({}, np.ones((2, 4, 4)), P3, "one row for each example"),
        ({}, IDS, np.ones((2, 4, 3)), "one output of shape"),
        ({}, IDS, [P3, P3], "Received: outputs of list"),
        ({}, IDS, np.nan * P3, "predicts NaN"),
        ({"from_logits": False}, IDS, LOGITS3, "no probabilities"),
        ({"from_logits": False}, BINARY, LOGIT1, "no probabilities"),
    ],
)
def test_what_does_not_fit(arguments, labels, outputs, message):
    model = model_of(1, "sigmoid") if np.shape(outputs) == (2, 1) else object()
    with pytest.raises(ValueError, match=message) as caught:
        found = read(model, labels, outputs, **arguments)
        found.labels(labels)
        found.scores(outputs)
    assert "Received: " in str(caught.value)


def test_a_later_batch_that_contradicts_the_first():
    found = read(object(), BINARY, ONE)
    with pytest.raises(ValueError, match="pass `from_logits=True`"):
        found.scores(LOGIT1)


def test_the_ending_of_one_of_several_outputs_of_an_inner_model_is_known():
    inputs = keras.Input((4, 4, 2))
    soft = layers.Conv2D(1, 1, activation="sigmoid")(inputs)
    inner = keras.Model(inputs, {"raw": layers.ReLU()(inputs), "mask": soft})
    outer = keras.Model(inputs, inner(inputs)["mask"])
    assert activation_of(outer) == "sigmoid"
    assert Task.of(outer) == "segmentation" and Task.of(outer).logits is False
    outer = keras.Model(inputs, inner(inputs)["raw"])
    assert Task.of(outer) is None
