"""What users pass in other forms: what is right goes on, the rest is told."""

import warnings

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.training.learning_rate import find_learning_rate

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
LABELS = np.arange(12) % 3


def classifier(loss="sparse_categorical_crossentropy", outputs=3):
    x = inputs = keras.Input((4,))
    x = keras.layers.Dense(4, activation="relu")(x)
    out = keras.layers.Dense(outputs, activation="softmax", name="out")(x)
    model = keras.Model(inputs, out)
    model.compile("sgd", loss)
    return model


def two_inputs():
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    x = keras.layers.Concatenate()(list(inputs.values()))
    x = keras.layers.Dense(3, activation="softmax", name="out")(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "categorical_crossentropy")
    return model


def dataset(x, y):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y))


# === What is right goes on ===


def test_class_weights_by_classes_that_are_floats_are_taken():
    classes = np.unique(LABELS.astype("float32"))
    weights = {key: 1.0 + key for key in classes}
    model = classifier()
    start = model.get_weights()
    plan = ft.plans.full(epochs=1, learning_rate=0.1)
    ends = []
    for given in (weights, {0: 1.0, 1: 2.0, 2: 3.0}):
        model.set_weights(start)
        data = X, LABELS.astype("float32")
        ft.fine_tune(
            model, plan, data, class_weight=given, shuffle=False, verbose=0
        )
        ends.append(model.get_weights())
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(start[0], ends[0][0])


def test_class_weights_between_classes_are_refused():
    with pytest.raises(ValueError, match="0.5 is none of them"):
        ft.fine_tune(
            classifier(),
            ft.plans.full(epochs=1),
            (X, LABELS),
            class_weight={0: 1, 0.5: 1, 1: 1, 2: 1},
            verbose=0,
        )


def test_batches_of_grey_images_without_a_channel_are_batches():
    """Keras adds the axis of one channel itself."""
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(2, 3, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy")
    images = np.random.default_rng(0).uniform(size=(12, 6, 6))
    single = dataset(images.astype("float32"), LABELS)
    for data in (single.batch(6), single.batch(6, drop_remainder=True)):
        history = ft.fine_tune(
            model, ft.plans.full(epochs=1), data, cache="off", verbose=0
        )
        assert len(history.history["loss"]) == 1
    with pytest.raises(ValueError, match="single examples"):
        ft.fine_tune(model, ft.plans.full(epochs=1), single, verbose=0)


# === The rest is told ===


def test_single_examples_of_several_inputs_are_told():
    data = dataset({"a": X, "b": X}, np.eye(3)[LABELS])
    with pytest.raises(ValueError, match=r"train.batch\(32\)"):
        ft.fine_tune(two_inputs(), ft.plans.full(epochs=1), data, verbose=0)


def test_single_examples_with_one_hot_labels_are_told_by_all_who_judge():
    model = classifier("categorical_crossentropy")
    data = dataset(X, np.eye(3)[LABELS])
    with pytest.raises(ValueError, match=r"data.batch\(32\)"):
        ft.evaluate(model, data, verbose=0)
    with pytest.raises(ValueError, match=r"validation.batch\(32\)"):
        ft.calibrate(model, data)


def test_a_label_out_of_range_in_a_later_batch_ends_a_sweep():
    late = np.append(LABELS[:-1], 7)
    with pytest.raises(ValueError, match="from 1 to 7, and the model has 3"):
        find_learning_rate(
            classifier(), dataset(X, late).batch(2), num_steps=8, verbose=0
        )


def test_all_splits_at_once_as_data_are_told():
    data = ft.from_arrays(X, LABELS, validation_split=0.25)
    with pytest.raises(ValueError, match=r"pass `data\.train`"):
        ft.fine_tune(classifier(), ft.plans.full(epochs=1), data, verbose=0)


def test_a_model_in_the_place_of_the_plan_is_told():
    plan = ft.plans.full(epochs=1)
    with pytest.raises(ValueError, match="model, which comes first"):
        ft.fine_tune(plan, classifier(), (X, LABELS), verbose=0)


def test_several_outputs_are_judged_each_for_itself():
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(3)(inputs), keras.layers.Dense(1)(inputs)]
    model = keras.Model(inputs, outputs)
    reports = ft.evaluate(model, (X, [LABELS, X[:, 0]]), verbose=0)
    assert list(reports) == model.output_names
    kinds = [str(report.task) for report in reports.values()]
    assert kinds == ["classification", "regression"]


# === Texts ===


def test_a_tuple_of_sentences_has_as_many_as_it_holds(small_bert):
    base = ft.text_backbone(*small_bert, sequence_length=16)
    model = ft.token_classifier(base, ["O", "B-p"])
    sentences = (["ann", "ran", "badly"], ["bob"])
    tags = [["B-p", "O", "O"], ["B-p"]]
    history = ft.fine_tune(
        model, ft.plans.full(epochs=1), (sentences, tags), verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()
    assert [len(one) for one in model.predict(sentences, verbose=0)] == [3, 1]


def test_a_tuple_of_more_than_two_texts_is_told(small_bert):
    model = ft.text_classifier(
        ft.text_backbone(*small_bert, sequence_length=16), ["neg", "pos"]
    )
    texts = ("good film", "bad", "good")
    with pytest.raises(ValueError, match=r"list\(texts\)"):
        ft.fine_tune(
            model, ft.plans.full(epochs=1), (texts, [1, 0, 1]), verbose=0
        )
    with pytest.raises(ValueError, match=r"list\(texts\)"):
        model.predict(texts, verbose=0)


# === Files ===


@pytest.mark.parametrize("part", ["loss", "metric", "lambda"])
def test_a_bundle_of_a_model_with_a_loss_of_ones_own_predicts(part, tmp_path):
    """What no one registered is needed to train, and not to predict."""

    def own(y, outputs):
        return keras.losses.sparse_categorical_crossentropy(y, outputs)

    model = classifier()
    if part == "metric":
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=[own])
    else:
        model.compile("sgd", own if part == "loss" else lambda y, p: own(y, p))
    model.fit(X, LABELS, verbose=0)
    path = tmp_path / "own.keras"
    ft.save_bundle(model, path, classes=["a", "b", "c"])
    with pytest.warns(UserWarning, match=r"before `bundle.model.compile"):
        bundle = ft.load_bundle(path)
    np.testing.assert_allclose(
        bundle.predict(X).probabilities,
        model.predict(X, verbose=0),
        atol=1e-6,
    )


def test_a_lambda_layer_trains_without_a_warning_that_it_is_lost():
    inputs = keras.Input((4,))
    x = keras.layers.Lambda(lambda x: 2 * x, output_shape=(4,))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ft.fine_tune(
            model, ft.plans.full(epochs=1), (X, LABELS), cache="off", verbose=0
        )


def test_a_task_of_keras_hub_with_adapters_is_bundled_when_merged(
    small_bert, tmp_path
):
    hub = pytest.importorskip("keras_hub")
    backbone, tokenizer = small_bert
    preprocessor = hub.models.BertTextClassifierPreprocessor(tokenizer, 8)
    model = hub.models.BertTextClassifier(
        backbone, num_classes=2, preprocessor=preprocessor
    )
    with pytest.warns(UserWarning, match="does not write adapters"):
        ft.add_adapters(model, ft.LoRA(rank=2))
    for weight in model.trainable_weights:
        weight.assign(weight + 0.1)
    texts = np.array(["good film", "bad"])
    expected = model.predict(texts, verbose=0)
    path = tmp_path / "task.keras"
    with pytest.raises(ValueError, match="merged first"):
        ft.save_bundle(model, path, classes=["neg", "pos"])
    ft.merge_adapters(model)
    ft.save_bundle(model, path, classes=["neg", "pos"])
    found = ft.load_bundle(path).model.predict(texts, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
