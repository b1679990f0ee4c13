import random

import keras
import numpy as np
import pytest

from finetune_keras.engine import graph
from finetune_keras.plans.phase import Phase
from finetune_keras.plans.plan import Plan
from finetune_keras.testing import randomize
from finetune_keras.training import dry_run as module
from finetune_keras.training.dry_run import DryRun, dry_run

pytestmark = pytest.mark.usefixtures("op_by_op")
layers = keras.layers


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(7)


class Noise(layers.Layer):
    """Draws from Keras's own generator, which JAX forbids."""

    def call(self, x, training=False):
        if not training or keras.backend.backend() == "jax":
            return x
        return x + 0.1 * keras.random.normal((4,))


def make_model(compiled=True, middle=None, run_eagerly=True):
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="block1_dense")(inputs)
    x = layers.BatchNormalization(name="block1_norm")(x)
    x = Noise()(x)
    x = (middle or layers.Dense(5, name="block2_dense"))(x)
    x = layers.Dropout(0.5, name="block2_dropout")(x)
    x = layers.Dense(3, activation="softmax", name="head")(x)
    model = keras.Model(inputs, x)
    randomize(model)
    if compiled:
        entropy = keras.metrics.SparseCategoricalCrossentropy(name="entropy")
        loss = "sparse_categorical_crossentropy"
        metrics = ["accuracy", entropy]
        model.compile("adam", loss, metrics=metrics, run_eagerly=run_eagerly)
    return model


def arrays(count=20, classes=3):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 4)).astype("float32")
    return x, np.arange(count) % classes


PLAN = Plan(
    [
        Phase("head", epochs=2, learning_rate=1e-2),
        Phase("all", epochs=4, learning_rate=1e-3, batch_norm="train"),
    ]
)


class Batches(keras.utils.PyDataset):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return len(self.data[0]) // 5

    def __getitem__(self, index):
        random.random(), np.random.random()
        return tuple(part[5 * index :][:5] for part in self.data)


def as_dataset(data):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(data).batch(5)


FORMS = [lambda data: data, as_dataset, Batches]


def bits(variables):
    values = [keras.ops.convert_to_numpy(v) for v in variables]
    return [
        (v.path, x.tobytes()) for v, x in zip(variables, values, strict=True)
    ]


def everything(model):
    """All that a dry run could change, as what can be compared."""
    own = {
        name: (id(value), len(value) if hasattr(value, "__len__") else None)
        for name, value in vars(model).items()
        # Made by looking at it.
        if name not in ("_inbound_nodes", "_outbound_nodes")
    }
    inner = [model, *graph.all_layers(model)]
    optimizer = getattr(model, "optimizer", None)
    generator = keras.src.backend.common.global_state.get_global_attribute(
        "global_seed_generator"
    )
    return {
        "own": own,
        "class": type(model),
        "weights": bits(model.variables),
        "metrics": bits(model.metrics_variables),
        "flags": [x.trainable for x in inner + model.variables],
        "nodes": [len(x._inbound_nodes) for x in inner],
        "optimizer": optimizer
        and [optimizer.built, bits(optimizer.variables), id(optimizer)],
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "keras": generator and [id(generator), *bits([generator.state])],
    }


def assert_same(before, after):
    for name, value in before.items():
        assert after[name] == value, name


def partly_frozen(model):
    model.get_layer("block1_norm").trainable = False
    model.get_layer("block1_dense").bias.trainable = False


@pytest.fixture
def untimed(monkeypatch):
    """Runs no step, where only the rest matters; returns what was asked."""
    asked = []

    def seconds(step, batch, count):
        x, y, sample_weight = batch
        asked.append((step.__name__, len(x), count))
        return {"train_on_batch": 2.0, "test_on_batch": 0.5}[step.__name__]

    monkeypatch.setattr(module, "_seconds", seconds)
    return asked


# === What it says ===


def test_rows():
    forecast = dry_run(make_model(), PLAN, arrays(), arrays(), batch_size=5)
    assert [row["name"] for row in forecast.rows] == ["head", "all"]
    assert [row["epochs"] for row in forecast.rows] == [2, 4]
    head, others = 5 * 3 + 3, 4 * 4 + 4 + 2 * 4 + 4 * 5 + 5
    counts = [row["trainable"] for row in forecast.rows]
    assert counts == [head, head + others]
    # Adam has two slots of 4 bytes.
    sizes = [row["optimizer_bytes"] for row in forecast.rows]
    assert sizes == [8 * count for count in counts]
    for row in forecast.rows:
        assert 0 < row["seconds_per_epoch"] < 60
        assert row["seconds"] == row["epochs"] * row["seconds_per_epoch"]
    total = sum(row["seconds"] for row in forecast.rows)
    assert forecast.seconds == pytest.approx(total) and np.isfinite(total)


@pytest.mark.parametrize("form", FORMS)
def test_seconds_are_steps_times_batches(untimed, form):
    plan, data = Plan(PLAN[:1]), form(arrays())
    forecast = dry_run(make_model(), plan, data, arrays(15), batch_size=5)
    assert untimed == [("train_on_batch", 5, 4), ("test_on_batch", 5, 3)]
    assert forecast.rows[0]["seconds_per_epoch"] == 2.5
    assert forecast.seconds == 5.0
    forecast = dry_run(make_model(), plan, arrays(13), batch_size=6)
    assert untimed[2:] == [("train_on_batch", 6, 3)]


def test_the_first_step_is_not_timed(monkeypatch):
    clock, durations = [0.0], iter([100.0, 1.0, 9.0, 2.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    def step(x):
        clock[0] += next(durations)

    assert module._seconds(step, ("x",), 10) == 20.0
    assert next(durations, None) is None


def test_table():
    row = {"trainable": 1234, "optimizer_bytes": 9872}
    row |= {"weight_bytes": 4936, "activation_bytes": 700}
    forecast = DryRun(
        [
            {"name": "head", "epochs": 5, "seconds_per_epoch": 0.5}
            | {"seconds": 2.5}
            | row,
            {"name": "all", "epochs": 20, "seconds_per_epoch": 400.0}
            | {"seconds": 8000.0}
            | row,
        ]
    )
    assert str(forecast).splitlines() == [
        "trains  epochs  parameters  weight bytes  optimizer bytes  "
        "activation bytes    an epoch   the phase",
        "-" * 99,
        "head         5       1,234         4,936            9,872  "
        "             700       0.5 s       2.5 s",
        "all         20       1,234         4,936            9,872  "
        "             700  6 min 40 s  2 h 13 min",
        "total       25                                             "
        "                              2 h 13 min",
    ]
    assert repr(forecast) == str(forecast)


def test_a_real_one_prints(untimed):
    lines = str(dry_run(make_model(), PLAN, arrays())).splitlines()
    assert len(lines) == 5 and len(set(map(len, lines))) == 1
    # 79 weights, and three outputs of the head for each of 20 examples.
    assert lines[2].split() == "head 2 18 316 144 240 2 s 4 s".split()
    assert lines[4].split() == "total 6 12 s".split()


# === What it leaves ===


@pytest.mark.backends("Batches")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compiled", [True, False])
def test_everything_is_as_it_was(untimed, monkeypatch, form, compiled):
    if form is FORMS[0]:
        monkeypatch.undo()
    model = make_model(compiled)
    partly_frozen(model)
    before = everything(model)
    dry_run(model, PLAN, form(arrays()), form(arrays()), batch_size=5)
    assert_same(before, everything(model))
    assert model.compiled == compiled


def test_a_metric_object_is_as_it_was():
    metric = keras.metrics.SparseCategoricalCrossentropy()
    metric.update_state(np.array([1]), np.array([[0.2, 0.3, 0.5]]))
    model = make_model()
    model.compile("sgd", model.loss, metrics=[metric], run_eagerly=True)
    before = bits(metric.variables)
    dry_run(model, PLAN, arrays())
    assert bits(metric.variables) == before


@pytest.mark.backends("train_on_batch")
@pytest.mark.parametrize("step", ["train_on_batch", "test_on_batch"])
def test_everything_is_as_it_was_after_an_exception(monkeypatch, step):
    model = make_model()
    partly_frozen(model)
    model.fit(*arrays(), verbose=0)
    before, calls = everything(model), []
    run = getattr(keras.Model, step)

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, step, failing)
    with pytest.raises(KeyboardInterrupt):
        dry_run(model, PLAN, arrays(), arrays())
    assert_same(before, everything(model))


@pytest.mark.backends
@pytest.mark.traced
def test_training_goes_on_as_without_it():
    results = []
    for is_tried in (False, True):
        keras.utils.set_random_seed(3)
        model = make_model(run_eagerly=False)
        partly_frozen(model)
        model.fit(*arrays(), batch_size=5, verbose=0)
        before = everything(model)
        if is_tried:
            dry_run(model, PLAN, arrays(), batch_size=5)
        assert_same(before, everything(model))
        model.fit(*arrays(), batch_size=4, verbose=0)
        results.append([keras.ops.convert_to_numpy(v) for v in model.weights])
    for without, with_it in zip(*results, strict=True):
        np.testing.assert_array_equal(without, with_it)


@pytest.mark.backends
def test_a_train_step_of_ones_own_is_tried():
    steps = []

    class Counting(keras.Model):
        def train_step(self, *args):
            steps.append(self.trainable_variables)
            return super().train_step(*args)

    plain = make_model()
    model = Counting(plain.input, plain.output)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    plan = Plan([Phase("head"), Phase(["block2_dense", "head"])])
    dry_run(model, plan, arrays())
    assert {len(variables) for variables in steps} == {2, 4}


def test_layers_inside_layers_are_as_they_were(untimed):
    dense = layers.Dense(5, name="inner")
    inner = keras.Sequential([keras.Input((4,)), dense], name="block2")
    model = make_model(middle=inner)
    inner.trainable = False
    before = everything(model)
    dry_run(model, PLAN, arrays())
    assert_same(before, everything(model))

    inputs = keras.Input((6, 4))
    attention = layers.MultiHeadAttention(2, 3, name="block1_attention")
    x = layers.Flatten()(attention(inputs, inputs))
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    attention.query_dense.bias.trainable = False
    before = everything(model)
    x = np.ones((4, 6, 4))
    forecast = dry_run(model, PLAN, (x, x[:, 0, 0]))
    assert_same(before, everything(model))
    assert forecast.rows[0]["trainable"] == 25


def test_a_model_that_decays_by_depth_and_a_schedule(untimed):
    model = make_model()
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), model.loss)
    plan = Plan([Phase("head"), Phase("all", layerwise_lr_decay=0.5)])
    before = everything(model)
    forecast = dry_run(model, plan, arrays())
    assert_same(before, everything(model))
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert forecast.rows[0]["optimizer_bytes"] == 4 * (5 * 3 + 3)


# === What it refuses ===


def test_the_plan_is_checked_first():
    model = make_model(compiled=False)
    with pytest.raises(ValueError, match="Phase 1 of the plan .'heed'"):
        dry_run(model, Plan([Phase("heed")]), None)
    with pytest.raises(ValueError, match="The plan is empty"):
        dry_run(model, Plan([]), None)


@pytest.mark.parametrize(
    "train, message",
    [
        (arrays(classes=4), "go from 0 to 3"),
        (arrays()[:1], "must hold labels"),
        (arrays(count=0), "not empty"),
        ((arrays()[0], arrays()[1][:3]), "of one length"),
        ((x for x in [arrays()]), "is a generator"),
    ],
)
def test_data_is_checked(train, message):
    model = make_model()
    before = everything(model)
    with pytest.raises(ValueError, match=message):
        dry_run(model, PLAN, train)
    with pytest.raises(ValueError, match="`validation`|of `validation`"):
        dry_run(model, PLAN, arrays(), arrays()[:1])
    assert_same(before, everything(model))


def test_the_number_of_batches_must_be_known():
    data = as_dataset(arrays())
    for unknown in (data.repeat(), data.filter(lambda x, y: True)):
        with pytest.raises(ValueError, match="How many batches `train` has"):
            dry_run(make_model(), PLAN, unknown)
    with pytest.raises(ValueError, match="How many batches `validation` has"):
        dry_run(make_model(), PLAN, data, data.repeat())


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only there"
)
def test_synchronized_norms_are_as_they_were(untimed):
    model = make_model()
    phase = Phase("all", learning_rate=1e-3, batch_norm="synchronized")
    dry_run(model, Plan([phase]), arrays())
    assert not model.get_layer("block1_norm").synchronized
