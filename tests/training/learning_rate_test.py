import keras
import numpy as np
import pytest

from finetune_keras.training import learning_rate as module
from finetune_keras.training.learning_rate import find_learning_rate
from finetune_keras.training.learning_rate_sweep import LearningRateSweep
from finetune_keras.training.optimizers import layerwise_optimizer

pytestmark = pytest.mark.usefixtures("op_by_op")


def make_data(n=48):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, (x @ rng.normal(size=(4, 2))).astype("float32")


# Tracing takes most of the time on TensorFlow, and the least on JAX.
EAGER = keras.backend.backend() != "jax"


def make_model(optimizer=None, compiled=True, run_eagerly=EAGER):
    """With everything that training changes: weights, statistics, seeds."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="tanh", name="low")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.3, seed=7, name="drop")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    if compiled:
        model.compile(
            optimizer or keras.optimizers.Adam(0.01),
            loss="mse",
            metrics=["mae"],
            run_eagerly=run_eagerly,
        )
    return model


def fit(model, epochs=1):
    x, y = make_data()
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


def state(model):
    """Everything, as a dict of arrays."""
    named = {
        "weights": model.variables,
        "metrics": model.metrics_variables,
        "optimizer": model.optimizer.variables,
    }
    return {
        (name, i): value
        for name, variables in named.items()
        for i, value in enumerate(values(variables))
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], after[key], err_msg=key)


def sweep(model, data=None, **arguments):
    arguments = {"num_steps": 12, "batch_size": 8, "verbose": 0, **arguments}
    data = make_data() if data is None else data
    return find_learning_rate(model, data, **arguments)


@pytest.mark.backends
@pytest.mark.traced
def test_leaves_a_trained_model_as_it_was():
    model, reference = (make_model(run_eagerly=False) for _ in range(2))
    fit(model)
    fit(reference)
    before, optimizer = state(model), model.optimizer
    step = model.train_function
    sweep(model)
    assert model.optimizer is optimizer
    assert model.train_function is step
    assert model.steps_per_execution == 1
    assert int(optimizer.iterations) == 6
    assert_same(before, state(model))
    # And trains on as if there had been no sweep.
    fit(model)
    fit(reference)
    assert_same(state(reference), state(model))


@pytest.fixture
def spy(monkeypatch):
    """Lets a function see each trainer before each of its steps."""

    def install(see):
        original = keras.Model.train_on_batch

        def train_on_batch(self, *args, **kwargs):
            see(self)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(keras.Model, "train_on_batch", train_on_batch)

    return install


def test_the_sweep_itself_does_train(spy):
    model = make_model()
    seen = []
    spy(lambda _: seen.append(state(model)))
    sweep(model)
    moved = [
        key
        for key in seen[0]
        if key[0] == "weights"
        and not np.array_equal(seen[0][key], seen[-1][key])
    ]
    # Two kernels and biases, gamma and beta, two statistics, one seed.
    assert len(moved) == 9


@pytest.mark.backends
def test_before_the_first_fit():
    model, reference = make_model(), make_model()
    sweep(model)
    assert not model.optimizer.built
    fit(model)
    fit(reference)
    assert_same(state(reference), state(model))


@pytest.mark.backends("Interrupt")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_leaves_it_as_it_was_after_an_exception(error):
    def batches():
        x, y = make_data()
        for _ in range(5):
            yield x[:8], y[:8]
        raise error("no more")

    model, reference = make_model(), make_model()
    for target in (model, reference):
        fit(target)
    optimizer = model.optimizer
    with pytest.raises(error, match="no more"):
        sweep(model, batches())
    assert model.optimizer is optimizer
    assert_same(state(reference), state(model))
    for target in (model, reference):
        fit(target)
    assert_same(state(reference), state(model))


def test_leaves_it_as_it_was_after_an_exception_in_the_step():
    model, reference = make_model(), make_model()
    for target in (model, reference):
        fit(target)
    x, y = make_data()
    good, bad = (x[:8], y[:8]), (x[:8, :3], y[:8])
    with pytest.raises(Exception):  # noqa: B017
        sweep(model, [good, good, bad])
    assert_same(state(reference), state(model))
    for target in (model, reference):
        fit(target)
    assert_same(state(reference), state(model))


@pytest.mark.backends
def test_leaves_it_as_it_was_where_jax_holds_the_state(monkeypatch):
    if keras.backend.backend() != "jax":
        pytest.skip("only JAX gives the buffers of the variables away")
    model = make_model(run_eagerly=False)
    fit(model)
    before = state(model)

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "jax_state_sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep(model)
    monkeypatch.undo()
    model.jax_state_sync()
    assert_same(before, state(model))


@pytest.mark.backends
def test_respects_what_is_frozen(spy):
    model = make_model()
    model.get_layer("low").trainable = False
    model.get_layer("norm").trainable = False
    model.compile(keras.optimizers.Adam(0.01), loss="mse", run_eagerly=EAGER)
    frozen = ("low", "norm")
    weights = [v for name in frozen for v in model.get_layer(name).weights]
    before, seen = values(weights), []
    spy(lambda _: seen.append(values(weights)))
    sweep(model)
    assert len(weights) == 6
    for old, new in zip(before, seen[-1], strict=True):
        np.testing.assert_array_equal(old, new)
    assert not any(model.get_layer(name).trainable for name in frozen)


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        x, y = make_data()
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]


def tf_dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(make_data()).batch(8)


@pytest.mark.backends
def test_every_kind_of_data_gives_the_same():
    results = []
    for data in (tf_dataset(), Batches(), list(Batches()[i] for i in range(6))):
        results.append(sweep(make_model(), data).losses)
    assert len(results[0]) == 12
    for losses in results[1:]:
        np.testing.assert_allclose(losses, results[0], rtol=1e-5)


def test_arrays_are_shuffled_in_whole_batches_of_one_size():
    x = np.arange(20)
    passes = [
        list(module._one_pass((x, {"a": 2 * x, "b": None}), 8, number))
        for number in (0, 0, 1)
    ]
    for batches in passes:
        assert [len(b[0]) for b in batches] == [8, 8]
        for rows, targets in batches:
            np.testing.assert_array_equal(targets["a"], 2 * rows)
            assert targets["b"] is None
    firsts = [batches[0][0].tolist() for batches in passes]
    assert firsts[0] == firsts[1] != firsts[2]
    assert firsts[0] != sorted(firsts[0])
    (only,) = module._one_pass((x[:5],), 8, 0)
    assert len(only[0]) == 5


def test_sample_weights_count():
    x, y = make_data()
    weight = np.full(len(x), 0.25, "float32")
    plain = sweep(make_model(), (x, y), num_steps=2)
    weighted = sweep(make_model(), (x, y, weight), num_steps=2)
    np.testing.assert_allclose(
        weighted.losses[0], 0.25 * plain.losses[0], rtol=1e-5
    )


def test_first_loss_is_that_of_the_untouched_model():
    model = make_model()
    model.get_layer("norm").trainable = False
    model.get_layer("drop").rate = 0.0
    model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=EAGER)
    x, y = make_data(8)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert sweep(model, (x, y)).losses[0] == pytest.approx(expected, rel=1e-5)


def test_learning_rates_grow_by_a_constant_factor():
    found = sweep(
        make_model(),
        min_learning_rate=1e-6,
        max_learning_rate=1e-2,
        num_steps=9,
    )
    np.testing.assert_allclose(
        found.learning_rates, 10.0 ** np.arange(-6, -1.9, 0.5), rtol=1e-6
    )
    assert not found.diverged


def test_stops_where_the_loss_diverges():
    model = make_model(keras.optimizers.SGD(0.01))
    found = sweep(
        model, min_learning_rate=1e-3, max_learning_rate=1e4, num_steps=60
    )
    assert found.diverged
    assert len(found.losses) < 60
    assert np.isfinite(found.losses).all()
    assert found.suggestion < found.learning_rates[-1]


def test_divergence_of_negative_losses():
    assert not module._is_divergence(-3.0, [-10.0])
    assert module._is_divergence(21.0, [-10.0])
    assert module._is_divergence(4.1, [1.0, 2.0])
    assert not module._is_divergence(3.9, [1.0, 2.0])


def test_smoothed_losses():
    found = sweep(make_model())
    for i in range(len(found.losses)):
        weights = module.SMOOTHING ** np.arange(i, -1, -1)
        expected = np.average(found.losses[: i + 1], weights=weights)
        assert found.smoothed_losses[i] == pytest.approx(expected)


@pytest.mark.backends("loss_scale", "layerwise")
@pytest.mark.parametrize(
    "make",
    [
        lambda model: keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.1, 10), momentum=0.9
        ),
        lambda model: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(1e-3)
        ),
        lambda model: layerwise_optimizer("adamw", model, decay=0.5, l2_sp=0.1),
        lambda model: keras.optimizers.Adam(gradient_accumulation_steps=3),
    ],
    ids=["schedule", "loss_scale", "layerwise", "accumulation"],
)
def test_kinds_of_optimizers(make):
    model = make_model(compiled=False)
    optimizer = make(model)
    model.compile(
        optimizer, loss="mse", auto_scale_loss=False, run_eagerly=EAGER
    )
    fit(model)
    before = state(model)
    found = sweep(model, min_learning_rate=1e-3, max_learning_rate=1e-1)
    assert found.losses.min() < 0.9 * found.losses.max()
    assert len(found.losses) == 12
    assert model.optimizer is optimizer
    assert_same(before, state(model))


@pytest.mark.backends
@pytest.mark.traced
def test_steps_per_execution():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras rejects steps_per_execution on torch")
    model = make_model(compiled=False)
    model.compile("adam", loss="mse", steps_per_execution=3)
    reference = make_model(compiled=False)
    reference.compile("adam", loss="mse")
    found = [sweep(m).losses for m in (model, reference)]
    assert model.steps_per_execution == 3
    np.testing.assert_allclose(*found, rtol=1e-5)


def curve(losses):
    rates = 10.0 ** np.linspace(-6, 1, len(losses))
    return LearningRateSweep(rates, losses, losses, False)


def fastai_valley(rates, losses):
    """The published algorithm, for a curve that does fall."""
    n = len(losses)
    end = 0
    lengths = [1] * n
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end = i
    start = end - lengths[end]
    third = (end - start) / 3
    return rates[start + int(third) + int(third / 2)]


def test_valley_equals_the_published_algorithm():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = np.linspace(-3, 3, 100)
        losses = np.where(x < 1, 2 - 1 / (1 + np.exp(-3 * x)), 1 + (x - 1) ** 2)
        losses = losses + rng.normal(0, 0.02, 100)
        found = curve(losses)
        expected = fastai_valley(found.learning_rates[10:95], losses[10:95])
        assert found.valley == found.suggestion == expected
        assert found.learning_rates[30] < expected < found.learning_rates[65]


def test_steepest():
    x = np.arange(60)
    losses = 2 - 1 / (1 + np.exp(-(x - 33.5)))
    found = curve(losses)
    assert found.steepest == pytest.approx(found.learning_rates[33])


def test_no_suggestion_where_the_loss_never_falls():
    found = curve(np.linspace(1, 2, 40))
    for name in ("suggestion", "valley", "steepest"):
        with pytest.raises(ValueError, match="never fell"):
            getattr(found, name)
    assert "never fell" in repr(found)


def test_repr():
    found = curve(np.linspace(2, 1, 40))
    assert repr(found) == (
        f"<LearningRateSweep suggestion={found.valley:.2g}, 40 steps from "
        "1e-06 to 10>"
    )


def test_plot_is_returned_and_not_shown(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    found = curve(np.linspace(2, 1, 40))
    figure = found.plot()
    figure.savefig(tmp_path / "sweep.png")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    np.testing.assert_array_equal(
        axes.lines[0].get_xdata(), found.learning_rates
    )
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [
        found.valley,
        found.steepest,
    ]
    assert pyplot.get_fignums() == before


def test_progress(capsys):
    sweep(make_model(), num_steps=3, verbose=0)
    assert capsys.readouterr().out == ""
    sweep(make_model(), num_steps=3, verbose=1)
    out = capsys.readouterr().out
    assert "3/3" in out and "learning_rate" in out


def test_not_compiled():
    with pytest.raises(ValueError, match="model.compile"):
        sweep(make_model(compiled=False))


def test_nothing_to_train():
    model = make_model()
    model.trainable = False
    with pytest.raises(ValueError, match="all weights are frozen"):
        sweep(model)
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no weights yet"):
        sweep(model)


def test_no_data():
    x, y = make_data()
    for empty in ((x[:0], y[:0]), [], iter(())):
        with pytest.raises(ValueError, match="no batches left"):
            sweep(make_model(), empty)
    with pytest.raises(ValueError, match="no batches left"):
        sweep(make_model(), iter([(x[:8], y[:8])] * 3))


def test_a_list_is_of_arrays_or_of_batches():
    x, y = make_data()
    # One pass, and the first batch of the next.
    kinds = (x, y), [x, y], [(x[:8], y[:8])] * 3
    found = [sweep(make_model(), data, num_steps=7).losses for data in kinds]
    np.testing.assert_array_equal(*found[:2])
    assert len(found[2]) >= 2


def test_arrays_of_different_lengths():
    x, y = make_data()
    with pytest.raises(ValueError, match="same number of rows"):
        sweep(make_model(), (x, y[:7]))


def test_loss_is_not_finite_from_the_start():
    x, y = make_data()
    with pytest.raises(ValueError, match="not finite at the lowest"):
        sweep(make_model(), (x * np.nan, y))


@pytest.mark.needs("3.15")
def test_several_learning_rates():
    model = make_model(compiled=False)
    mapping = keras.optimizers.OptimizerMap(keras.optimizers.SGD())
    model.compile(keras.optimizers.MultiOptimizer(mapping), loss="mse")
    with pytest.raises(ValueError, match="one learning rate"):
        sweep(model)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"min_learning_rate": 0.0}, "min_learning_rate=0.0"),
        ({"min_learning_rate": 1.0, "max_learning_rate": 0.1}, "must be"),
        ({"num_steps": 1}, "num_steps=1"),
    ],
)
def test_wrong_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        sweep(make_model(), **arguments)


def test_plot_without_a_suggestion():
    axes = curve(np.linspace(1, 3, 30)).plot().axes[0]
    assert len(axes.lines) == 2


@keras.saving.register_keras_serializable(package="tests")
class Distiller(keras.Model):
    """With a `compile` of its own, as in the guides of Keras."""

    def compile(self, optimizer, own_loss):
        super().compile(optimizer=optimizer)
        self.own_loss = own_loss

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        return self.own_loss(y, y_pred)


def test_a_compile_of_ones_own():
    plain = make_model(compiled=False)
    model = Distiller(plain.inputs, plain.outputs)
    model.compile("sgd", keras.losses.MeanSquaredError())
    assert len(sweep(model, num_steps=4).losses) == 4


def test_a_fresh_optimizer_knows_what_the_old_one_does():
    model = make_model()
    model.compile(layerwise_optimizer("sgd", model, decay=0.5), "mse")
    model.get_layer("low").trainable = False
    fresh = module.compiled_twin(model).optimizer
    kernel = model.get_layer("low").kernel
    fresh.built_on = ("head/kernel",)
    fresh.build([kernel])
    assert fresh.learning_rate_multiplier(kernel) == 0.5
