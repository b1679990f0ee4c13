"""Each contract passes a good object and catches the defect it is meant for."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import finetune_keras as ft
from finetune_keras import testing


@keras.saving.register_keras_serializable(package="tests")
class Scale(layers.Layer):
    """A sound layer, from which each defect below departs in one thing."""

    def __init__(self, factor=1.0, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.offset = offset

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1],), name="kernel", initializer="ones"
        )

    def call(self, inputs):
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return inputs * kernel * self.factor + self.offset

    def get_config(self):
        config = super().get_config()
        return {**config, "factor": self.factor, "offset": self.offset}


@keras.saving.register_keras_serializable(package="tests")
class Composite(layers.Layer):
    """Inner layers without names, which Keras numbers anew in each process."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = layers.Dense(units, dtype=self.dtype_policy)
        self.norm = layers.BatchNormalization(dtype=self.dtype_policy)

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.norm.build((*input_shape[:-1], self.units))

    def call(self, inputs, training=None):
        return self.norm(self.inner(inputs), training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class OmitsArgument(Scale):
    def get_config(self):
        config = super().get_config()
        del config["offset"]
        return config


class OmitsKerasArgument(Scale):
    def get_config(self):
        return {"factor": self.factor, "offset": self.offset}


class SavesDefault(Scale):
    def get_config(self):
        return {**super().get_config(), "factor": 1.0}


class ChangesOnReload(Scale):
    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "offset": 7.0})


class AddsArgument(Scale):
    def __init__(self, extra=1, **kwargs):
        super().__init__(**kwargs)
        self.extra = extra


@keras.saving.register_keras_serializable(package="tests")
class ForgetsState(Scale):
    """Its second weight is no weight for Keras, and is not saved."""

    def build(self, input_shape):
        super().build(input_shape)
        self.shift = 0.0

    def call(self, inputs):
        return super().call(inputs) + self.shift


class BuildsLate(layers.Layer):
    """Leaves the building of its inner layer to the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(3)

    def call(self, inputs):
        return self.inner(inputs)


class WrongShape(Scale):
    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2 * input_shape[-1])


class Float32Output(Scale):
    def call(self, inputs):
        return ops.cast(super().call(inputs), "float32")


class HalfWeights(Scale):
    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1],), name="kernel", dtype=self.compute_dtype
        )


@pytest.fixture
def case():
    return testing.TestCase()


def fails(*words):
    pattern = ".*".join(words)
    return pytest.raises(AssertionError, match=f"(?s){pattern}")


def small_model(norm=True):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x) if norm else x
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    outputs = layers.Dense(2, name="head")(x)
    return testing.randomize(keras.Model(inputs, outputs))


def batch():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 6, 6, 2), "float32")
    return x, rng.random((8, 2), "float32")


# === Configuration ===


@pytest.mark.parametrize(
    "obj",
    [
        Scale(factor=3.0, offset=2.0),
        layers.Dense(3, activation="relu", kernel_regularizer="l2"),
        keras.optimizers.Adam(0.25, beta_1=0.5, clipnorm=2.0),
        keras.optimizers.schedules.CosineDecay(0.25, 10),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_config_complete(case, obj):
    case.assert_config_complete(obj)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OmitsArgument, ["OmitsArgument", "lacks", "offset"]),
        (OmitsKerasArgument, ["lacks", "dtype", "name", "trainable"]),
        (SavesDefault, ["factor=1.0", "attribute is 3.0"]),
        (ChangesOnReload, ["another config"]),
        (AddsArgument, ["lacks", "extra"]),
    ],
)
def test_config_defects(case, kind, words):
    with fails(*words):
        case.assert_config_complete(kind(factor=3.0, offset=2.0))


def test_config_of_what_has_none(case):
    with fails("Callback", "no `get_config`"):
        case.assert_config_complete(keras.callbacks.Callback())


# === Saving ===


@pytest.mark.backends
def test_saves_frozen_model_with_named_inputs(case):
    inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
    x = layers.Dense(4, name="body")(inputs["a"] - 2 * inputs["b"])
    outputs = layers.Dense(2, name="head")(x)
    model = testing.randomize(keras.Model(inputs, [outputs, x]))
    ft.freeze(model, "body")
    rng = np.random.default_rng(0)
    x = {name: rng.random((4, 3), "float32") for name in ("b", "a")}
    loaded = case.assert_saves(model, x)
    assert loaded["trainable"] == ["head/kernel", "head/bias"]
    assert loaded["weights"][:2] == ["body/kernel", "body/bias"]
    assert [y.shape for y in loaded["outputs"]] == [(4, 2), (4, 4)]


def test_saves_catches_unregistered_class(case):
    model = keras.Sequential([keras.Input((3,)), OmitsArgument()])
    with fails("does not load", "OmitsArgument"):
        case.assert_saves(model, np.ones((2, 3)))


def test_saves_catches_lost_state(case):
    layer = ForgetsState()
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.shift = 0.5
    with fails("loaded model differs"):
        case.assert_saves(model, np.ones((2, 3)), imports=[__file__])


def test_saves_catches_lost_flags(case):
    """Keras loses the flags of the layers inside a composite one."""
    layer = Composite()
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.inner.trainable = False
    with fails("Trainable flags", "kernel", "bias"):
        case.assert_saves(model, np.ones((2, 3)), imports=[__file__])


# === Training ===


def compiled(model):
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


@pytest.mark.backends
def test_fit_moves_all_and_the_statistics(case):
    model = compiled(small_model())
    before = testing.weights_snapshot(model)
    case.assert_fit_moves(model, *batch())
    after = testing.weights_snapshot(model)
    assert not any(np.array_equal(before[path], after[path]) for path in after)


@pytest.mark.backends
def test_fit_moves_the_head_only(case):
    model = small_model()
    ft.freeze(model, ["conv", "norm"])
    case.assert_fit_moves(compiled(model), *batch(), trained=["head"])


def test_fit_catches_wrong_set(case):
    model = compiled(small_model())
    with fails("Should be frozen", "conv/bias", "norm/gamma"):
        case.assert_fit_moves(model, *batch(), trained=["head"])
    with fails("No weight matches", "tail", "conv/kernel"):
        case.assert_fit_moves(model, *batch(), trained=["tail"])


def test_fit_catches_frozen_weight_that_moves(case):
    model = small_model()
    ft.freeze(model, ["conv", "norm"])
    step = compiled(model).fit

    def fit(*args, **kwargs):
        step(*args, **kwargs)
        bias = model.get_layer("conv").bias
        bias.assign(ops.add(bias, 1e-6))

    model.fit = fit
    with fails("Frozen, but moved", "conv/bias"):
        case.assert_fit_moves(model, *batch())


def test_fit_catches_statistics_that_should_stay(case):
    model = compiled(small_model())
    with fails("Frozen, but moved", "norm/moving_mean"):
        case.assert_fit_moves(model, *batch(), states=[])


def test_fit_catches_statistics_that_should_move(case):
    inputs = keras.Input((4,))
    x = FixedNorm(name="fixed")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    testing.randomize(model)
    rng = np.random.default_rng(0)
    data = rng.random((8, 4), "float32"), rng.random((8, 2), "float32")
    with fails("did not", "moving_mean", "moving_variance"):
        case.assert_fit_moves(compiled(model), *data)
    case.assert_fit_moves(compiled(model), *data, states=[])


class FixedNorm(layers.Layer):
    """Trains gamma and beta on fixed statistics."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, input_shape):
        self.norm.build(input_shape)

    def call(self, inputs):
        return self.norm(inputs, training=False)


def test_fit_catches_weight_without_gradient(case):
    model = small_model(norm=False)
    model.get_layer("head").kernel.assign(np.zeros((3, 2)))
    with fails("did not", "conv/bias", "conv/kernel"):
        case.assert_fit_moves(compiled(model), *batch())


def test_fit_catches_numbers_that_are_not_finite(case):
    model = compiled(small_model(norm=False))
    x, y = batch()
    with fails("Not finite", "conv/kernel"):
        case.assert_fit_moves(model, x, y * np.nan)


# === Dtypes ===


@pytest.mark.backends
def test_dtype_policies(case):
    case.assert_dtype_policies(Scale, (2, 3))
    case.assert_dtype_policies(lambda dtype: Composite(dtype=dtype), (2, 3))
    case.assert_dtype_policies(
        lambda dtype: layers.Embedding(5, 3, dtype=dtype), (2, 3), "int32"
    )


@pytest.mark.parametrize(
    ("kind", "word"), [(Float32Output, "outputs"), (HalfWeights, "kernel")]
)
def test_dtype_defects(case, kind, word):
    with fails("mixed_bfloat16", word):
        case.assert_dtype_policies(kind, (2, 3))


# === Whole layers ===


@pytest.mark.backends
def test_check_layer(case):
    case.check_layer(
        Composite, {"units": 3}, (4, 5), (4, 3), imports=[__file__]
    )


def test_check_layer_with_two_inputs(case):
    case.check_layer(layers.Concatenate, {"axis": 1}, [(2, 3), (2, 4)], (2, 7))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OmitsArgument, ["lacks", "offset"]),
        (BuildsLate, ["`build` makes other weights"]),
        (WrongShape, ["10", "5"]),
        (Float32Output, ["mixed_bfloat16"]),
    ],
)
def test_check_layer_defects(case, kind, words):
    with fails(*words):
        case.check_layer(kind, {"name": "layer"}, (4, 5))


def test_check_layer_compares_the_shape(case):
    with fails(r"\(4, 5\) != \(4, 6\)"):
        case.check_layer(Scale, {"factor": 3.0}, (4, 5), (4, 6))


# === Weights ===


@pytest.mark.backends
def test_randomize_is_fixed_and_far_from_zero_and_one():
    first, second, other = (
        testing.weights_snapshot(testing.randomize(small_model(), seed))
        for seed in (0, 0, 1)
    )
    for path, values in first.items():
        assert np.array_equal(values, second[path])
        assert not np.isclose(values, other[path]).any()
        assert not np.isin(values, (0, 1)).any()
    assert (first["norm/moving_variance"] >= 0.5).all()


def test_randomize_keeps_the_size_of_the_signal():
    inputs = x = keras.Input((16, 16, 8))
    for _ in range(6):
        x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = layers.Conv2D(8, 1, activation="relu")(x)
    model = testing.randomize(keras.Model(inputs, x))
    rng = np.random.default_rng(0)
    size = model.predict(rng.random((2, 16, 16, 8)), verbose=0).std()
    assert 0.05 < size < 20


@pytest.mark.backends
def test_snapshot_is_a_copy_and_leaves_out_seeds_and_metrics():
    model = small_model()
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(*batch(), verbose=0)
    snapshot = testing.weights_snapshot(model)
    assert len(snapshot) == len(model.weights) < len(model.variables)
    kernel = snapshot["head/kernel"].copy()
    model.get_layer("head").kernel.assign(kernel + 1)
    assert np.array_equal(snapshot["head/kernel"], kernel)


def test_snapshot_numbers_equal_paths():
    layer = TwoKernels()
    layer.build((None, 3))
    sizes = [len(x) for x in testing.weights_snapshot(layer).values()]
    assert sizes == [2, 3]


class TwoKernels(Scale):
    def build(self, input_shape):
        self.other = self.add_weight(shape=(2,), name="kernel")
        super().build(input_shape)
