"""Distillation: a student that learns from what a teacher says."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.training.distillation import DistillationLoss

rng = np.random.default_rng(3)
X = rng.standard_normal((48, 4)).astype("float32")
Y = np.arange(48) % 3


def classifier(activation="softmax", classes=3):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="tanh", name="body")(inputs)
    x = keras.layers.Dense(classes, activation=activation, name="head")(x)
    return testing.randomize(keras.Model(inputs, x), seed=classes)


def softmax(logits):
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    return chances / chances.sum(-1, keepdims=True)


def array(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


@pytest.mark.backends
def test_the_loss_is_that_of_the_paper_of_logits_and_of_probabilities():
    said = softmax(rng.standard_normal((5, 3)))
    known = np.eye(3)[[0, 1, 2, 1, 0]]
    logits = rng.standard_normal((5, 3))
    y = np.stack([said, known], 1).astype("float32")
    soft, mine = softmax(np.log(said) / 3), softmax(logits / 3)
    by_teacher = -9 * (soft * np.log(mine)).sum(-1)
    by_label = -(known * np.log(softmax(logits))).sum(-1)
    expected = (0.7 * by_teacher + 0.3 * by_label).mean()
    for from_logits, outputs in ((True, logits), (False, softmax(logits))):
        loss = DistillationLoss(3.0, 0.7, from_logits)
        loss = DistillationLoss.from_config(loss.get_config())
        found = array(loss(y, outputs.astype("float32")))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("end", ["softmax", None])
@pytest.mark.usefixtures("op_by_op")
def test_a_student_comes_to_say_what_its_teacher_says(end):
    teacher, student = classifier(end), classifier(end, 3)
    testing.randomize(student, seed=9)
    x, y = ft.distill(student, teacher, (X, Y[:, None]), weight=1.0)
    said = teacher.predict(X, verbose=0)
    said = said if end else softmax(said)
    np.testing.assert_allclose(y[:, 0], said, atol=1e-6)
    np.testing.assert_array_equal(y[:, 1].argmax(-1), Y)
    before = (
        student.predict(X, verbose=0).argmax(-1) == said.argmax(-1)
    ).mean()
    plan = ft.Plan([ft.Phase("all", epochs=6, learning_rate=5e-2)])
    history = ft.fine_tune(student, plan, (x, y), (x, y), verbose=0)
    after = (student.predict(X, verbose=0).argmax(-1) == said.argmax(-1)).mean()
    assert after > max(before, 0.85)
    assert "val_agreement" in history.history
    if end:
        assert 0 <= ft.evaluate(student, (X, Y)).metrics["accuracy"] <= 1


def named(names):
    model = classifier()
    model.class_names = names
    return model


def test_classes_in_another_order_are_refused():
    with pytest.raises(ValueError, match="same classes in the same order"):
        ft.distill(named(["a", "b", "c"]), named(["b", "a", "c"]), (X, Y))


@pytest.mark.usefixtures("op_by_op")
def test_batches_are_read_as_one():
    tf = pytest.importorskip("tensorflow")
    teacher, data = classifier(), tf.data.Dataset.from_tensor_slices((X, Y))
    x, y = ft.distill(classifier(), teacher, data.batch(20))
    expected = ft.distill(classifier(), teacher, (X, Y))
    np.testing.assert_array_equal(x, expected[0])
    np.testing.assert_allclose(y, expected[1], atol=1e-6)
    with pytest.raises(ValueError, match="never end"):
        ft.distill(classifier(), teacher, data.batch(20).repeat())


@pytest.mark.parametrize(
    "student, data, options, message",
    [
        (classifier, (X, Y), {"weight": 2}, "weight=2"),
        (classifier, (X, Y + 1), {}, "3"),
        (classifier, (X,), {}, "`data` must be a tuple"),
        (classifier, (X, Y / 2), {}, "number of its class"),
        (lambda: classifier(classes=2), (X, Y), {}, "a student of 2"),
        (lambda: classifier("sigmoid", 1), (X, Y), {}, "`student` must have"),
    ],
)
def test_what_does_not_fit_is_told(student, data, options, message):
    with pytest.raises(ValueError, match=message):
        ft.distill(student(), classifier(), data, **options)
