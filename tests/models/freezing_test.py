import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.freezing import is_recompile_due

layers = keras.layers


def net_with_norms():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv_a")(inputs)
    x = layers.BatchNormalization(name="norm_a")(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv_b")(x)
    x = layers.BatchNormalization(name="norm_b")(x)
    model = keras.Model(inputs, x)
    return ft.replace_head(model, 3, hidden_units=(6,), batch_norm=True)


def images(seed=0, number=16):
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, size=(number, 8, 8, 3)).astype("float32")
    return x, rng.integers(0, 3, size=number)


def fit_once(model):
    model.compile("adam", "sparse_categorical_crossentropy")
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
    model.fit(*images(), batch_size=8, verbose=0)
    return {
        v.path
        for v in model.weights
        if not np.array_equal(before[v.path], keras.ops.convert_to_numpy(v))
    }


def of(model, *names):
    return {
        v.path for v in model.weights if v.path.split("/")[0] in names
    }


@pytest.mark.backends
def test_frozen_weights_and_statistics_do_not_move():
    model = net_with_norms()
    ft.freeze(model, "backbone")
    moved = fit_once(model)
    assert moved == of(
        model, "head_dense_1", "head_norm_1", "head_predictions"
    )


@pytest.mark.backends
def test_unfrozen_groups_keep_their_batch_norm_frozen():
    model = net_with_norms()
    ft.freeze(model)
    ft.unfreeze(model)
    moved = fit_once(model)
    assert not moved & of(model, "norm_a", "norm_b")
    assert moved >= of(model, "conv_a", "conv_b", "head_norm_1")


def test_batch_norm_trains_on_request():
    model = net_with_norms()
    ft.freeze(model)
    ft.unfreeze(model, "backbone", batch_norm="train")
    moved = fit_once(model)
    assert moved == of(model, "conv_a", "conv_b", "norm_a", "norm_b")
    with pytest.raises(ValueError, match="batch_norm"):
        ft.unfreeze(model, batch_norm="thaw")


@pytest.mark.backends
def test_batch_norm_is_synchronized_on_request(tmp_path):
    model = net_with_norms()
    if keras.backend.backend() != "tensorflow":
        with pytest.raises(ValueError, match="Only the TensorFlow backend"):
            ft.unfreeze(model, batch_norm="synchronized")
        return
    ft.freeze(model)
    ft.unfreeze(model, "norm_b", batch_norm="synchronized")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm_b").synchronized
    assert not loaded.get_layer("norm_a").synchronized
    moved = fit_once(loaded)
    assert of(loaded, "norm_b") <= moved
    assert not of(loaded, "norm_a") & moved


def test_unfreezing_only_batch_norm_asks_for_the_policy():
    model = net_with_norms()
    ft.freeze(model)
    with pytest.raises(ValueError, match='batch_norm="train"'):
        ft.unfreeze(model, "norm_a")
    assert not model.trainable_variables


def test_flags_of_containers_neither_hide_nor_undo():
    base = keras.Sequential(
        [layers.Input((4,)), layers.Dense(5, name="a"), layers.Dense(5)],
        name="base",
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(base(inputs)))
    base.trainable = False
    ft.unfreeze(model, "a")
    assert [v.path for v in model.trainable_variables][:2] == [
        "base/a/kernel",
        "base/a/bias",
    ]
    assert len(model.trainable_variables) == 4
    model.trainable = False
    ft.unfreeze(model, "head")
    assert len(model.trainable_variables) == 2


@pytest.mark.backends
def test_flags_survive_the_file(tmp_path):
    model = net_with_norms()
    ft.freeze(model)
    ft.unfreeze(model, ["conv_b", "head"])
    fit_once(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    trained = [v.path for v in model.trainable_variables]
    assert [v.path for v in loaded.trainable_variables] == trained
    assert not loaded.get_layer("norm_b").trainable
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        )


def composite_net():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    x = layers.LSTM(3, name="lstm")(attention(inputs, inputs))
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def test_flags_inside_composite_layers_survive_the_file(tmp_path):
    model = composite_net()
    ft.freeze(model, ["attention/key", "lstm"])
    trained = [v.path for v in model.trainable_variables]
    assert len(trained) == len(model.weights) - 2 - 3
    model.compile("adam", "mse")
    x, y = np.ones((4, 5, 8)), np.ones((4, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.trainable_variables] == trained
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected)
    # The optimizer's state belongs to the same variables.
    loaded.fit(x, y, verbose=0)
    model.fit(x, y, verbose=0)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


def test_a_single_weight_held_fixed_survives_the_file(tmp_path):
    model = composite_net()
    logits = model.get_layer("logits")
    logits.kernel.trainable = False
    ft.freeze(model, "attention")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    trained = [v.path for v in model.trainable_variables]
    assert "logits/bias" in trained and "logits/kernel" not in trained
    assert [v.path for v in loaded.trainable_variables] == trained


def test_a_model_that_cannot_keep_flags_says_so():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = layers.MultiHeadAttention(2, 4, name="attention")
            self.out = layers.Dense(2, name="out")

        def call(self, x):
            return self.out(self.attention(x, x))

    model = Model()
    model(np.ones((1, 5, 8)))
    with pytest.warns(UserWarning, match="freeze them again"):
        ft.freeze(model, model.attention)
    assert len(model.trainable_variables) == 2


@pytest.mark.backends
def test_recompile_is_due_after_a_change():
    model = net_with_norms()
    ft.freeze(model, "backbone")
    assert not is_recompile_due(model)
    fit_once(model)
    assert not is_recompile_due(model)
    ft.unfreeze(model, "conv_b")
    assert is_recompile_due(model)
    assert "Recompile due" in str(ft.trainable_summary(model))
    fit_once(model)
    assert not is_recompile_due(model)
    assert "Recompile" not in str(ft.trainable_summary(model))


@pytest.mark.backends
def test_parameters_held_by_composites_themselves():
    @keras.saving.register_keras_serializable("freezing_test")
    class Scaled(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(3, name="inner")

        def build(self, shape):
            self.scale = self.add_weight(shape=(3,), name="scale")
            self.inner.build(shape)

        def call(self, x):
            return self.inner(x) * self.scale

    inputs = keras.Input((4,))
    x = Scaled(name="scaled")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    ft.freeze(model, "inner")
    assert "scaled/scale" in [v.path for v in model.trainable_variables]
    assert len(model.trainable_variables) == 3
