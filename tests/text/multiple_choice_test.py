import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize
from finetune_keras.text.choice_encoder import (
    ChoiceEncoder,
    ChoiceLoss,
    choice_accuracy,
)

pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
pytestmark = pytest.mark.usefixtures("op_by_op")
QUESTIONS = ["who ran ?", "where ?", "who was bad ?", "a film ?"]
CHOICES = [
    ["paris", "ann ran", "good"],
    ["paris", "bob", "a very very good film was not bad"],
    ["a", "paris", "bob was bad"],
    ["a good film", "ann", "where"],
]
RIGHT = [1, 0, 2, 0]


@pytest.fixture
def model(small_bert):
    """On one layer: training it is cheap."""
    config = {**small_bert[0].get_config(), "num_layers": 1, "name": "tiny"}
    bert = type(small_bert[0])(**config)
    backbone = ft.text_backbone(bert, small_bert[1], sequence_length=32)
    model = ft.multiple_choice(backbone, dropout=0.0)
    randomize(model)
    return model


@pytest.mark.backends
def test_loss_and_accuracy_are_those_of_whole_questions():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    questions = np.repeat([5, 2, 9, 0], 3)
    right = np.eye(3)[[2, 0, 1, 1]].ravel()
    y = np.stack([questions, right], axis=1).astype("int32")
    order = np.random.default_rng(1).permutation(12)
    found = ChoiceLoss()(y[order], logits.reshape(-1, 1)[order])
    likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -likely[range(4), [2, 0, 1, 1]].mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    hits = choice_accuracy(y[order], logits.reshape(-1, 1)[order])
    expected = (logits.argmax(axis=1) == [2, 0, 1, 1]).mean()
    assert float(keras.ops.mean(hits)) == pytest.approx(expected)
    alike = choice_accuracy(y, np.ones((12, 1), "float32"))
    assert float(keras.ops.mean(alike)) == 0.0


def test_choices_are_learnt_judged_and_saved(model, tmp_path):
    x = QUESTIONS, CHOICES
    scores = model.predict(model.arrays(x), verbose=0).reshape(4, 3)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    before = model.predict(x, verbose=0)
    found = [one["probabilities"] for one in before]
    np.testing.assert_allclose(found, shares, atol=1e-5)
    likely = np.log(shares[range(4), RIGHT])
    model.compile("sgd", **model.task.compile_arguments())
    loss, _ = model.evaluate(x, RIGHT, verbose=0)
    assert loss == pytest.approx(-likely.mean(), abs=1e-4)

    plan = ft.Plan([ft.Phase("head", 12, 0.3)])
    model.compile("adam", **model.task.compile_arguments())
    history = ft.fine_tune(model, plan, (x, RIGHT), batch_size=4, verbose=0)
    assert "in memory" in history.phases[0]["cache"]
    assert history.epochs[-1]["loss"] < 0.97 * history.epochs[0]["loss"]
    found = model.predict(x, verbose=0)
    hits = [
        one["choice"] == right for one, right in zip(found, RIGHT, strict=True)
    ]
    texts = [row[i] for row, i in zip(CHOICES, RIGHT, strict=True)]
    assert (found[0]["text"] == texts[0]) == hits[0]
    report = ft.evaluate(model, (x, texts), bootstrap=0, verbose=0)
    assert report.task == "classification"
    assert report.metrics["accuracy"] == np.mean(hits)
    assert report.worst[0]["true"] in ("0", "1", "2")
    assert ft.Report.from_json(report.to_json()).metrics == report.metrics
    ft.save_bundle(model, tmp_path / "choices.keras")
    bundle = ft.load_bundle(tmp_path / "choices.keras")
    again = bundle.predict(x)
    assert [a["text"] for a in again] == [a["text"] for a in found]
    assert bundle.model.loss.name == model.loss.name


def test_weights_and_datasets_of_questions(model):
    import tensorflow as tf

    data = (np.array(QUESTIONS), np.array(CHOICES)), RIGHT
    plan = ft.Plan([ft.Phase("head", 1, 1e-2)])
    with pytest.raises(ValueError, match="weighs classes"):
        ft.fine_tune(model, plan, data, class_weight={0: 1.0, 1: 2.0})
    weight = np.array([1.0, 0.0, 0.0, 0.0])
    _, _, (y, weights) = model.encoder.prepare(*data, weight)
    assert weights.tolist() == [1.0] * 3 + [0.0] * 9
    assert y[:, 0].tolist() == np.repeat(range(4), 3).tolist()
    batches = tf.data.Dataset.from_tensor_slices(data).batch(4)
    reports = [
        ft.evaluate(model, d, bootstrap=0, verbose=0) for d in (batches, data)
    ]
    assert reports[0].metrics == pytest.approx(reports[1].metrics)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (QUESTIONS, RIGHT, r"\(questions, choices\)"),
        ((QUESTIONS, [["a", "b"]] * 3 + [["a"]]), RIGHT, "all as many"),
        ((QUESTIONS, CHOICES), [3] + RIGHT[1:], "from 0 to 2"),
        ((QUESTIONS, CHOICES), ["bob"] * 4, "stands once"),
        ((QUESTIONS, ["ab"] * 4), RIGHT, "all as many"),
    ],
)
def test_what_are_no_choices(small_bert, x, y, message):
    with pytest.raises(ValueError, match=message):
        ChoiceEncoder(small_bert[1], 32).prepare(x, y)
