"""A change of `trainable` takes effect, and the optimizer's state survives."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from keras import optimizers as ko

from finetune_keras.engine.retrace import retrace
from finetune_keras.engine.start_counts import (
    set_start_iterations,
    start_iterations,
)

# For those that look at the state. Whether the functions are made anew shows
# in those that trace.
OP_BY_OP = pytest.mark.usefixtures("op_by_op")
BACKEND = keras.backend.backend()
# The same bits as when it is traced, and sooner.
EAGER = BACKEND == "tensorflow"

BATCH = 4
X = np.random.default_rng(1).normal(size=(16, 4)).astype("float32")
Y = np.tanh(X @ np.array([[0.5], [-1.0], [2.0], [0.3]], "float32"))

RATE = 0.001
ADAM = ("_momentums", "_velocities")
# Every optimizer, with the names of its slots written out.
OPTIMIZERS = {
    "SGD": (lambda: ko.SGD(RATE, momentum=0.9), ("momentums",)),
    "RMSprop": (
        lambda: ko.RMSprop(RATE, momentum=0.5, centered=True),
        ("_velocities", "_momentums", "_average_gradients"),
    ),
    "Adam": (
        lambda: ko.Adam(RATE, amsgrad=True),
        (*ADAM, "_velocity_hats"),
    ),
    "AdamW": (lambda: ko.AdamW(RATE), ADAM),
    "Adadelta": (
        lambda: ko.Adadelta(RATE),
        ("_accumulated_grads", "_accumulated_delta_vars"),
    ),
    "Adagrad": (lambda: ko.Adagrad(RATE), ("_accumulators",)),
    "Adamax": (lambda: ko.Adamax(RATE), ("_m", "_u")),
    "Adafactor": (lambda: ko.Adafactor(RATE), ("_r", "_c", "_v")),
    "Nadam": (lambda: ko.Nadam(RATE), ADAM),
    "Ftrl": (lambda: ko.Ftrl(RATE), ("_accumulators", "_linears")),
    "Lion": (lambda: ko.Lion(RATE), ("_momentums",)),
    "Lamb": (lambda: ko.Lamb(RATE), ADAM),
    "Muon": (lambda: ko.Muon(RATE), ("momentums", "adam_velocities")),
}
# The first step on a new variable, as a multiple of the learning rate.
ADAM_FAMILY = ("Adam", "AdamW", "Adamax", "Nadam")


def make_model(optimizer, frozen=("stem", "low"), **compile_options):
    keras.utils.set_random_seed(3)
    inputs = outputs = keras.Input((4,))
    for name in ("stem", "low", "mid"):
        outputs = keras.layers.Dense(4, "tanh", name=name)(outputs)
    outputs = keras.layers.Dense(1, name="head")(outputs)
    model = keras.Model(inputs, outputs)
    for layer in model.layers[1:]:
        # Biases of zero would hide errors.
        layer.bias.assign(np.linspace(-0.1, 0.2, layer.bias.shape[0]))
        layer.trainable = layer.name not in frozen
    model.compile(optimizer, "mse", **compile_options)
    return model


def fit(model, x=X, y=Y, **options):
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, **options)


def set_flags(model, **flags):
    for name, flag in flags.items():
        model.get_layer(name).trainable = flag


def array(variable):
    return np.array(ops.convert_to_numpy(variable))


def arrays(variables):
    return {v.path: array(v) for v in variables}


def slots_of(optimizer, names, layer):
    """The slots of a layer, found by the place of its variables."""
    places = [
        i
        for i, v in enumerate(optimizer._trainable_variables)
        if any(v is w for w in layer.variables)
    ]
    assert len(places) == len(layer.variables)
    found = [getattr(optimizer, name)[i] for name in names for i in places]
    return [None if slot is None else array(slot) for slot in found]


def assert_same_bits(first, second):
    for one, other in zip(first, second, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def weights_by_layer(model):
    return {layer.name: layer.get_weights() for layer in model.layers}


class Change(keras.callbacks.Callback):
    """Changes flags within `fit`, at an epoch or at a batch of the first."""

    def __init__(self, flags, epoch=None, batch=None, call=retrace):
        super().__init__()
        self.flags, self.call = flags, call
        self.epoch, self.batch = epoch, batch
        self.moved = None

    def change(self):
        set_flags(self.model, **self.flags)
        self.moved = self.call(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.change()

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch and self.moved is None:
            self.change()


# === All optimizers ===


@pytest.mark.backends("SGD", "AdamW", "Adafactor", "Muon")
@pytest.mark.needs("3.13", "Muon")
@OP_BY_OP
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unfreezing_keeps_the_state_of_every_optimizer(name):
    make_optimizer, slot_names = OPTIMIZERS[name]
    optimizer = make_optimizer()
    model = make_model(optimizer)
    fit(model, epochs=2)
    optimizer.learning_rate = RATE / 2
    kept = [model.get_layer("mid"), model.get_layer("head")]
    slots = [slots_of(optimizer, slot_names, layer) for layer in kept]
    scalars = arrays(v for v in optimizer.variables if v.shape == ())
    assert any(np.any(s) for slot in slots for s in slot if s is not None)
    before = weights_by_layer(model)

    set_flags(model, low=True)
    moved = retrace(model)

    assert model.optimizer is optimizer
    for layer, slot in zip(kept, slots, strict=True):
        assert_same_bits(slots_of(optimizer, slot_names, layer), slot)
    again = arrays(v for v in optimizer.variables if v.shape == ())
    assert_same_bits(again.values(), scalars.values())
    assert int(array(optimizer.iterations)) == 8
    assert float(array(optimizer.learning_rate)) == np.float32(RATE / 2)
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.get_layer("low").trainable_variables)
    assert_same_bits(
        slots_of(optimizer, slot_names, model.get_layer("low")),
        slots_of(fresh, slot_names, model.get_layer("low")),
    )
    assert moved == {
        "kept": ["mid/kernel", "mid/bias", "head/kernel", "head/bias"],
        "added": ["low/kernel", "low/bias"],
        "removed": [],
    }

    fit(model, X[:BATCH], Y[:BATCH])
    after = weights_by_layer(model)
    assert int(array(optimizer.iterations)) == 9
    assert_same_bits(before["stem"], after["stem"])
    for layer in ("low", "mid", "head"):
        for one, other in zip(before[layer], after[layer], strict=True):
            assert np.all(np.isfinite(other)) and np.any(one != other)
    if name in ADAM_FAMILY:
        step = np.abs(after["low"][0] - before["low"][0]).max()
        assert 0.95 < step / (RATE / 2) < 1.1


def bare_model(optimizer, trained=("low", "head")):
    """Layers of fixed weights, for steps with given gradients."""
    layers = [
        keras.layers.Dense(4, name=name) for name in ("stem", "low", "head")
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    for i, layer in enumerate(layers):
        noise = np.random.default_rng(i).normal(size=(5, 4))
        layer.set_weights([noise[:4], noise[4]])
        layer.trainable = layer.name in trained
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    return model


def step(model, seed):
    """One step of the optimizer, with gradients fixed by layer and seed."""
    gradients = []
    for i, layer in enumerate(model.layers):
        noise = np.random.default_rng(seed + 100 * i).normal(size=(5, 4))
        if layer.trainable:
            gradients += [noise[:4], noise[4]]
    gradients = [ops.convert_to_tensor(g, "float32") for g in gradients]
    model.optimizer.apply(gradients, model.trainable_variables)


def low_kernel(model):
    return array(model.get_layer("low").kernel)


@pytest.mark.backends("SGD", "AdamW", "Adafactor", "Nadam-options13", "Muon")
@pytest.mark.needs("3.13", "Muon")
@pytest.mark.parametrize(
    "name, options",
    [(name, {}) for name in OPTIMIZERS]
    + [
        ("Nadam", {"gradient_accumulation_steps": 2}),
        ("Adam", {"clipnorm": 0.5}),
    ],
)
def test_new_variables_train_as_under_their_own_optimizer(name, options):
    models = []
    for trained in ("head", "head", "low"):
        optimizer = OPTIMIZERS[name][0]()
        for option, value in options.items():
            setattr(optimizer, option, value)
        models.append(bare_model(optimizer, [trained]))
    changed, never_changed, of_their_own = models
    # Few steps for some: JAX compiles an accumulation at each of them.
    steps = 2 if options else 30
    for seed in range(steps):
        step(changed, seed)
        step(never_changed, seed)
    set_flags(changed, low=True)
    retrace(changed)
    for seed in range(steps, steps + 4):
        for model in models:
            step(model, seed)
    for layer, model in (("head", never_changed), ("low", of_their_own)):
        for one, other in zip(
            changed.get_layer(layer).get_weights(),
            model.get_layer(layer).get_weights(),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def step_sizes(model):
    """The largest change in each of four equal steps, in learning rates."""
    sizes = []
    for _ in range(4):
        before = low_kernel(model)
        step(model, 1)
        sizes.append(np.abs(low_kernel(model) - before).max() / RATE)
    return sizes


@pytest.mark.backends("AdamW")
@pytest.mark.parametrize("name", ADAM_FAMILY)
def test_first_steps_on_new_variables_are_of_the_learning_rate(name):
    sizes = {}
    for corrected in (True, False):
        optimizer = getattr(ko, name)(RATE)
        model = bare_model(optimizer, ["head"])
        optimizer.iterations.assign(1000)
        if name == "Nadam":
            optimizer._u_product.assign(0.0)
        set_flags(model, low=True)
        retrace(model)
        if not corrected:
            set_start_iterations(optimizer, [[0] * 4])
        sizes[corrected] = step_sizes(model)
    own = step_sizes(bare_model(getattr(ko, name)(RATE)))
    np.testing.assert_allclose(sizes[True], own, rtol=1e-3)
    assert 0.95 < sizes[True][0] < 1.1
    # What Keras would do with the step count of the model.
    naive = {"Adam": 2.5, "AdamW": 2.5, "Adamax": 0.1, "Nadam": 4.8}
    assert sizes[False][0] == pytest.approx(naive[name], rel=0.02)
    if name in ("Adam", "AdamW"):
        assert max(sizes[False]) > 4


# === Equal to ending the fit and compiling again ===

CHANGES = {
    "unfreeze": (("stem", "low"), {"low": True}),
    "freeze": (("stem",), {"low": False}),
    "swap": (("stem", "low"), {"low": True, "mid": False}),
}


def momentum_sgd(**options):
    return ko.SGD(0.05, momentum=0.9, **options)


def compile_again(model):
    """By hand: a new optimizer with the state of the old one."""
    old = model.optimizer
    new = ko.SGD.from_config(old.get_config())
    new.build(model.trainable_variables)
    for i, variable in enumerate(model.trainable_variables):
        for j, other in enumerate(old._trainable_variables):
            if variable is other:
                new.momentums[i].assign(array(old.momentums[j]))
    new.iterations.assign(array(old.iterations))
    model.compile(new, "mse", run_eagerly=EAGER)


@functools.cache
def reference(change, batches, options=()):
    """Weights after `batches`, the change, and the rest of two epochs."""
    frozen, flags = CHANGES[change]
    optimizer = momentum_sgd(**dict(options))
    model = make_model(optimizer, frozen, run_eagerly=EAGER)
    x, y = np.concatenate([X, X]), np.concatenate([Y, Y])
    size = batches * BATCH
    fit(model, x[:size], y[:size])
    set_flags(model, **flags)
    compile_again(model)
    fit(model, x[size:], y[size:])
    return tuple(model.get_weights())


@pytest.mark.backends
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", ["between fits", "epoch", "batch"])
def test_same_bits_as_compiling_again(change, place):
    frozen, flags = CHANGES[change]
    model = make_model(momentum_sgd(), frozen)
    if place == "between fits":
        fit(model)
        set_flags(model, **flags)
        retrace(model)
        fit(model)
    else:
        spot = {"epoch": 1} if place == "epoch" else {"batch": 2}
        callback = Change(flags, **spot)
        fit(model, epochs=2, callbacks=[callback])
        assert callback.moved["added" if "low" in frozen else "removed"]
    batches = 2 if place == "batch" else 4
    assert_same_bits(model.get_weights(), reference(change, batches))
    assert int(array(model.optimizer.iterations)) == 8


@pytest.mark.backends
def test_a_callback_that_holds_the_model_by_itself():
    # `Callback.model` syncs the state of JAX with the flags before the
    # change. Here nothing does, and as shapes are equal nothing would fail.
    frozen, flags = CHANGES["swap"]
    model = make_model(momentum_sgd(), frozen)

    def on_batch(batch, logs=None):
        if batch == 2 and not model.get_layer("low").trainable:
            set_flags(model, **flags)
            retrace(model)

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=on_batch)
    fit(model, epochs=2, callbacks=[callback])
    assert_same_bits(model.get_weights(), reference("swap", 2))


@pytest.mark.backends
def test_the_naive_change_within_fit_is_not_the_same():
    # What the tests above would show if `retrace` did nothing.
    model = make_model(momentum_sgd())
    callback = Change({"low": True}, epoch=1, call=lambda model: {})
    try:
        fit(model, epochs=2, callbacks=[callback])
    except Exception:
        return
    weights = zip(model.get_weights(), reference("unfreeze", 4), strict=True)
    assert any(np.any(one != other) for one, other in weights)


@pytest.mark.backends
def test_clipping_by_the_global_norm_goes_on():
    options = (("global_clipnorm", 0.1),)
    model = make_model(momentum_sgd(**dict(options)))
    fit(model, epochs=2, callbacks=[Change({"low": True}, batch=2)])
    expected = reference("unfreeze", 2, options)
    assert_same_bits(model.get_weights(), expected)
    plain = zip(expected, reference("unfreeze", 2), strict=True)
    assert any(np.any(one != other) for one, other in plain)


COMPILED = {
    "tensorflow": [{"steps_per_execution": 2}, {"jit_compile": True}],
    "jax": [{"steps_per_execution": 2}],  # it always compiles
    "torch": [],  # it refuses several steps, and has no XLA
}


@pytest.mark.backends
@pytest.mark.parametrize("options", COMPILED[BACKEND], ids=str)
def test_compiled_steps(options):
    model = make_model(momentum_sgd(), **options)
    fit(model, epochs=2, callbacks=[Change({"low": True}, batch=2)])
    expected = reference("unfreeze", 2)
    for one, other in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.backends
def test_retracing_without_a_change_changes_nothing():
    results = []
    for callbacks in ([], [Change({}, batch=2)]):
        model = make_model(ko.Adam(0.01), metrics=["mae"])
        history = fit(model, epochs=2, callbacks=callbacks).history
        results.append((model.get_weights(), history))
    assert_same_bits(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


# === What Keras keeps beside the slots ===


@pytest.mark.backends("batch")
@pytest.mark.parametrize("place", ["between fits", "batch"])
def test_moving_averages_of_new_variables_start_from_their_values(place):
    optimizer = ko.SGD(1e-4, use_ema=True, ema_momentum=0.99)
    model = make_model(optimizer)
    pretrained = model.get_layer("low").get_weights()
    seen = {}

    def change(model):
        averages = ("_model_variables_moving_average",)
        head = model.get_layer("head")
        seen["kept"] = slots_of(optimizer, averages, head)
        retrace(model)
        assert_same_bits(slots_of(optimizer, averages, head), seen["kept"])
        low = slots_of(optimizer, averages, model.get_layer("low"))
        assert_same_bits(low, pretrained)
        return {}

    if place == "batch":
        callback = Change({"low": True}, batch=2, call=change)
        fit(model, callbacks=[callback])
    else:
        fit(model)
        set_flags(model, low=True)
        change(model)
        fit(model)
    assert seen
    # `fit` has ended by writing the averages over the weights.
    for one, other in zip(
        model.get_layer("low").get_weights(), pretrained, strict=True
    ):
        assert np.any(one != other)
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.backends
@OP_BY_OP
def test_gradient_accumulation_goes_on_amid_an_accumulation():
    models = [
        make_model(ko.Adam(0.01, gradient_accumulation_steps=2))
        for _ in range(2)
    ]
    for model in models:
        fit(model, X[:12], Y[:12])
    changed, plain = models
    head = changed.get_layer("head")
    names = ("_accumulated_gradients", *ADAM)
    slots = slots_of(changed.optimizer, names, head)
    assert np.any(slots[0])
    low = low_kernel(changed)
    set_flags(changed, low=True)
    retrace(changed)
    assert_same_bits(slots_of(changed.optimizer, names, head), slots)
    for model in models:
        fit(model, X[12:], Y[12:])
    # The fourth batch ends the second accumulation.
    np.testing.assert_allclose(
        head.get_weights()[0],
        plain.get_layer("head").get_weights()[0],
        rtol=1e-6,
    )
    step = np.abs(low_kernel(changed) - low).max()
    assert 0.95 < step / 0.01 < 1.1
    assert not np.any(slots_of(changed.optimizer, names, head)[0])


@pytest.mark.backends("float16")
@OP_BY_OP
@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(name):
    keras.config.set_dtype_policy(name)
    try:
        inner = ko.Adam(0.01)
        optimizer = inner
        if name == "mixed_float16":
            optimizer = ko.LossScaleOptimizer(inner, 256.0, 3)
        model = make_model(optimizer)
        fit(model)
        head = model.get_layer("head")
        slots = slots_of(inner, ADAM, head)
        scalars = arrays(v for v in optimizer.variables if v.shape == ())
        low = low_kernel(model)
        set_flags(model, low=True)
        retrace(model)
        assert_same_bits(slots_of(inner, ADAM, head), slots)
        again = arrays(v for v in optimizer.variables if v.shape == ())
        assert again == scalars
        if name == "mixed_float16":
            assert array(optimizer.dynamic_scale) == 512.0
            assert array(optimizer.step_counter) == 1
        assert int(array(inner.iterations)) == 4
        fit(model, X[:BATCH], Y[:BATCH])
        step = np.abs(low_kernel(model) - low).max()
        assert 0.95 < step / 0.01 < 1.1
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.backends
def test_learning_rate_schedule_goes_on():
    schedule = ko.schedules.CosineDecay(0.1, 100)
    optimizer = ko.SGD(schedule)
    model = bare_model(optimizer, ["head"])
    for seed in range(40):
        step(model, seed)
    set_flags(model, low=True)
    retrace(model)
    before = low_kernel(model)
    step(model, 0)
    gradient = np.random.default_rng(100).normal(size=(5, 4))[:4]
    rate = float(array(schedule(40)))
    assert rate < 0.07
    np.testing.assert_allclose(
        low_kernel(model), before - rate * gradient, rtol=1e-5
    )


@pytest.mark.backends
def test_what_a_config_cannot_hold_stays():
    rates = []
    optimizer = ko.AdamW(lambda: rates.append(0.01) or 0.01, weight_decay=0.9)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model = bare_model(optimizer, ["head"])
    set_flags(model, low=True)
    retrace(model)
    before = model.get_layer("low").get_weights()
    variables = model.trainable_variables
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    kernel, bias = model.get_layer("low").get_weights()
    assert rates
    np.testing.assert_array_equal(bias, before[1])
    np.testing.assert_allclose(kernel, before[0] * (1 - 0.009), rtol=1e-5)


@pytest.mark.backends
@pytest.mark.needs("3.15")
def test_multi_optimizer():
    adam, sgd = ko.Adam(0.01), momentum_sgd()
    chosen = ko.OptimizerMap(sgd, {"low/.*": adam})
    model = make_model(ko.MultiOptimizer(chosen))
    fit(model)
    momentums = slots_of(sgd, ("momentums",), model.get_layer("head"))
    low = low_kernel(model)
    set_flags(model, low=True, mid=False)
    retrace(model)
    assert_same_bits(
        slots_of(sgd, ("momentums",), model.get_layer("head")), momentums
    )
    # Adam's first step is due
    assert not any(map(any, start_iterations(model.optimizer)))
    mid = model.get_layer("mid").get_weights()
    fit(model, X[:BATCH], Y[:BATCH])
    step = np.abs(low_kernel(model) - low).max()
    assert 0.95 < step / 0.01 < 1.1
    assert_same_bits(model.get_layer("mid").get_weights(), mid)
    set_flags(model, low=False)
    retrace(model)
    assert len(adam.variables) == 2  # its step count and learning rate
    low = model.get_layer("low").get_weights()
    fit(model, X[:BATCH], Y[:BATCH])
    assert_same_bits(model.get_layer("low").get_weights(), low)
    set_flags(model, low=True)
    retrace(model)
    assert not np.any(slots_of(adam, ADAM, model.get_layer("low"))[0])
    counts = set().union(*start_iterations(model.optimizer))
    assert counts == {0, 1}


# === Steps of later variables ===


@pytest.mark.backends
def test_starts_survive_a_second_change_and_end_with_a_freeze():
    optimizer = ko.Adam(RATE)
    model = bare_model(optimizer, ["head"])
    assert start_iterations(optimizer) == [[0, 0]]
    for flags in ({"low": True}, {"stem": True}, {"low": False}):
        for seed in range(4):
            step(model, seed)
        set_flags(model, **flags)
        retrace(model)
        if flags == {"stem": True}:
            names = [v.path.split("/")[-2] for v in model.trainable_variables]
            assert names[::2] == ["stem", "low", "head"]
            assert start_iterations(optimizer) == [[8, 8, 4, 4, 0, 0]]
    set_flags(model, low=True)
    retrace(model)
    assert start_iterations(optimizer) == [[8, 8, 12, 12, 0, 0]]
    own = step_sizes(bare_model(ko.Adam(RATE)))
    np.testing.assert_allclose(step_sizes(model), own, rtol=1e-3)


@pytest.mark.backends
@OP_BY_OP
def test_starts_are_given_back_to_a_loaded_model(tmp_path):
    model = make_model(ko.Nadam(0.01))
    fit(model)
    set_flags(model, low=True)
    retrace(model)
    fit(model, X[:BATCH], Y[:BATCH])
    starts = start_iterations(model.optimizer)
    config = model.optimizer.get_config()
    assert config == ko.Nadam.from_config(config).get_config()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    for one, other in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(one), array(other))
    without = keras.models.load_model(tmp_path / "model.keras")
    set_start_iterations(loaded.optimizer, starts)
    for each in (model, loaded, without):
        fit(each, X[:BATCH], Y[:BATCH])
    for one, other in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    one, other = (m.get_layer("low").get_weights()[0] for m in (model, without))
    assert np.abs(one - other).max() > 1e-3


def test_an_earlier_step_count_gives_no_nan():
    optimizer = ko.Adam(0.01)
    model = bare_model(optimizer, ["head"])
    optimizer.iterations.assign(50)
    set_flags(model, low=True)
    retrace(model)
    optimizer.iterations.assign(3)
    step(model, 0)
    assert np.all(np.isfinite(low_kernel(model)))


# === The model's functions ===


@pytest.mark.backends
def test_functions_that_are_held_elsewhere_are_traced_anew():
    # JAX gives a new `jit` of an equal method the trace of the old one as
    # long as that lives. With equal shapes it runs, on the wrong weights.
    frozen, flags = CHANGES["swap"]
    model = make_model(momentum_sgd(), frozen)
    fit(model, validation_data=(X, Y))
    model.predict(X, verbose=0)
    held = [model.train_function, model.test_function, model.predict_function]
    set_flags(model, **flags)
    retrace(model)
    fit(model, validation_data=(X, Y))
    assert_same_bits(model.get_weights(), reference("swap", 4))
    expected = array(model(X))
    outputs = model.predict(X, verbose=0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    loss = model.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(loss, np.mean((expected - Y) ** 2), rtol=1e-4)
    assert held


@pytest.mark.backends("batch")
@pytest.mark.parametrize("place", ["epoch", "batch"])
def test_variables_that_are_added_to_a_layer(place):
    model = make_model(momentum_sgd(), ("stem",))
    low = model.get_layer("low")

    def enable_lora(model):
        low.enable_lora(2)
        return retrace(model)

    callback = Change({}, **{place: 1}, call=enable_lora)
    before = weights_by_layer(model)
    fit(model, epochs=2, callbacks=[callback])
    added, removed = callback.moved["added"], callback.moved["removed"]
    assert len(added) == 2 and removed == ["low/kernel"]
    assert np.any(array(low.lora_kernel_b) != 0)
    after = weights_by_layer(model)
    assert np.any(after["head"][0] != before["head"][0])


@pytest.mark.backends
def test_batch_normalization_follows_its_flag():
    norm = keras.layers.BatchNormalization(name="norm", trainable=False)
    model = keras.Sequential(
        [keras.Input((4,)), norm, keras.layers.Dense(1, name="head")]
    )
    model.compile(momentum_sgd(), "mse")
    before = norm.get_weights()
    fit(model, validation_data=(X, Y))
    assert_same_bits(norm.get_weights(), before)
    callback = Change({"norm": True}, batch=2)
    fit(model, validation_data=(X, Y), callbacks=[callback])
    for one, other in zip(norm.get_weights(), before, strict=True):
        assert np.any(one != other)
    trained = norm.get_weights()
    fit(model, callbacks=[Change({"norm": False}, batch=0)])
    assert_same_bits(norm.get_weights(), trained)


@pytest.mark.needs("3.15")
def test_keras_does_not_ask_to_compile_again():
    model = make_model(momentum_sgd())
    fit(model)
    set_flags(model, low=True)
    with pytest.warns(UserWarning, match="recompile"):
        model._warn_if_trainable_state_changed()
    set_flags(model, mid=False)
    retrace(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model._warn_if_trainable_state_changed()
        callback = Change({"mid": True}, epoch=1)
        fit(model, epochs=2, validation_data=(X, Y), callbacks=[callback])
        model._warn_if_trainable_state_changed()


@pytest.mark.backends
def test_before_the_first_fit_and_with_nothing_to_train():
    optimizer = momentum_sgd()
    model = make_model(optimizer)
    set_flags(model, low=True)
    assert len(retrace(model)["added"]) == 6
    fit(model)
    set_flags(model, low=False, mid=False, head=False)
    assert len(retrace(model)["removed"]) == 6
    before = model.get_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model)
    assert_same_bits(model.get_weights(), before)
    set_flags(model, head=True)
    retrace(model)
    fit(model)
    after = model.get_weights()
    assert_same_bits(after[:-2], before[:-2])
    assert np.any(after[-2] != before[-2])


@OP_BY_OP
@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow checkpoints")
def test_tensorflow_checkpoints(tmp_path):
    import tensorflow as tf

    model = make_model(ko.Adam(0.01))
    fit(model)
    set_flags(model, low=True, mid=False)
    retrace(model)
    fit(model)
    checkpoint = tf.train.Checkpoint(optimizer=model.optimizer)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    expected = [array(v) for v in model.optimizer.variables]
    fit(model)
    checkpoint.read(path).assert_consumed()
    assert_same_bits([array(v) for v in model.optimizer.variables], expected)


# === Refusals ===


def test_refusals_say_what_to_do():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"Call `model.compile\(\)` first"):
        retrace(model)
    model.compile(momentum_sgd(), "mse")
    with pytest.raises(ValueError, match="optimizer.build"):
        set_start_iterations(model.optimizer, [[]])
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"for \[2\] variables"):
        set_start_iterations(model.optimizer, [[3]])


class DictOptimizer(ko.SGD):
    def build(self, variables):
        super().build(variables)
        self.by_path = {v.path: self.add_variable(()) for v in variables}


@pytest.mark.needs("3.15", "function")
@pytest.mark.parametrize("kind", ["dict", "function"])
def test_state_that_cannot_be_kept_is_refused(kind):
    if kind == "dict":
        optimizer = DictOptimizer(0.1)
    else:
        optimizer = ko.MultiOptimizer(lambda variable: ko.SGD(0.1))
    model = bare_model(optimizer, ["head"])
    set_flags(model, low=True)
    weights = [array(v) for v in optimizer.variables]
    with pytest.raises(ValueError, match="cannot be kept"):
        retrace(model)
    assert_same_bits([array(v) for v in optimizer.variables], weights)
