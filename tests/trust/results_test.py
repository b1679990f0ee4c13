"""Logits, and models that no bundle can predict with."""

import functools

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.outputs import (
    activation_of,
    ends_in_logits,
    kind_of,
    loss_name,
)
from finetune_keras.data.task import Task
from finetune_keras.results.predictions import Predictions
from finetune_keras.testing import randomize

layers, losses = keras.layers, keras.losses
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 4)).astype("float32")
FROM_LOGITS = {"from_logits": True}


def dense(units, activation=None, loss=None):
    inputs = keras.Input((4,))
    outputs = layers.Dense(units, activation, name="scores")(inputs)
    model = keras.Model(inputs, outputs)
    randomize(model)
    model.set_weights([4 * weight for weight in model.get_weights()])
    if loss is not None:
        model.compile("sgd", loss)
    return model


def with_activation(model, activation):
    outputs = layers.Activation(activation)(model.output)
    return keras.Model(model.input, outputs)


def bundle_of(model, tmp_path, classes=None):
    path = ft.save_bundle(model, tmp_path / "m.keras", classes=classes)
    return ft.load_bundle(path)


CASES = {
    "sparse": (3, "softmax", losses.SparseCategoricalCrossentropy(True)),
    "one-hot": (3, "softmax", losses.CategoricalCrossentropy(True)),
    "focal": (3, "softmax", losses.CategoricalFocalCrossentropy(**FROM_LOGITS)),
    "in a list": (3, "softmax", [losses.SparseCategoricalCrossentropy(True)]),
    "by name": (
        3,
        "softmax",
        {"scores": losses.SparseCategoricalCrossentropy(True)},
    ),
    "one logit": (1, "sigmoid", losses.BinaryCrossentropy(True)),
    "labels": (3, "sigmoid", losses.BinaryCrossentropy(True)),
}


@pytest.mark.parametrize("case", ["sparse", "one logit", "labels"])
def test_logits_are_shown_as_probabilities_in_a_bundle(case, tmp_path):
    units, activation, loss = CASES[case]
    model = dense(units, loss=loss)
    p = with_activation(model, activation).predict(X, verbose=0)
    names = ["no", "yes"] if units == 1 else ["a", "b", "c"]
    answers = bundle_of(model, tmp_path, names).predict(X)
    shown = answers.probabilities[:, -units:]
    np.testing.assert_allclose(shown, p, atol=1e-6)
    expected = Predictions(p, Task.named(kind_of(model), names, units))
    assert answers.labels == expected.labels
    assert len({str(label) for label in answers.labels}) > 1


@pytest.mark.parametrize("case", CASES)
def test_every_form_of_a_loss_tells_logits(case):
    units, activation, loss = CASES[case]
    model = dense(units, loss=loss)
    assert ends_in_logits(model)
    told = "multi_label" if case == "labels" else "classification"
    assert kind_of(model) == told
    ends = with_activation(model, activation)
    ends.compile("sgd", loss)
    assert ends_in_logits(ends) is False


def test_one_logit_is_cut_at_a_half_of_its_sigmoid(tmp_path):
    model = dense(1, loss=losses.BinaryCrossentropy(from_logits=True))
    logits = model.predict(X, verbose=0)[:, 0]
    assert ((logits > 0) & (logits < 0.5)).any()
    answers = bundle_of(model, tmp_path, ["no", "yes"]).predict(X)
    assert answers.labels == [["no", "yes"][int(v > 0)] for v in logits]
    y = (logits > 0).astype(int)
    report = ft.evaluate(model, (X, y), verbose=0, bootstrap=0)
    assert report.metrics["accuracy"] == 1.0


def test_a_hub_classifier_shows_probabilities(tmp_path, small_bert):
    """KerasHub's classifiers end in logits, compiled or not."""
    hub = pytest.importorskip("keras_hub")
    bert, tokenizer = small_bert
    model = hub.models.BertTextClassifier(
        bert,
        num_classes=3,
        preprocessor=hub.models.BertTextClassifierPreprocessor(tokenizer, 16),
    )
    randomize(model)
    texts = ["a good film", "bad bad"]
    logits = model.predict(texts, verbose=0)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    bundle = bundle_of(model, tmp_path, ["a", "b", "c"])
    answers = bundle.predict(texts)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
    assert ends_in_logits(bundle.model)
    loaded = keras.models.load_model(tmp_path / "m.keras", compile=False)
    assert ends_in_logits(loaded) and kind_of(loaded) == "classification"


def test_logits_without_a_loss_must_be_told_before_saving(tmp_path):
    for model in (dense(3), dense(1), dense(3, loss="mse")):
        names = ["a", "b", "c"][: model.output.shape[-1]]
        names = names if len(names) > 1 else ["no", "yes"]
        with pytest.raises(ValueError, match="from_logits=True"):
            bundle_of(model, tmp_path, names)
    with pytest.raises(ValueError, match="from_logits=True"):
        trained = dense(3, loss="sparse_categorical_crossentropy")
        bundle_of(trained, tmp_path, ["a", "b", "c"])
    with pytest.raises(ValueError, match="from_logits=True"):
        # Values, or scores of classes that have no names?
        bundle_of(dense(3), tmp_path)
    answers = bundle_of(dense(3, loss="mse"), tmp_path).predict(X)
    assert answers.probabilities is None


def test_one_logit_without_a_loss_must_be_told_to_evaluate():
    model, y = dense(1), np.arange(40) % 2
    with pytest.raises(ValueError, match="a logit, or a regression"):
        ft.evaluate(model, (X, y), verbose=0)
    told = {"verbose": 0, "bootstrap": 0}
    report = ft.evaluate(model, (X, y), from_logits=True, **told)
    p = with_activation(model, "sigmoid").predict(X, verbose=0)[:, 0]
    assert report.metrics["accuracy"] == ((p > 0.5) == y).mean()
    report = ft.evaluate(model, (X, y), task="regression", **told)
    assert "rmse" in report.metrics


def test_what_outputs_mean_is_told_by_activation_and_loss():
    """A string, an alias, a function, an object or a part of one."""
    for loss in ("bce", losses.binary_crossentropy, losses.BinaryCrossentropy):
        loss = loss() if isinstance(loss, type) else loss
        assert loss_name(loss) == "binary_crossentropy"
    model = dense(3, loss=losses.MeanSquaredError(name="mine"))
    assert kind_of(model) == "regression" and ends_in_logits(model) is None
    part = functools.partial(losses.binary_crossentropy, from_logits=True)
    model = dense(3, loss=part)
    assert kind_of(model) == "multi_label" and ends_in_logits(model)
    for wrapped in (
        layers.Activation("linear", dtype="float32")(model.output),
        keras.Sequential([keras.Input((3,)), layers.Identity()])(model.output),
    ):
        linear = keras.Model(model.input, wrapped)
        assert activation_of(linear) == "linear"
        soft = layers.Softmax()(wrapped)
        soft = keras.Model(model.input, layers.Reshape((3,))(soft))
        assert activation_of(soft) == "softmax"
        assert ends_in_logits(soft) is False


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.backends("sparse")
@pytest.mark.parametrize("case", ["sparse", "one-hot", "one logit", "labels"])
def test_a_model_of_logits_is_calibrated_on_the_right_scale(case, tmp_path):
    units, activation, loss = CASES[case]
    model = dense(units, loss=loss)
    p = with_activation(model, activation)
    y = p.predict(X, verbose=0)
    noisy = y + rng.normal(0, 0.3, y.shape)
    if activation == "softmax":
        y = noisy.argmax(-1)
        y = np.eye(3)[y] if case == "one-hot" else y
    else:
        y = (noisy > 0.5).astype("float32")
    calibrated = ft.calibrate(model, (X, y))
    expected = ft.calibrate(p, (X, y))
    found = calibrated.predict(X, verbose=0)
    np.testing.assert_allclose(found, expected.predict(X, verbose=0), atol=1e-4)
    again = ft.calibrate(calibrated, (X, y))
    np.testing.assert_allclose(found, again.predict(X, verbose=0), atol=1e-4)
    # It was compiled for logits, and gives probabilities now.
    wanted = np.mean(keras.ops.convert_to_numpy(calibrated.loss(y, found)))
    assert calibrated.evaluate(X, y, verbose=0) == pytest.approx(wanted, 1e-3)
    assert not calibrated.loss.from_logits
    answers = bundle_of(calibrated, tmp_path).predict(X)
    shown = answers.probabilities[:, -units:]
    np.testing.assert_allclose(shown, found, atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", None])
def test_scores_of_unknown_meaning_are_not_calibrated(loss):
    with pytest.raises(ValueError, match="from_logits=True"):
        ft.calibrate(dense(3, loss=loss), (X, np.arange(40) % 3))


def test_cross_validation_reads_logits_as_evaluate_does():
    y = (X[:, 0] > 0).astype(int)

    def build():
        keras.utils.set_random_seed(0)
        return dense(1, loss=losses.BinaryCrossentropy(from_logits=True))

    plan = ft.plans.full(epochs=30, learning_rate=0.5)
    found = ft.cross_validate(build, plan, (X, y), folds=2, verbose=0)
    assert found.reports[0].task == "classification"
    assert found.mean["accuracy"] > 0.7


# === What is no single prediction for each input ===


def labels_at_each_place(rank=4):
    inputs = keras.Input((8,) * (rank - 2) + (3,))
    return keras.Model(inputs, layers.Dense(5, "sigmoid")(inputs))


def detector():
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(inputs)
    outputs = {"boxes": layers.Dense(4)(x), "classes": layers.Dense(3)(x)}
    return keras.Model(inputs, outputs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2, "softmax")

    def call(self, inputs):
        return self.dense(inputs)


def subclassed():
    model = Subclassed()
    model(X)
    return model


@pytest.mark.parametrize(
    "build, reason",
    [
        (labels_at_each_place, r"\(None, 8, 8, 5\)"),
        (functools.partial(labels_at_each_place, 3), r"\(None, 8, 5\)"),
        (detector, "Each output of a model with several"),
        (subclassed, "no graph"),
    ],
)
def test_what_no_bundle_can_predict_is_refused_when_saved(
    build, reason, tmp_path
):
    path = tmp_path / "m.keras"
    with pytest.raises(ValueError, match=reason) as error:
        ft.save_bundle(build(), path)
    assert "model.save" in str(error.value) and not path.exists()


def test_text_models_without_a_prediction_for_each_text_are_refused(
    tmp_path, small_bert
):
    base = ft.text_backbone(*small_bert, sequence_length=16)
    for model in (base, ft.masked_language_model(base)):
        with pytest.raises(ValueError, match=r"model\.save"):
            ft.save_bundle(model, tmp_path / "m.keras")


@pytest.mark.parametrize("rank", [3, 4])
def test_predictions_for_each_pixel_or_step_are_not_evaluated(rank):
    model = labels_at_each_place(rank)
    x = np.ones((2, *model.input.shape[1:]))
    y = np.zeros(x.shape[:-1], int)
    with pytest.raises(ValueError, match=r"model\.evaluate"):
        ft.evaluate(model, (x, y), verbose=0)
    with pytest.raises(ValueError, match=r"model\.evaluate"):
        ft.calibrate(model, (x, y))


# === The closed-form head ===


def blobs(labels):
    y = rng.integers(0, 3, 60)
    x = np.eye(4)[y] * 3 + rng.normal(0, 0.3, (60, 4))
    return x.astype("float32"), y if labels == "ids" else np.eye(3)[y]


def with_head(activation, loss):
    inputs = keras.Input((4,))
    x = layers.Dense(6, "tanh", name="body")(inputs)
    outputs = layers.Dense(3, activation, name="head")(x)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


def test_a_head_of_logits_is_solved_as_that_of_a_softmax():
    data = blobs("ids")
    plan = ft.Plan([ft.Phase("head", 1, 1e-5)], head_initializer="auto")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model = with_head(None, loss)
    history = ft.fine_tune(model, plan, data, data, verbose=0)
    assert history.phases[0]["solved"]["val_accuracy"] > 0.95


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy"])
def test_a_head_of_values_or_labels_is_not_solved_as_one_of_classes(loss):
    """Rows of values or labels would be read as one-hot classes."""
    model = with_head("sigmoid" if "binary" in loss else None, loss)
    plan = ft.Plan([ft.Phase("head", 1, 1e-5)], head_initializer="lda")
    with pytest.raises(ValueError, match="is solved by '(ridge|logistic)'"):
        ft.fine_tune(model, plan, blobs("rows"), verbose=0)
