import pathlib

import keras
import numpy as np
import pytest

from finetune_keras import testing
from finetune_keras.engine.layerwise import Layerwise, layerwise_class
from finetune_keras.engine.retrace import retrace
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.training.optimizers import (
    layerwise_optimizer,
    multipliers_by_path,
)

pytestmark = pytest.mark.usefixtures("op_by_op")

ROOT = pathlib.Path(__file__).parents[2]
TORCH = keras.backend.backend() == "torch"
JAX = keras.backend.backend() == "jax"

ALL_OPTIMIZERS = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "Adamax": {},
    "Ftrl": {},
    "Lamb": {},
    "Lion": {"weight_decay": 0.1},
    "Muon": {"adam_weight_decay": 0.3, "weight_decay": 0.2},
    "Nadam": {"weight_decay": 0.1},
    "RMSprop": {"momentum": 0.9},
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "ScheduleFreeAdamW": {},
}


def make_model(batch_norm=False, seed=0):
    """Two dense backbone layers and a head, with fixed weights."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="tanh", name="low")(inputs)
    if batch_norm:
        x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dense(4, activation="tanh", name="mid")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    set_weights(model, seed)
    return model


def set_weights(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))


def make_data(seed=1, n=32):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, (x @ rng.normal(size=(4, 3))).astype("float32")


def make_gradients(variables, steps=4, seed=2):
    rng = np.random.default_rng(seed)
    return [
        [rng.normal(size=v.shape).astype("float32") for v in variables]
        for _ in range(steps)
    ]


def apply_all(optimizer, variables, gradients):
    optimizer.build(variables)
    for step in gradients:
        optimizer.apply(
            [keras.ops.convert_to_tensor(g) for g in step], variables
        )


def fit(model, optimizer, epochs=2, **compile_args):
    # Tracing takes most of the time on TensorFlow, and the least on JAX.
    eager = {} if JAX or compile_args else {"run_eagerly": True}
    model.compile(optimizer, loss="mse", **eager, **compile_args)
    x, y = make_data()
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


def values(variables):
    return [v.numpy() for v in variables]


MULTIPLIERS = {"low": 0.25, "mid": 0.5}


@pytest.mark.backends("Adafactor", "AdamW", "Muon", "SGD")
@pytest.mark.needs("3.13", "Muon")
@pytest.mark.needs("3.14", "ScheduleFreeAdamW")
@pytest.mark.parametrize("name", ALL_OPTIMIZERS)
def test_equals_one_optimizer_for_each_learning_rate(name):
    cls, config = getattr(keras.optimizers, name), ALL_OPTIMIZERS[name]
    model, reference = make_model(), make_model()
    optimizer = layerwise_optimizer(
        cls(0.02, **config),
        model,
        multipliers=MULTIPLIERS,
        exclude_norms_and_biases=False,
    )
    assert type(optimizer).__name__ == f"Layerwise{name}"
    assert isinstance(optimizer, cls)
    start = values(model.trainable_variables)
    gradients = make_gradients(start)
    apply_all(optimizer, model.trainable_variables, gradients)
    for i, layer in enumerate(reference.layers[1:]):
        rate = 0.02 * MULTIPLIERS.get(layer.name, 1.0)
        own = [step[2 * i : 2 * i + 2] for step in gradients]
        plain = cls(rate, **config)
        apply_all(plain, layer.trainable_variables, own)
    result = values(model.trainable_variables)
    for old, new, expected in zip(
        start, result, values(reference.trainable_variables), strict=True
    ):
        np.testing.assert_allclose(new, expected, atol=3e-7, rtol=1e-6)
        assert not np.array_equal(old, new)


@pytest.mark.backends
def test_without_multipliers_equals_the_plain_optimizer_to_the_bit():
    model, reference = make_model(), make_model()
    optimizer = layerwise_optimizer(keras.optimizers.Adam(0.01), model)
    fit(model, optimizer, jit_compile=False)
    fit(reference, keras.optimizers.Adam(0.01), jit_compile=False)
    for a, b in zip(
        values(model.weights), values(reference.weights), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_decay_is_geometric_from_the_head_down():
    model = keras.applications.MobileNet(
        alpha=0.25, weights=None, input_shape=(32, 32, 3)
    )
    groups = layer_groups(model)
    optimizer = layerwise_optimizer("sgd", model, decay=0.8)
    for i, group in enumerate(groups):
        for variable in group.variables:
            assert optimizer.learning_rate_multiplier(
                variable
            ) == pytest.approx(0.8 ** (len(groups) - 1 - i))
    assert groups[-1].name == "head" and len(groups) > 10


def test_multipliers_replace_decay_and_the_later_holds():
    model = make_model()
    optimizer = layerwise_optimizer(
        "sgd",
        model,
        decay=0.5,
        multipliers={"backbone": 0.3, model.get_layer("mid"): 0.7},
    )
    rates = [
        optimizer.learning_rate_multiplier(v) for v in model.trainable_variables
    ]
    assert rates == [0.3, 0.3, 0.7, 0.7, 1.0, 1.0]


@pytest.mark.backends
def test_multiplier_zero_equals_freezing():
    def optimizer():
        return keras.optimizers.AdamW(
            0.05, global_clipnorm=0.1, use_ema=True, ema_momentum=0.6
        )

    model, reference = make_model(), make_model()
    start = values(model.get_layer("low").weights)
    fit(
        model,
        layerwise_optimizer(optimizer(), model, multipliers={"low": 0}),
    )
    reference.get_layer("low").trainable = False
    fit(reference, layerwise_optimizer(optimizer(), reference))
    for a, b in zip(start, values(model.get_layer("low").weights), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(
        values(model.weights), values(reference.weights), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.backends
def test_global_clipnorm_is_over_all_variables():
    model = make_model()
    start = values(model.trainable_variables)
    (gradients,) = make_gradients(start, steps=1)
    optimizer = layerwise_optimizer(
        keras.optimizers.SGD(1.0, global_clipnorm=0.5),
        model,
        multipliers=MULTIPLIERS,
    )
    apply_all(optimizer, model.trainable_variables, [gradients])
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    factors = [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    for old, g, factor, variable in zip(
        start, gradients, factors, model.trainable_variables, strict=True
    ):
        expected = old - factor * g * 0.5 / norm
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)


@pytest.mark.backends
def test_clipnorm_is_for_each_variable():
    model = make_model()
    start = values(model.trainable_variables)
    (gradients,) = make_gradients(start, steps=1)
    optimizer = layerwise_optimizer(
        keras.optimizers.SGD(1.0, clipnorm=0.2), model, multipliers=MULTIPLIERS
    )
    apply_all(optimizer, model.trainable_variables, [gradients])
    moved = [
        np.linalg.norm(old - new)
        for old, new in zip(
            start, values(model.trainable_variables), strict=True
        )
    ]
    expected = [0.05, 0.05, 0.1, 0.1, 0.2, 0.2]
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


@pytest.mark.backends
def test_weight_decay_leaves_out_norms_and_biases():
    model = make_model(batch_norm=True)
    start = {v.path: v.numpy() for v in model.trainable_variables}
    optimizer = layerwise_optimizer(
        keras.optimizers.SGD(0.1, weight_decay=0.5),
        model,
        multipliers=MULTIPLIERS,
    )
    zeros = [[np.zeros(v.shape, "float32") for v in start.values()]]
    apply_all(optimizer, model.trainable_variables, zeros)
    factors = {"low/kernel": 0.25, "mid/kernel": 0.5, "head/kernel": 1.0}
    for variable in model.trainable_variables:
        factor = factors.get(variable.path, 0.0)
        expected = start[variable.path] * (1 - 0.1 * 0.5 * factor)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)
    assert len(factors) == 3 and len(start) == 8


def test_biases_of_rank_two_and_norms_of_rank_two_are_left_out():
    inputs = keras.Input((3, 4))
    x = keras.layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs)
    x = keras.layers.LayerNormalization(axis=(1, 2), name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x))
    optimizer = layerwise_optimizer("adamw", model)
    kept = [
        v.path for v in model.weights if v.path not in optimizer.no_weight_decay
    ]
    assert len(kept) == 5
    assert all(path.endswith("/kernel") for path in kept)


def test_earlier_exclusions_from_weight_decay_are_kept():
    model = make_model()
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(
        var_list=[model.get_layer("mid").kernel]
    )
    optimizer = layerwise_optimizer(
        optimizer, model, exclude_norms_and_biases=False
    )
    assert optimizer.no_weight_decay == {"mid/kernel"}


@pytest.mark.backends
def test_gradient_accumulation_equals_the_mean_gradient():
    model, reference = make_model(), make_model()
    gradients = make_gradients(values(model.trainable_variables), steps=6)
    means = [
        [(a + b) / 2 for a, b in zip(*pair, strict=True)]
        for pair in zip(gradients[::2], gradients[1::2], strict=True)
    ]
    for target, steps, accumulate in (
        (model, gradients, 2),
        (reference, means, None),
    ):
        optimizer = layerwise_optimizer(
            keras.optimizers.AdamW(
                0.05, gradient_accumulation_steps=accumulate
            ),
            target,
            multipliers={"low": 0.25, "mid": 0},
            l2_sp=0.3,
        )
        apply_all(optimizer, target.trainable_variables, steps)
    for a, b in zip(
        values(model.weights), values(reference.weights), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.backends
def test_one_learning_rate_drives_all():
    model, reference = make_model(), make_model()
    for target, factor in ((model, 1.0), (reference, 0.5)):
        optimizer = layerwise_optimizer(
            keras.optimizers.SGD(0.2 * factor), target, multipliers=MULTIPLIERS
        )
        optimizer.learning_rate = 0.1
        x, y = make_data()
        target.compile(optimizer, loss="mse")
        target.fit(
            x,
            y,
            epochs=3,
            verbose=0,
            shuffle=False,
            callbacks=[
                keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr / 2)
            ],
        )
        assert float(optimizer.learning_rate) == pytest.approx(0.0125)
    for a, b in zip(
        values(model.weights), values(reference.weights), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backends
def test_schedule_and_plateau():
    model = make_model()
    (gradients,) = make_gradients(values(model.trainable_variables), steps=1)
    start = values(model.trainable_variables)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 1], [0.5, 0.25, 0.125]
    )
    optimizer = layerwise_optimizer(
        keras.optimizers.SGD(schedule), model, multipliers=MULTIPLIERS
    )
    apply_all(optimizer, model.trainable_variables, [gradients] * 2)
    expected = start[0] - 0.25 * (0.5 + 0.25) * gradients[0]
    np.testing.assert_allclose(
        model.trainable_variables[0].numpy(), expected, atol=1e-6
    )

    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=0, min_delta=1e9
    )
    optimizer = layerwise_optimizer("sgd", model, decay=0.5)
    model.compile(optimizer, loss="mse")
    x, y = make_data()
    model.fit(x, y, epochs=3, callbacks=[plateau], verbose=0)
    assert float(optimizer.learning_rate) == pytest.approx(0.01 / 4)


@pytest.mark.backends
def test_mixed_float16_with_loss_scaling():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model()
    finally:
        keras.config.set_dtype_policy(policy)
    start = {v.path: v.numpy() for v in model.weights}
    optimizer = layerwise_optimizer(
        keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(1e-2), initial_scale=64.0
        ),
        model,
        multipliers={"low": 1e-2, "mid": 0},
    )
    assert optimizer.initial_scale == 64.0
    fit(model, optimizer, epochs=1, auto_scale_loss=False)
    model.optimizer.learning_rate = 1e-3
    fit_more = make_data()
    model.train_on_batch(*fit_more)
    moved = {
        v.path: np.abs(v.numpy() - start[v.path]).mean() for v in model.weights
    }
    assert isinstance(model.optimizer.inner_optimizer, Layerwise)
    assert moved["mid/kernel"] == moved["mid/bias"] == 0
    assert 0 < moved["low/kernel"] < 0.05 * moved["head/kernel"]


@pytest.mark.backends
@pytest.mark.traced
@pytest.mark.parametrize(
    "compile_args", [{"jit_compile": True}, {"steps_per_execution": 4}]
)
def test_jit_and_steps_per_execution_change_nothing(compile_args):
    """With what `fit` builds inside a traced function: slots and anchors."""
    if TORCH:
        pytest.skip("torch: no XLA, and Keras rejects steps_per_execution")
    models = []
    for arguments in ({"jit_compile": False}, compile_args):
        model = make_model()
        optimizer = layerwise_optimizer(
            keras.optimizers.AdamW(0.01),
            model,
            multipliers={"low": 0, "mid": 0.5},
            l2_sp=0.1,
        )
        models.append(fit(model, optimizer, **arguments))
    for a, b in zip(*map(lambda m: values(m.weights), models), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def configured(model):
    return layerwise_optimizer(
        keras.optimizers.AdamW(0.05, weight_decay=0.1),
        model,
        multipliers={"low": 0.25, "mid": 0.5},
        l2_sp=0.2,
    )


@pytest.mark.backends
def test_resumed_equals_uninterrupted(tmp_path):
    x, y = make_data()
    model, reference = make_model(), make_model()
    for target in (model, reference):
        fit(target, configured(target))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for target in (loaded, reference):
        target.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(
        values(loaded.weights), values(reference.weights), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-7)


def sequential():
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.Sequential(
                [keras.Input((4,)), keras.layers.Dense(5, name="low")],
                name="inner",
            ),
            keras.layers.Dense(4, name="mid"),
            keras.layers.Dense(3, name="head"),
        ]
    )


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """Its layers get new automatic names when it is loaded."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.low = keras.layers.Dense(5)
        self.mid = keras.layers.Dense(5)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(self.mid(self.low(x)))

    def get_config(self):
        return {"name": self.name}


def twins():
    """Two inner models with layers of the same names."""
    inputs = keras.Input((4,))
    towers = [
        keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(5, name="low")], name=name
        )(inputs)
        for name in ("one", "two")
    ]
    x = keras.layers.Concatenate(name="mid")(towers)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


OTHERS = {"low": 0.1, "mid": 0.2}


@pytest.mark.backends("Subclassed")
@pytest.mark.parametrize("make", [sequential, Subclassed, twins])
def test_survives_other_paths_after_loading(make, tmp_path):
    """`variable.path` is not what it was, in all of these."""
    if TORCH and make is twins:
        pytest.skip("torch: Keras clears one gradient for each path, no more")
    model = make()
    model(np.ones((1, 4), "float32"))
    set_weights(model)
    optimizer = layerwise_optimizer(
        keras.optimizers.AdamW(0.05),
        model,
        multipliers={"one": 0.1} if make is twins else OTHERS,
        l2_sp=0.5,
    )
    fit(model, optimizer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    paths = [[v.path for v in m.weights] for m in (model, loaded)]
    assert paths[0] != paths[1]

    def rates(model):
        rate = model.optimizer.learning_rate_multiplier
        return [rate(v) for v in model.trainable_variables]

    assert rates(loaded) == rates(model)
    assert len(set(rates(loaded))) > 1
    x, y = make_data()
    for target in (model, loaded):
        target.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(values(model.weights), values(loaded.weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_frozen_weights_are_recognised_after_loading(tmp_path):
    model = sequential()
    model.layers[0].layers[0].trainable = False
    optimizer = layerwise_optimizer(
        "sgd", model, multipliers={"low": 0.1, "mid": 0.2}
    )
    fit(model, optimizer, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.layers[0].layers[0].trainable = True
    optimizer = loaded.optimizer
    again = type(optimizer).from_config(optimizer.get_config())
    again.build(loaded.trainable_variables)
    for new in (optimizer, again):
        rates = map(new.learning_rate_multiplier, loaded.trainable_variables)
        assert list(rates) == [0.1, 0.1, 0.2, 0.2, 1.0, 1.0]


@pytest.mark.backends
def test_multipliers_are_replaced_after_loading(tmp_path):
    model = sequential()
    optimizer = layerwise_optimizer(
        "adamw", model, multipliers={"low": 0.1}, l2_sp=0.5
    )
    fit(model, optimizer, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    optimizer = loaded.optimizer
    factors = multipliers_by_path(loaded, 0.5, {"low": 0.3})
    optimizer.set_multipliers(loaded, factors)
    rates = map(optimizer.learning_rate_multiplier, loaded.trainable_variables)
    assert list(rates) == [0.3, 0.3, 0.5, 0.5, 1.0, 1.0]
    paths = [v.path for v in loaded.weights]
    assert optimizer.no_weight_decay == set(paths) - {paths[4]}
    assert list(optimizer.l2_sp) == paths[:4]
    assert list(optimizer.built_on) == paths
    again = type(optimizer).from_config(optimizer.get_config())
    again.build(loaded.trainable_variables)
    assert again.built_on == optimizer.built_on


def test_config_is_complete():
    optimizer = configured(make_model())
    testing.TestCase().assert_config_complete(optimizer)


@pytest.mark.backends("AdamW")
@pytest.mark.parametrize("name", ["AdamW", "Nadam"])
def test_retrace_keeps_slots_and_multipliers(name):
    model = make_model()
    model.get_layer("low").trainable = False
    optimizer = layerwise_optimizer(
        getattr(keras.optimizers, name)(0.01, weight_decay=0.1),
        model,
        multipliers=MULTIPLIERS,
        l2_sp=0.5,
    )
    fit(model, optimizer)
    low, before = model.get_layer("low"), values(model.weights)
    state = {v.path: v.numpy() for v in optimizer.variables}
    low.trainable = True
    retrace(model)
    assert model.optimizer is optimizer
    after = {v.path: v.numpy() for v in optimizer.variables}
    assert len(after) == len(state) + 6
    for path, value in state.items():
        # Nadam's product for all variables has a new name each time.
        if path.startswith(optimizer.name):
            np.testing.assert_array_equal(after[path], value)
    anchors = [v for v in optimizer.variables if v.path.endswith("anchor")]
    np.testing.assert_array_equal(anchors[0].numpy(), before[0])
    x, y = make_data()
    model.train_on_batch(x, y)
    moved = [
        np.abs(new - old).max()
        for new, old in zip(values(model.weights), before, strict=True)
    ]
    # A first step of Adam is the learning rate times the multiplier.
    assert moved[0] == pytest.approx(0.01 * 0.25, rel=0.1)


@pytest.mark.backends
def test_loads_in_a_fresh_process(tmp_path):
    model = make_model()
    fit(model, configured(model))
    model.save(tmp_path / "model.keras")
    script = (
        "import sys, keras, finetune_keras.training.optimizers\n"
        "optimizer = keras.models.load_model(sys.argv[1]).optimizer\n"
        "print(sorted(optimizer.multipliers.items()))\n"
        "print(sorted(optimizer.no_weight_decay))\n"
        "print([v.numpy().tolist() for v in optimizer.variables])\n"
    )
    process = FreshProcess("-c", script, tmp_path / "model.keras", cwd=ROOT)
    assert process.wait() == 0, process.stderr
    multipliers, excluded, state = process.stdout.splitlines()
    assert multipliers == (
        "[('head/bias', 1.0), ('head/kernel', 1.0), "
        "('low/bias', 0.25), ('low/kernel', 0.25), "
        "('mid/bias', 0.5), ('mid/kernel', 0.5)]"
    )
    assert excluded == (
        "['head/bias', 'low/bias', 'low/kernel', 'mid/bias', 'mid/kernel']"
    )
    assert state == str([v.numpy().tolist() for v in model.optimizer.variables])


@pytest.mark.backends("SGD")
@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_l2_sp_pulls_towards_the_start(name):
    # On the other path of torch, without `update_step`, the same holds.
    model = make_model()
    start = {v.path: v.numpy() for v in model.weights}
    optimizer = layerwise_optimizer(
        getattr(keras.optimizers, name)(0.1, weight_decay=0.5),
        model,
        multipliers={"low": 0.5},
        l2_sp=0.2,
    )
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(3)
    moved = {}
    for variable in model.weights:
        moved[variable.path] = start[variable.path] + rng.normal(
            size=variable.shape
        ).astype("float32")
        variable.assign(moved[variable.path])
    zeros = [[np.zeros(v.shape, "float32") for v in model.weights]] * 3
    apply_all(optimizer, model.weights, zeros)
    for variable in model.weights:
        w0, w = start[variable.path], moved[variable.path]
        if variable.path.startswith("head"):
            decay = 0 if variable.path == "head/bias" else 0.1 * 0.5
            expected = w * (1 - decay) ** 3
        else:
            rate = 0.1 * (0.5 if variable.path.startswith("low") else 1.0)
            expected = w0 + (w - w0) * (1 - rate * 0.2) ** 3
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-5)


def test_l2_sp_keeps_training_near_the_start():
    moved = []
    for l2_sp in (None, 5.0):
        model = make_model()
        start = values(model.get_layer("low").weights)
        optimizer = keras.optimizers.Adam(0.02)
        fit(model, layerwise_optimizer(optimizer, model, l2_sp=l2_sp), epochs=5)
        end = values(model.get_layer("low").weights)
        moved.append(np.abs(end[0] - start[0]).mean())
    assert moved[1] < 0.6 * moved[0]


@pytest.mark.traced
def test_anchors_are_the_start_of_the_pulled_weights():
    model = make_model()
    start = values(model.weights)
    without = make_model()
    fit(without, layerwise_optimizer("sgd", without), epochs=1)
    # Not eagerly: on TensorFlow the optimizer is built in a traced function.
    optimizer = layerwise_optimizer("sgd", model, l2_sp=0.1)
    fit(model, optimizer, epochs=1, jit_compile=False)
    anchors = model.optimizer.variables[len(without.optimizer.variables) :]
    assert len(anchors) == 4
    for anchor, old in zip(anchors, start[:4], strict=True):
        np.testing.assert_array_equal(anchor.numpy(), old)


@pytest.mark.backends
def test_gradients_may_cover_a_part():
    """As when the update is called for a few variables at a time."""
    model, reference = make_model(), make_model()
    gradients = make_gradients(values(model.trainable_variables))
    optimizers = []
    for target in (model, reference):
        optimizers.append(
            layerwise_optimizer(
                keras.optimizers.Adam(0.05), target, multipliers=MULTIPLIERS
            )
        )
    whole = optimizers[0]._backend_update_step

    def in_parts(grads, variables, learning_rate):
        for part in (slice(4, 6), slice(0, 3), slice(3, 4)):
            whole(grads[part], variables[part], learning_rate)

    optimizers[0]._backend_update_step = in_parts
    for optimizer, target in zip(optimizers, (model, reference), strict=True):
        apply_all(optimizer, target.trainable_variables, gradients)
    for a, b in zip(
        values(model.weights), values(reference.weights), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_called_again_it_starts_from_the_plain_optimizer():
    model = make_model()
    first = layerwise_optimizer(
        keras.optimizers.Adam(0.3, beta_1=0.7), model, decay=0.5
    )
    second = layerwise_optimizer(first, model, multipliers={"mid": 0.1})
    assert type(second) is type(first)
    assert second.beta_1 == 0.7
    assert float(second.learning_rate) == pytest.approx(0.3)
    rates = [
        second.learning_rate_multiplier(v) for v in model.trainable_variables
    ]
    assert rates == [1.0, 1.0, 0.1, 0.1, 1.0, 1.0]


@keras.saving.register_keras_serializable(package="tests")
class Adam(keras.optimizers.SGD):
    """A person's own optimizer, of an unlucky name."""


def test_own_optimizer_class(tmp_path):
    assert layerwise_class(Adam) is not layerwise_class(keras.optimizers.Adam)
    model = make_model()
    fit(model, layerwise_optimizer(Adam(0.1), model, decay=0.5), epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert isinstance(loaded, Adam)
    assert loaded.multipliers == model.optimizer.multipliers != {}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"decay": 0.0}, "`decay`"),
        ({"decay": 1.1}, "`decay`"),
        ({"multipliers": {"low": -1}}, "'low': -1"),
        ({"multipliers": {"low": float("nan")}}, "'low': nan"),
        ({"multipliers": {"nowhere": 1}}, "nowhere"),
        ({"l2_sp": 0}, "l2_sp=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        layerwise_optimizer("sgd", make_model(), **arguments)


@pytest.mark.needs("3.15")
def test_multi_optimizer_is_refused():
    mapping = keras.optimizers.OptimizerMap(keras.optimizers.SGD())
    optimizer = keras.optimizers.MultiOptimizer(mapping)
    with pytest.raises(ValueError, match="no single learning rate"):
        layerwise_optimizer(optimizer, make_model(), decay=0.5)


def test_equal_paths_with_different_rates_are_refused():
    first, second = (keras.layers.Dense(3, name="same") for _ in range(2))
    first.build((None, 3))
    second.build((None, 3))
    inner = keras.Sequential([keras.Input((3,)), second])
    model = keras.Sequential([keras.Input((3,)), first, inner])
    with pytest.raises(ValueError, match="same path"):
        layerwise_optimizer("sgd", model, multipliers={first: 0.5})


@keras.saving.register_keras_serializable(package="tests")
class Residual(keras.layers.Layer):
    """Holds layers without names, which Keras counts in each process."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = keras.layers.Dense(4), keras.layers.Dense(4)

    def build(self, shape):
        self.one.build(shape)
        self.two.build(shape)
        self.built = True

    def call(self, x):
        return x + self.two(self.one(x))


def settings(model):
    optimizer = model.optimizer
    return [
        (
            optimizer.learning_rate_multiplier(variable),
            optimizer.pull(variable),
            optimizer._path(variable) in optimizer.no_weight_decay,
        )
        for variable in model.trainable_variables
    ]


def residual_model():
    keras.backend.clear_session(free_memory=False)
    keras.layers.Dense(1)  # one that was made before, and shifts the count
    x = inputs = keras.Input((4,))
    for i in range(3):
        x = Residual(name=f"block{i}")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    optimizer = layerwise_optimizer("adamw", model, decay=0.5, l2_sp=0.1)
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("trained", [True, False])
def test_layers_that_are_counted_anew_are_known_by_their_place(
    tmp_path, trained
):
    model = residual_model()
    if trained:
        fit(model, model.optimizer, epochs=1)
    model.save(tmp_path / "model.keras")
    keras.backend.clear_session(free_memory=False)  # as a new process would
    loaded = keras.models.load_model(tmp_path / "model.keras")
    paths = [v.path for v in loaded.weights]
    assert paths != [v.path for v in model.weights]
    assert settings(loaded) == settings(model)
    assert [x[0] for x in settings(loaded)][::4] == [0.125, 0.25, 0.5, 1.0]


def test_other_layers_of_the_same_process_are_not_known_by_their_place():
    model = residual_model()
    blocks = model.layers[1:4]
    for trained, multiplier in ((0, 0.125), (2, 0.5), (1, 0.25)):
        for i, block in enumerate(blocks):
            block.trainable = i == trained
        retrace(model)
        model.fit(*make_data(), verbose=0)
        assert settings(model)[0][0] == multiplier


def test_the_same_path_twice_is_no_reason_to_pull_the_head():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, name="dense")]
    )
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, name="dense")(inner(inputs))
    model = keras.Model(inputs, outputs)
    for variable in model.weights:
        variable._path = f"dense/{variable.name}"
    with pytest.raises(ValueError, match="same path .* pulls"):
        layerwise_optimizer("adamw", model, l2_sp=0.5)


@pytest.mark.backends
def test_the_anchor_stays_while_its_variable_is_frozen():
    model = make_model()
    low, mid = model.get_layer("low"), model.get_layer("mid")
    start = values([low.kernel])[0]
    fit(model, layerwise_optimizer("sgd", model, l2_sp=0.5), epochs=1)
    for trained in (mid, low):
        low.trainable = mid.trainable = False
        trained.trainable = True
        retrace(model)
        model.fit(*make_data(), verbose=0)
    optimizer = model.optimizer
    anchor = optimizer._anchors[optimizer._get_variable_index(low.kernel)]
    np.testing.assert_array_equal(anchor.numpy(), start)
    assert np.abs(low.kernel.numpy() - start).max() > 1e-3


def test_a_learning_rate_that_is_a_function_stays():
    model = make_model()
    plain = keras.optimizers.Adam(lambda: 0.25)
    optimizer = layerwise_optimizer(plain, model, decay=0.5)
    assert float(optimizer.learning_rate) == 0.25
