import collections
import random

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.buckets import Buckets
from finetune_keras.testing import fresh_process, randomize, weights_snapshot

TEXTS = ["good film", "bad", "a very good film was not bad . ", ""] * 6
LONG = [text + " film" * (i % 20) for i, text in enumerate(TEXTS)]
LABELS = np.arange(24) % 2


@pytest.fixture
def backbone(small_bert):
    return ft.text_backbone(*small_bert, sequence_length=32)


@pytest.fixture
def model(backbone):
    model = ft.text_classifier(backbone, ["neg", "pos"], dropout=0.0)
    randomize(model)
    return model


def values(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


def test_buckets_change_no_prediction(model):
    x = model.arrays(LONG)
    assert x["token_ids"].shape == (24, 28)
    whole = model.predict(x, verbose=0)
    by_length = model.predict(LONG, batch_size=4, verbose=0)
    np.testing.assert_allclose(by_length, whole, atol=1e-6)
    one = model.predict(LONG[5], verbose=0)
    np.testing.assert_allclose(one, whole[5:6], atol=1e-6)
    assert np.ptp(whole[:, 0]) > 1e-3


@pytest.mark.usefixtures("op_by_op")
def test_fit_evaluate_predict_take_texts(model):
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    before = values(model)
    data = LONG, LABELS
    history = model.fit(
        LONG, LABELS, batch_size=5, epochs=2, validation_data=data, verbose=0
    )
    assert len(history.history["val_loss"]) == 2
    moved = [(a != b).any() for a, b in zip(values(model), before, strict=True)]
    assert all(moved[-6:])
    loss, accuracy = model.evaluate(LONG, LABELS, verbose=0)
    found = model.predict(LONG, verbose=0)
    expected = -np.log(found[np.arange(24), LABELS]).mean()
    assert loss == pytest.approx(expected, abs=1e-4)
    assert accuracy == pytest.approx((found.argmax(1) == LABELS).mean())


@pytest.mark.usefixtures("op_by_op")
def test_labels_may_be_names(model):
    names = np.array(["neg", "pos"])[LABELS]
    plan = ft.Plan([ft.Phase("head", epochs=2, learning_rate=1e-3)])
    history = ft.fine_tune(model, plan, (LONG, names), verbose=0)
    assert len(history.epochs) == 2
    solved = ft.plans.linear_probe()
    history = ft.fine_tune(model, solved, (LONG, names), verbose=0)
    assert "strength" in history.phases[0]["head_initializer"]


@pytest.mark.usefixtures("op_by_op")
def test_sample_weights_reach_the_loss(model):
    model.compile("sgd", "sparse_categorical_crossentropy")
    weights = np.linspace(0, 2, 24).astype("float32")
    data = LONG, LABELS
    weighted = model.evaluate(*data, sample_weight=weights, verbose=0)
    found = model.predict(LONG, verbose=0)[np.arange(24), LABELS]
    assert weighted == pytest.approx(
        (-np.log(found) * weights).mean(), abs=1e-4
    )


def test_fine_tune_freezes_bit_equal_and_caches(model):
    before = weights_snapshot(model)
    plan = ft.Plan(
        [
            ft.Phase("head", 2, learning_rate=1e-2),
            ft.Phase(2, 2, learning_rate=1e-2),
        ]
    )
    data = LONG, LABELS
    history = ft.fine_tune(model, plan, data, data, batch_size=4, verbose=0)
    after = weights_snapshot(model)
    moved = {
        path.split("/")[0]
        for path in before
        if (before[path] != after[path]).any()
    }
    assert moved == {
        "head_predictions",
        "pooled_dense",
        "transformer_layer_1",
    }
    assert "transformer_layer_0" in history.phases[1]["cache"]
    assert "dropout left out" in history.phases[1]["cache"]


@pytest.mark.usefixtures("op_by_op")
def test_cached_texts_train_as_uncached_ones(small_bert):
    backbone, tokenizer = small_bert
    config = {**backbone.get_config(), "dropout": 0.0}
    config.pop("trainable")
    ends = {}
    for cache in ("memory", "disk", "off"):
        keras.utils.set_random_seed(2)
        copy = type(backbone).from_config(config)
        copy.set_weights(backbone.get_weights())
        model = ft.text_classifier(
            copy, 2, tokenizer=tokenizer, sequence_length=32, dropout=0.0
        )
        model.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy"
        )
        plan = ft.Plan([ft.Phase(2, 2)])
        keras.utils.set_random_seed(3)
        history = ft.fine_tune(
            model, plan, (LONG, LABELS), batch_size=4, cache=cache, verbose=0
        )
        assert ("off" in history.phases[0]["cache"]) == (cache == "off")
        ends[cache] = values(model)
    for cache in ("memory", "disk"):
        for a, b in zip(ends[cache], ends["off"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_saved_and_loaded_in_a_fresh_process(model):
    ft.freeze(model)
    ft.unfreeze(model, ["transformer_layer_1", "head"])
    x = model.arrays(LONG)
    loaded = fresh_process.reload(model, x, ["finetune_keras"])
    (outputs,) = loaded["outputs"]
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    names = {path.split("/")[0] for path in loaded["trainable"]}
    assert names == {"transformer_layer_1", "head_predictions"}


@pytest.mark.usefixtures("op_by_op")
def test_vocabulary_is_in_the_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.encoder.classes == ["neg", "pos"]
    np.testing.assert_allclose(
        loaded.predict(LONG, verbose=0),
        model.predict(LONG, verbose=0),
        atol=1e-6,
    )


@pytest.mark.usefixtures("op_by_op")
def test_saving_works_after_a_cached_phase(model, tmp_path):
    # The mask passes by the cut, and Keras moves its place in the history.
    plan = ft.Plan([ft.Phase(2, 1, learning_rate=1e-3)])
    ft.fine_tune(model, plan, (LONG, LABELS), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(LONG, verbose=0),
        model.predict(LONG, verbose=0),
        atol=1e-6,
    )


def test_tasks_on_one_backbone_share_its_weights(backbone):
    a = ft.text_classifier(backbone, 2)
    b = ft.text_regressor(backbone)
    inner = {id(v) for v in backbone.weights}
    assert inner < {id(v) for v in a.weights}
    assert inner < {id(v) for v in b.weights}


@pytest.mark.usefixtures("op_by_op")
def test_a_new_head_and_calibration_leave_a_text_model(model):
    calibrated = ft.calibrate(model, (LONG, LABELS))
    assert isinstance(calibrated, ft.FineTuneModel)
    assert calibrated.encoder.classes == ["neg", "pos"]
    assert calibrated.predict(LONG, verbose=0).shape == (24, 2)
    three = ft.replace_head(model, 3, pooling="token")
    assert isinstance(three, ft.FineTuneModel) and three.encoder.classes is None
    assert three.predict(LONG, verbose=0).shape == (24, 3)


@pytest.mark.usefixtures("op_by_op")
def test_arrays_of_token_ids_still_work(model):
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = model.arrays(LONG)
    model.fit(x, LABELS, verbose=0)
    buckets = model.tokenize((x, LABELS))
    assert not isinstance(buckets, Buckets)


def test_validation_split_is_refused(model):
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="Split the texts"):
        model.fit(LONG, LABELS, validation_split=0.2, verbose=0)
    with pytest.raises(ValueError, match="no text"):
        model.fit([], np.zeros(0), verbose=0)


class TextBatches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return LONG[rows], LABELS[rows]


@pytest.mark.parametrize("form", ["sequence", "batches"])
def test_texts_in_batches_of_others_are_refused(model, form):
    data = TextBatches()
    if form == "batches":
        data = collections.deque(data[i] for i in range(3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    for train in (
        lambda: ft.fine_tune(model, ft.plans.full(1), data, verbose=0),
        lambda: model.fit(data, verbose=0),
        lambda: ft.find_learning_rate(model, data, verbose=0),
        lambda: model.evaluate(data, verbose=0),
    ):
        with pytest.raises(ValueError, match="pass a tuple"):
            train()


@pytest.mark.usefixtures("op_by_op")
def test_dry_run_and_rate_finder(model):
    data = LONG, LABELS
    forecast = ft.dry_run(model, ft.plans.full(epochs=2), data, batch_size=12)
    assert forecast.seconds > 0
    model.compile("sgd", "sparse_categorical_crossentropy")
    for form in (data, list(data)):
        sweep = ft.find_learning_rate(model, form, num_steps=4, verbose=0)
        assert len(sweep.losses) >= 2


@pytest.mark.usefixtures("op_by_op")
def test_evaluation_and_bundle(model, tmp_path):
    report = ft.evaluate(model, (LONG, LABELS), verbose=0, bootstrap=20)
    found = model.predict(LONG, verbose=0)
    expected = (found.argmax(1) == LABELS).mean()
    assert report.metrics["accuracy"] == pytest.approx(expected)
    ft.save_bundle(model, tmp_path / "texts.keras")
    bundle = ft.load_bundle(tmp_path / "texts.keras")
    assert bundle.classes == ["neg", "pos"]
    answers = bundle.predict(LONG[:3])
    names = np.array(bundle.classes)[found[:3].argmax(1)]
    assert answers.labels == names.tolist()
    np.testing.assert_allclose(answers.probabilities, found[:3], atol=1e-5)
    assert len(bundle.predict("good film").labels) == 1


@pytest.mark.usefixtures("op_by_op")
def test_a_run_that_stops_and_goes_on_ends_as_one_run(small_bert, tmp_path):
    def run(folder, *stops):
        for stop in stops:
            keras.utils.set_random_seed(4)
            copy = type(small_bert[0]).from_config(small_bert[0].get_config())
            copy.set_weights(small_bert[0].get_weights())
            model = ft.text_classifier(
                copy, 2, tokenizer=small_bert[1], sequence_length=32
            )
            model.compile(
                keras.optimizers.SGD(momentum=0.9),
                "sparse_categorical_crossentropy",
            )
            plan = ft.Plan(
                [
                    ft.Phase(2, 1, learning_rate=1e-2),
                    ft.Phase("all", 2, learning_rate=1e-3),
                ]
            )
            ft.fine_tune(
                model,
                plan,
                (LONG, LABELS),
                batch_size=12,
                checkpoint_dir=tmp_path / folder,
                stop_after=stop,
                verbose=0,
            )
        return values(model)

    def seeded(folder, *stops):
        random.seed(9)
        return run(folder, *stops)

    whole = seeded("whole", 3)
    for a, b in zip(seeded("parts", 2, 3), whole, strict=True):
        np.testing.assert_array_equal(a, b)
