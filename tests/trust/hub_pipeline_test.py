"""What a KerasHub task does to its data before its graph is part of it."""

import importlib.util

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.outside_graph import prepared

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
pytestmark = [
    # True of KerasHub's tasks, and not what is tested here.
    pytest.mark.filterwarnings("ignore:.*does not keep the frozen state"),
    # Of KerasHub: it passes a dataset on with `shuffle`.
    pytest.mark.filterwarnings("ignore:.*`shuffle=True` was passed"),
]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PROBE = ft.Plan([ft.Phase("head", epochs=2, learning_rate=1e-2)])
SOLVED = ft.Plan([ft.Phase("head", epochs=1, learning_rate=1e-9)], "ridge")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
TEXTS = ["good film", "bad film film", "good", "bad bad"] * 2


def pixels(size=20):
    """Dark and bright images; raw pixels drown the difference in a head."""
    random = np.random.default_rng(0)
    y = np.arange(16) % 2
    x = random.integers(60, 120, (16, size, size, 3))
    return (x + 90 * y[:, None, None, None]).astype("uint8"), y


def image_task(preprocessor=None, **head):
    keras.utils.set_random_seed(1)
    backbone = hub.models.VGGBackbone(
        stackwise_num_repeats=[1],
        stackwise_num_filters=[4],
        image_shape=(16, 16, 3),
    )
    converter = hub.layers.ImageConverter(
        image_size=(16, 16), scale=1 / 255, offset=[-0.5, -0.4, -0.3]
    )
    task = hub.models.ImageClassifier(
        backbone,
        num_classes=2,
        preprocessor=preprocessor
        or hub.models.ImageClassifierPreprocessor(converter),
        **head,
    )
    task.compile(keras.optimizers.Adam(1e-2), LOSS, metrics=["accuracy"])
    return task


def text_task():
    keras.utils.set_random_seed(1)
    backbone = hub.models.BertBackbone(
        vocabulary_size=len(WORDS),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=16,
        dropout=0.0,
    )
    preprocessor = hub.models.BertTextClassifierPreprocessor(
        hub.tokenizers.BertTokenizer(WORDS), sequence_length=12
    )
    task = hub.models.BertTextClassifier(
        backbone, num_classes=2, preprocessor=preprocessor, dropout=0.0
    )
    task.compile(keras.optimizers.Adam(1e-2), LOSS, metrics=["accuracy"])
    return task


def run(task, plan, data, cache, **options):
    keras.utils.set_random_seed(2)
    if isinstance(data, tuple):
        options["batch_size"] = 8
    history = ft.fine_tune(
        task, plan, data, data, cache=cache, verbose=0, **options
    )
    assert ("off" in history.phases[0]["cache"]) == (cache == "off")
    return history


@pytest.mark.backends
def test_a_task_trains_alike_with_and_without_the_cache():
    """Also on arrays and on a dataset, which is what its own `fit` makes."""
    import tensorflow as tf

    data = pixels()
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(8)
    tasks = image_task(), image_task()
    first = run(tasks[0], PROBE, data, "memory", shuffle=False)
    run(tasks[1], PROBE, dataset, "off")
    for one, other in zip(*(t.get_weights() for t in tasks), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    best = first.epochs[first.best_epoch]["val_loss"]
    judged = tasks[0].evaluate(*data, verbose=0)[0]
    np.testing.assert_allclose(judged, best, rtol=1e-5)


@pytest.mark.backends("images")
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("of_texts", [False, True], ids=["images", "texts"])
def test_arrays_get_a_new_order_which_a_task_of_its_own_gives_none(of_texts):
    """All of one class and then all of the other is no order to learn in."""
    x, y = (np.array(TEXTS), np.array([1, 0] * 4)) if of_texts else pixels()
    data = list(x[np.argsort(y)]) if of_texts else x[np.argsort(y)], np.sort(y)
    ends = {}
    for name in ("memory", "off", "in order"):
        task = text_task() if of_texts else image_task()
        keras.utils.set_random_seed(2)
        ft.fine_tune(
            task, PROBE, data, cache=name.replace("in order", "off"),
            batch_size=4, shuffle=name != "in order", verbose=0,
        )  # fmt: skip
        ends[name] = task.get_weights()[-2]
    assert np.abs(ends["off"] - ends["in order"]).max() > 1e-3
    assert np.abs(ends["memory"] - ends["in order"]).max() > 1e-3
    if keras.backend.backend() == "tensorflow":
        np.testing.assert_allclose(ends["off"], ends["memory"], atol=1e-6)


def test_texts_of_a_task_are_cached_as_the_task_tokenises_them():
    data, task = (TEXTS, np.array([1, 0, 1, 0] * 2)), text_task()
    history = run(task, PROBE, data, "memory")
    best = history.epochs[history.best_epoch]["val_loss"]
    judged = task.evaluate(*data, verbose=0)[0]
    np.testing.assert_allclose(judged, best, rtol=1e-5)


def test_a_head_solved_in_closed_form_sees_scaled_pixels():
    data, task = pixels(), image_task()
    run(task, SOLVED, data, "off")
    assert task.evaluate(*data, verbose=0)[1] == 1.0


def test_what_is_made_of_a_task_scales_and_resizes_as_the_task_does(tmp_path):
    # JAX crops no image of unknown size.
    x, _ = pixels(16 if keras.backend.backend() == "jax" else 24)
    x = x.astype("float32")
    task = image_task()
    expected = task.predict(x, verbose=0)
    flat = ft.inline_models(task)
    np.testing.assert_allclose(flat.predict(x, verbose=0), expected, atol=1e-5)
    flat.save(tmp_path / "flat.keras")
    loaded = keras.models.load_model(tmp_path / "flat.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), expected, atol=1e-5
    )
    features = ft.remove_head(task).predict(x, verbose=0)
    scaled = task.preprocessor(x)
    np.testing.assert_allclose(
        features, task.backbone.predict(scaled, verbose=0), atol=1e-5
    )


def test_a_new_head_on_a_task_learns_from_scaled_pixels():
    data = pixels()
    model = ft.replace_head(image_task(), 2)
    ft.fine_tune(model, SOLVED, data, verbose=0)
    assert model.evaluate(*data, verbose=0)[1] == 1.0


def test_a_calibrated_task_still_scales_its_pixels():
    x, y = pixels()
    task = image_task(activation="softmax")
    task.compile("adam", "sparse_categorical_crossentropy")
    calibrated = ft.calibrate(task, (x, y))
    factor = calibrated.layers[-1].scale
    logits = np.log(task.predict(x, verbose=0))
    expected = keras.ops.softmax(factor * logits)
    np.testing.assert_allclose(
        calibrated.predict(x.astype("float32"), verbose=0), expected, atol=1e-3
    )


def test_tasks_that_predict_together_each_scale_their_pixels():
    x, y = pixels()
    tasks = [image_task(), image_task()]
    kernel, bias = tasks[1].layers[-1].get_weights()
    tasks[1].layers[-1].set_weights([3 * kernel, bias + [0.5, 0]])
    found = ft.ensemble(tasks).predict(x.astype("float32"), verbose=0)
    chances = [keras.ops.softmax(t.predict(x, verbose=0)) for t in tasks]
    expected = np.mean([keras.ops.convert_to_numpy(c) for c in chances], 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    soup = ft.average_weights(tasks, (x, y), method="greedy")
    judged = ft.evaluate(soup, (x, y), bootstrap=0, verbose=0).metrics
    least = min(
        ft.evaluate(t, (x, y), bootstrap=0, verbose=0).metrics["log_loss"]
        for t in tasks
    )
    assert judged["log_loss"] <= least + 1e-6


def residual_task(seed):
    keras.utils.set_random_seed(seed)
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    converter = hub.layers.ImageConverter(image_size=(16, 16), scale=1 / 255)
    preprocessor = hub.models.ImageClassifierPreprocessor(converter)
    task = hub.models.ImageClassifier(backbone, 2, preprocessor=preprocessor)
    norms = [x for x in backbone.layers if hasattr(x, "moving_mean")]
    norms[0].moving_mean.assign(norms[0].moving_mean + seed)
    return task


def test_statistics_are_of_pixels_as_the_task_scales_them():
    x, y = pixels()
    tasks = [residual_task(0), residual_task(1)]
    soup = ft.average_weights(tasks, data=(x, y)).get_weights()
    scaled = keras.ops.convert_to_numpy(tasks[0].preprocessor(x))
    for task in tasks:
        task.preprocessor = None
    expected = ft.average_weights(tasks, data=(scaled, y)).get_weights()
    for pair in zip(soup, expected, strict=True):
        np.testing.assert_allclose(*pair, atol=1e-5)


def test_a_new_head_on_a_task_of_texts_takes_texts():
    task = text_task()
    expected = task.predict(TEXTS, verbose=0)
    model = ft.replace_head(task, 3)
    assert model.predict(TEXTS, verbose=0).shape == (8, 3)
    flat = ft.inline_models(task).predict(TEXTS, verbose=0)
    np.testing.assert_allclose(flat, expected, atol=1e-6)


def test_a_preprocessor_that_cannot_stand_in_a_graph_is_told():
    task = image_task(preprocessor=lambda x: np.asarray(x) / 255)
    with pytest.raises(ValueError, match="model.backbone"):
        ft.replace_head(task, 3)
    task.preprocessor = None
    assert ft.replace_head(task, 3).output_shape == (None, 3)


class Halves(keras.Model):
    """A model that changes its data where its graph does not show it."""

    def fit(self, x, y, **kwargs):
        return super().fit(x / 2, y, **kwargs)


def test_a_model_with_a_fit_of_its_own_is_neither_cached_nor_cut_silently():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, activation="relu", name="body")(inputs)
    outputs = keras.layers.Dense(2, activation="softmax", name="head")(x)
    model = Halves(inputs, outputs)
    data = np.ones((8, 4)), np.arange(8) % 2
    history = ft.fine_tune(model, PROBE, data, verbose=0)
    assert "`fit` of its own" in history.phases[0]["cache"]
    plan = ft.Plan(PROBE, "ridge")
    with pytest.raises(ValueError, match="of its own"):
        ft.fine_tune(model, plan, data, verbose=0)
    with pytest.warns(UserWarning, match="left behind"):
        ft.replace_head(model, 3)


def test_batches_are_prepared_alike_where_keras_hub_uses_grain(monkeypatch):
    task = text_task()
    data = np.array(TEXTS), np.arange(8)
    expected = list(prepared(task, data, 3))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    found = list(prepared(task, data, 3))
    assert len(found) == len(expected) == prepared(task, data, 3).cardinality()
    for one, other in zip(found, expected, strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, one, other)
