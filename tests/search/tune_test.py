import contextlib
import json
import os
import pathlib
import re
import sys
import warnings

import keras
import keras_tuner
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.search import folder as search_folder
from finetune_keras.search import oracles, trials, tuner
from finetune_keras.search import tune as search
from finetune_keras.search.hypermodel import FineTuneHyperModel
from finetune_keras.search.parts import model_options
from finetune_keras.search.result import Search
from finetune_keras.search.shared_data import describe, in_memory
from finetune_keras.search.space import search_space
from finetune_keras.search.trials import Trials
from finetune_keras.search.tune import tune
from finetune_keras.testing import fresh_process
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.training.history import FineTuneHistory

pytestmark = pytest.mark.usefixtures("op_by_op", "garbage_stays")
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of TensorFlow"
)
ROOT = pathlib.Path(__file__).parents[2]
ALGORITHMS = ("random", "grid", "bayesian", "hyperband")
SMALL = search_space(
    groups=[1, 0],
    phases=2,
    epochs=2,
    batch_size=[16, 32],
    boundary=0.5,
    learning_rate=[1e-3, 1e-2, 3e-2],
    backbone_factor=0.3,
    decay=1.0,
    order=False,
)
ONE = SMALL.change(groups=0, batch_size=16, learning_rate=1e-2)


def data(count=48):
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    return (rng.normal(size=(count, 8)) + y[:, None]).astype("float32"), y


def make_backbone():
    rng = np.random.default_rng(1)
    inputs = keras.Input((8,))
    layer = keras.layers.Dense(6, activation="relu", name="lower")
    backbone = keras.Model(inputs, layer(inputs))
    layer.set_weights([rng.normal(size=(8, 6)), np.zeros(6)])
    return backbone


def build(hp):
    return ft.replace_head(make_backbone(), 2, **model_options(hp))


def eager(hp):
    """As `build`, and quicker: nothing is traced."""
    return without_tracing(build(hp))


def without_tracing(model):
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)
    return model


def run(folder, build=eager, space=SMALL, algorithm="random", **options):
    options = {"max_trials": 3, "verbose": 0, **options}
    return tune(
        build, data(), data(), space, algorithm, directory=folder, **options
    )


def results(found):
    return [
        (row["trial"], row["status"], row["values"], row.get("score"))
        for row in found.trials
    ]


# === What is found ===


@pytest.mark.backends("random")
# What to try is KerasTuner's choice, on any backend.
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_score_is_that_of_the_model(tmp_path, algorithm):
    x, y = data()
    found = run(tmp_path / "s", algorithm=algorithm, objective="val_accuracy")
    assert [row["status"] for row in found.trials] == ["completed"] * 3
    for rank, row in enumerate(found.ranked(), start=1):
        model, plan = found.best(rank)
        assert plan == row["plan"]
        assert model.evaluate(x, y, verbose=0)[1] == row["score"]
        assert row["score"] == row["metrics"][0]["val_accuracy"]
    scores = [row["score"] for row in found.ranked()]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.filterwarnings("ignore:Phase 2")
def test_best_epoch_of_a_phase_before_the_last(tmp_path):
    plan = ft.Plan([ft.Phase("head", 2, 1e-2), ft.Phase("all", 2, 5.0)])
    space = search_space(plan={"spoilt": plan}, batch_size=16)
    found = run(tmp_path / "s", space=space, max_trials=1)
    (row,) = found.trials
    assert row["best_epochs"][0] < 2
    model, _ = found.best()
    x, y = data()
    loss = model.evaluate(x, y, batch_size=16, verbose=0)[0]
    assert loss == pytest.approx(row["score"], rel=1e-6)
    # And what was frozen then is frozen.
    assert [v.path for v in model.trainable_variables] == [
        v.path for v in ft.layer_groups(model)[-1].variables
    ]


def test_model_is_the_same_in_a_fresh_process(tmp_path):
    x, _ = data()
    found = run(tmp_path / "s", max_trials=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = found.best()
    fresh = fresh_process.reload(model, x, ["finetune_keras"])
    np.testing.assert_array_equal(
        fresh["outputs"][0], model.predict(x, batch_size=len(x), verbose=0)
    )


def test_first_trial_is_the_default_plan(tmp_path):
    for algorithm in ("random", "bayesian", "grid"):
        found = run(tmp_path / algorithm, algorithm=algorithm, max_trials=1)
        first = {name: SMALL.default(name) for name in SMALL.parts}
        assert found.trials[0]["values"] == first


def test_executions_give_a_mean_and_a_spread(tmp_path):
    found = run(tmp_path / "s", executions_per_trial=2, max_trials=2)
    for row in found.trials:
        assert len(set(row["scores"])) == 2
        assert row["score"] == np.mean(row["scores"])
        assert row["scores"][row["execution"]] == min(row["scores"])
    assert re.search(r"0\.\d{4} ± 0\.\d{4}", found.table())


def test_table_plot_and_text(tmp_path):
    found = run(tmp_path / "s")
    table = found.table()
    assert table.splitlines()[0].split()[:4] == [
        "trial",
        "val_loss",
        "plan",
        "seconds",
    ]
    assert repr(table) == str(table) and len(table.splitlines()) == 5
    assert "head: 1 > head + last 1 group: 1" in table
    assert str(found).startswith("random search: 3 completed\n")
    figure = found.plot()
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[0] == "trial" and "learning_rate" in labels
    figure.savefig(tmp_path / "figure.png")


def test_only_the_best_models_are_kept(tmp_path):
    found = run(tmp_path / "s", keep=1)
    assert len(list(found.folder.glob("trial_*/model.keras"))) == 1
    found.best()
    with pytest.raises(ValueError, match="`keep`"):
        found.best(rank=2)


# === Hyperband ===


@pytest.mark.backends
def test_promoted_trials_go_on_where_they_stopped(tmp_path):
    # It stops in the second phase, amid its schedule.
    space = SMALL.change(
        groups=1, boundary=0.2, schedule="cosine", learning_rate=(1e-3, 1e-1)
    )
    found = run(
        tmp_path / "s", space=space, algorithm="hyperband", max_epochs=5,
        max_trials=6,
    )  # fmt: skip
    (row,) = [r for r in found.trials if "tuner/trial_id" in r["values"]]
    assert row["values"]["tuner/initial_epoch"] == 2
    assert [phase.epochs for phase in row["plan"]] == [1, 4]
    # The same from the start, without a stop.
    hp = keras_tuner.HyperParameters()
    hp.values = {**row["values"], "tuner/initial_epoch": 0}
    hypermodel = FineTuneHyperModel(eager, space.change(epochs=5))
    whole = Trials(hypermodel, (data(), data()), {})
    folder = tmp_path / "trial_0"
    folder.mkdir()
    result = whole.run(hp, folder)
    assert result["scores"] == row["scores"]
    assert result["best_epochs"] == row["best_epochs"]


def test_hyperband_of_kerastuner_itself_is_refused():
    hypermodel = FineTuneHyperModel(build, SMALL)
    with pytest.raises(ValueError, match='algorithm="hyperband"'):
        hypermodel.fit(None, None, data(), epochs=3, initial_epoch=1)


# === What fails ===


def failing(reason):
    def build_or_fail(hp):
        if hp["learning_rate"] != 1e-3:
            raise reason
        return eager(hp)

    return build_or_fail


@pytest.mark.backends("reason0")
@pytest.mark.parametrize(
    "reason", [RuntimeError("of\nthree lines\nhere"), MemoryError("too much")]
)
def test_failed_trials_are_told_and_the_search_goes_on(tmp_path, reason):
    space = ONE.change(learning_rate=[1e-3, 1.0, 2.0, 3.0, 4.0, 5.0])
    found = run(tmp_path / "s", failing(reason), space, "grid", max_trials=6)
    assert [r["status"] for r in found.trials].count("failed") == 5
    told = f"{type(reason).__name__}: {' '.join(str(reason).split())}"
    assert found.trials[1]["reason"] == told
    assert f"Trial 5 failed: {told}" in found.table()
    assert "build_or_fail" in found.trials[1]["traceback"]
    assert found.ranked()[0]["trial"] == 0 and found.best()
    with pytest.raises(ValueError, match="1 completed trials of 6"):
        found.best(rank=2)
    assert results(Search(found.folder)) == results(found)


def test_nan_is_a_failure(tmp_path):
    def spoilt(hp):
        model = eager(hp)
        if hp["learning_rate"] > 1e-3:
            model.layers[-1].bias.assign([np.nan, 0.0])
        return model

    space = ONE.change(learning_rate=[1e-3, 1e-2])
    found = run(tmp_path / "s", spoilt, space, "grid", max_trials=2)
    assert found.trials[1]["status"] == "failed"
    assert "The loss became nan in epoch 1" in found.trials[1]["reason"]
    assert found.best()


@pytest.mark.filterwarnings("ignore:The monitored metric 'val_loss' is NaN")
def test_a_score_that_is_no_number_is_a_failure(tmp_path):
    class Spoilt(FineTuneHyperModel):
        def data(self, hp, train, validation):
            weights = np.full(len(validation[1]), np.nan)
            return train, (*validation, weights)

    found = run(tmp_path / "s", Spoilt(eager, ONE), None, max_trials=1)
    assert found.trials[0]["reason"].startswith("FloatingPointError")
    with pytest.raises(ValueError, match="val_loss is no number in any epoch"):
        found.best()


@tensorflow_only
def test_no_memory_for_a_tensor_is_a_failure(tmp_path):
    import tensorflow as tf

    def build_or_fail(hp):
        if hp["learning_rate"] > 1e-3:
            # As for a tensor of terabytes, but TensorFlow waits 10 s for room.
            error = tf.errors.ResourceExhaustedError
            raise error(None, None, "OOM when allocating tensor")
        return eager(hp)

    space = ONE.change(learning_rate=[1e-3, 1e-2])
    found = run(tmp_path / "s", build_or_fail, space, "grid", max_trials=2)
    assert found.trials[1]["reason"].startswith("ResourceExhaustedError")
    assert found.trials[0]["status"] == "completed"


def test_no_tensorboard_is_no_matter(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    found = run(tmp_path / "s", max_trials=1)
    assert found.trials[0]["status"] == "completed"


def test_a_failed_trial_leaves_no_model(tmp_path):
    class Second(FineTuneHyperModel):
        def train(self, *arguments, **fit):
            if (tmp_path / "s" / "trial_0" / "model.keras").exists():
                raise RuntimeError("of the second execution")
            return super().train(*arguments, **fit)

    hypermodel = Second(eager, ONE)
    found = run(
        tmp_path / "s", hypermodel, None, max_trials=1, executions_per_trial=2
    )
    assert found.trials[0]["reason"] == "RuntimeError: of the second execution"
    assert not list(found.folder.glob("*/*.keras"))


def test_a_grid_of_parts_without_a_scope_is_told(tmp_path):
    class Unscoped(Quick):
        def plan(self, hp):
            if hp.Choice("kind", ["a", "b"]) == "b":
                hp.Int("number", 1, 3)
            return super().plan(hp)

    hypermodel = Unscoped(build, ONE)
    with pytest.raises(ValueError, match="'number' is .* `with hp.conditional"):
        run(tmp_path / "s", hypermodel, None, "grid", max_trials=9)


# === What trials share, and what not ===


def test_a_shared_backbone_does_not_leak(tmp_path):
    backbone = make_backbone()
    space = SMALL.change(groups=1, batch_size=16)
    before = backbone.get_weights()

    def shared(hp):
        make_backbone()  # draws as many random numbers
        return without_tracing(ft.replace_head(backbone, 2))

    one = run(tmp_path / "a", eager, space, "grid")
    two = run(tmp_path / "b", shared, space, "grid")
    assert results(one) == results(two)
    # Nor does it into what comes after the search.
    for array, now in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(now, array)


@pytest.mark.backends
def test_what_the_user_has_set_stays(tmp_path):
    class Mine(keras.layers.Dense):
        pass

    seen = []

    def noting(hp):
        seen.append(keras.config.dtype_policy().name)
        return eager(hp)

    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.disable_interactive_logging()
    try:
        with keras.saving.custom_object_scope({"Mine": Mine}):
            found = run(tmp_path / "s", noting, ONE, max_trials=1)
            assert keras.saving.get_registered_object("Mine") is Mine
        assert not keras.config.is_interactive_logging_enabled()
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.enable_interactive_logging()
    assert seen == ["mixed_bfloat16"] * 2 and found.best()
    # Names of layers are those of the first model nevertheless.
    assert found.best()[0].layers[0].name == "input_layer"


@tensorflow_only
@pytest.mark.parametrize("compiled, around", [(False, True), (True, False)])
def test_trials_of_a_strategy(tmp_path, compiled, around):
    # Behind what ran op by op, threads of replicas may crash TensorFlow.
    arguments = __file__, tmp_path / "s", int(compiled), int(around)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = FreshProcess(*arguments, env=env)
    assert process.wait() == 0, process.stderr[-3000:]


def _trials_of_a_strategy(folder, compiled, around):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    seen = []

    def distributed(hp):
        scope = contextlib.nullcontext() if around else strategy.scope()
        with scope:
            seen.append(tf.distribute.get_strategy())
            model = build(hp)
            if compiled:
                loss = "sparse_categorical_crossentropy"
                model.compile("adam", loss, metrics=["accuracy"])
            return model

    space = SMALL.change(groups=1, batch_size=16, learning_rate=1e-2)
    with strategy.scope() if around else contextlib.nullcontext():
        found = run(folder, distributed, space, max_trials=1)
    assert "reason" not in found.trials[0]
    assert seen == [strategy] * 2
    model, _ = found.best()
    x, y = data()
    loss = model.evaluate(x, y, batch_size=16, verbose=0)[0]
    assert loss == pytest.approx(found.trials[0]["score"], rel=1e-6)


def test_adapters_in_a_shared_backbone_do_not_clash(tmp_path):
    backbone = make_backbone()
    space = SMALL.change(
        groups=1, batch_size=16, adapter=["none", "lora", "ia3"], rank=[2],
        learning_rate=1e-2, epochs=1,
    )  # fmt: skip

    def shared(hp):
        make_backbone()  # draws as many random numbers
        return without_tracing(ft.replace_head(backbone, 2))

    one = run(tmp_path / "a", eager, space, "grid", max_trials=6)
    two = run(tmp_path / "b", shared, space, "grid", max_trials=6)
    assert [row["status"] for row in one.trials] == ["completed"] * 3
    assert results(one) == results(two)
    assert len(backbone.weights) == 2


def counting(monkeypatch):
    made = []

    class Counting(search.SharedActivations):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(search, "SharedActivations", Counting)
    return made


def test_activations_are_computed_once_a_search(tmp_path, monkeypatch):
    made = counting(monkeypatch)
    space = SMALL.change(groups=0, learning_rate=1e-2)
    shared = run(tmp_path / "a", space=space, algorithm="grid", max_trials=2)
    (activations,) = made
    # Training and validation data are the same here.
    assert activations.computed == 48
    assert activations.found == 2 * 2 * 48 - 48
    alone = run(
        tmp_path / "b", space=space, algorithm="grid", max_trials=2, share=False
    )
    assert results(shared) == results(alone) and len(made) == 1


def test_old_activations_are_dropped(tmp_path, monkeypatch):
    made = counting(monkeypatch)
    monkeypatch.setattr(trials, "free_memory", lambda: 0)
    run(tmp_path / "a", space=ONE, max_trials=1)
    assert not made[0].rows


def test_datasets_are_read_once(tmp_path):
    import tensorflow as tf

    passes = []

    def note():
        passes.append(1)
        yield from zip(*data(), strict=True)

    spec = (tf.TensorSpec((8,)), tf.TensorSpec((), tf.int64))
    dataset = tf.data.Dataset.from_generator(note, output_signature=spec)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(48))
    shuffled = dataset.batch(7).unbatch().shuffle(48, seed=1)
    shuffled = shuffled.apply(tf.data.experimental.assert_cardinality(48))
    found = [
        tune(
            eager, shuffled.batch(7), data(), SMALL, "random", 2,
            tmp_path / name, verbose=0,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    # For its shape, for all, and to see whether a second one is the same.
    assert len(passes) == 2 * 3
    assert results(found[0]) == results(found[1])


def test_augmented_datasets_stay_datasets(tmp_path):
    import tensorflow as tf

    def noise(x, y):
        return x + tf.random.normal(tf.shape(x), stddev=0.1), y

    dataset = tf.data.Dataset.from_tensor_slices(data()).map(noise).batch(8)
    seen = []

    class Looking(FineTuneHyperModel):
        def data(self, hp, train, validation):
            seen.append(train)
            return train, validation

    tune(
        Looking(eager, ONE), dataset, data(), algorithm="random", max_trials=1,
        directory=tmp_path / "s", verbose=0,
    )  # fmt: skip
    assert seen[-1] is dataset


def from_generator(augment):
    """A dataset that says nothing of what is random in it."""
    import tensorflow as tf

    rng = np.random.default_rng(3)

    def examples():
        for x, y in zip(*data(), strict=True):
            noise = rng.normal(size=x.shape) if augment else 0.0
            yield x + noise, y

    spec = (tf.TensorSpec((8,)), tf.TensorSpec((), tf.int64))
    dataset = tf.data.Dataset.from_generator(examples, output_signature=spec)
    return dataset.apply(tf.data.experimental.assert_cardinality(48)).batch(16)


def test_what_is_random_stays_a_dataset():
    assert isinstance(in_memory(from_generator(augment=False)), tuple)
    augmented = from_generator(augment=True)
    assert in_memory(augmented) is augmented
    x = np.arange(200.0)[:, None] * np.ones((1, 8))
    y = np.where(np.arange(200) < 180, "often", "seldom")
    balanced = ft.from_arrays(x, y, balanced=True, validation_split=0.2)
    assert in_memory(balanced.train) is balanced.train
    assert isinstance(in_memory(balanced.validation), tuple)


def test_labels_with_names_stay_a_dataset(tmp_path):
    import tensorflow as tf

    x, y = data()
    labels = {"a": y, "b": y.astype("float32")}
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(16)

    def two_heads(hp):
        body = make_backbone()
        outputs = {
            "a": keras.layers.Dense(2, "softmax", name="a")(body.output),
            "b": keras.layers.Dense(1, name="b")(body.output),
        }
        model = keras.Model(body.input, outputs)
        model.compile(
            "adam", {"a": "sparse_categorical_crossentropy", "b": "mse"}
        )
        return model

    plan = ft.Plan([ft.Phase("all", 1, 1e-3)])
    space = search_space(plan={"all": plan}, batch_size=False)
    found = tune(
        two_heads, dataset, dataset, space, "grid", 1, tmp_path / "s",
        verbose=0,
    )  # fmt: skip
    assert "reason" not in found.trials[0]


def test_a_chief_reads_data_where_data_is_overridden(tmp_path, monkeypatch):
    import tensorflow as tf

    class Unpacking(FineTuneHyperModel):
        def data(self, hp, train, validation):
            x, y = train
            return (x, y), validation

    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(16)
    monkeypatch.setattr(tuner.FineTuneTuner, "search", lambda self: None)
    for name, value in (("IP", "127.0.0.1"), ("PORT", "1")):
        monkeypatch.setenv(f"KERASTUNER_ORACLE_{name}", value)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    tune(
        Unpacking(eager, ONE), dataset, data(), directory=tmp_path / "s",
        verbose=0,
    )  # fmt: skip


def test_no_trial_writes_to_what_all_read(tmp_path):
    class Writing(FineTuneHyperModel):
        def data(self, hp, train, validation):
            train[0][0] = 0.0
            return train, validation

    with pytest.raises(ValueError, match="read-only"):
        run(tmp_path / "s", Writing(eager, ONE), None, max_trials=1)


def test_callbacks_are_made_for_each_run(tmp_path):
    made = []

    def callbacks():
        made.append(keras.callbacks.LambdaCallback())
        return made[-1:]

    run(tmp_path / "a", space=SMALL, max_trials=2, callbacks=callbacks)
    assert len(made) == 2
    with pytest.raises(ValueError, match="function that makes the list"):
        run(tmp_path / "b", callbacks=[keras.callbacks.History()])


# === What users write ===


class Own(FineTuneHyperModel):
    def build(self, hp):
        return eager(hp)

    def plan(self, hp):
        return ft.plans.linear_probe(
            epochs=hp.Choice("epochs", [1, 2]),
            learning_rate=hp.Choice("rate", [1e-2]),
        )

    def options(self, hp):
        return {"batch_size": hp.Int("batch", 8, 16, step=8)}


def test_all_is_declared_before_the_first_trial(tmp_path):
    found = run(tmp_path / "s", Own, None, "grid", max_trials=20)
    assert len(found.trials) == 4
    assert set(found.trials[0]["values"]) == {"epochs", "rate", "batch"}


def test_tuners_of_kerastuner_take_the_hypermodel(tmp_path):
    plain = keras_tuner.RandomSearch(
        FineTuneHyperModel(eager, SMALL), objective="val_loss", max_trials=2,
        directory=tmp_path, seed=1,
    )  # fmt: skip
    plain.search(data(), data(), verbose=0)
    assert plain.oracle.get_best_trials()[0].status == "COMPLETED"


def test_what_nothing_reads_is_told(tmp_path):
    def deaf(hp):
        return without_tracing(ft.replace_head(make_backbone(), 2))

    with pytest.warns(UserWarning, match=r"Nothing reads \['dropout'\]"):
        run(tmp_path / "s", deaf, ONE.change(dropout=True), max_trials=1)


def test_weight_decay_reaches_the_optimizer(tmp_path):
    space = ONE.change(weight_decay=[0.5, 0.0], decay=0.8, groups=1)
    found = run(tmp_path / "a", build, space, "grid", max_trials=2)
    decays = [row["values"]["weight_decay"] for row in found.ranked()]
    got = [found.best(rank)[0].optimizer.weight_decay for rank in (1, 2)]
    assert got == decays

    with pytest.raises(ValueError, match="an optimizer of its own"):
        run(tmp_path / "b", eager, space, max_trials=1)


def test_adapters_are_part_of_the_model(tmp_path):
    space = ONE.change(adapter=["lora"], rank=[2])
    found = run(tmp_path / "s", build, space, max_trials=1)
    model, _ = found.best()
    x, y = data()
    loss = model.evaluate(x, y, batch_size=16, verbose=0)[0]
    assert loss == pytest.approx(found.trials[0]["score"], rel=1e-6)
    assert any("adapter_default" in v.path for v in model.weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "bayes"}, "Did you mean 'bayesian'"),
        ({"max_trials": 0}, "an integer of at least 1"),
        ({"keep": True}, "an integer of at least 1"),
        ({"space": {"groups": [1]}}, "search_space"),
        ({"build": make_backbone}, None),
        ({"build": "model"}, "must be a function"),
    ],
)
def test_bad_arguments_are_met_at_the_door(tmp_path, options, message):
    expected = TypeError if message is None else ValueError
    with pytest.raises(expected, match=message):
        run(tmp_path / "s", **options)


def test_hyperband_wants_to_know_its_longest_trials(tmp_path):
    with pytest.raises(ValueError, match="Pass `max_epochs`"):
        run(tmp_path / "s", Own, None, "hyperband")


def test_a_cut_grid_is_told(tmp_path):
    with pytest.warns(UserWarning, match="The grid has 12 points"):
        run(tmp_path / "s", algorithm="grid", max_trials=1)


# === Going on ===


class Quick(FineTuneHyperModel):
    """Trials that train nothing; their score is made of their values."""

    runs = 0

    def train(self, hp, model, train, validation, **fit):
        Quick.runs += 1
        plan = self.prepare(hp, model)
        model.compile("adam", "sparse_categorical_crossentropy")
        if "checkpoint_dir" in fit:
            fit["checkpoint_dir"].mkdir(exist_ok=True)
        values = json.dumps(hp.values, sort_keys=True)
        score = sum(values.encode()) % 97 / 97
        history = FineTuneHistory("val_loss")
        history.best_epoch, history.best_value = 0, score
        history.epochs = [{"epoch": 0, "phase": 0, "val_loss": score}]
        return plan, history


class Killed(BaseException):
    pass


def dying(write, moment, monkeypatch):
    """Dies at a write: before it, or with the file half written aside."""
    left = [moment]

    def write_or_die(path, content):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        write(path, content)

    for module in (oracles, tuner, trials, search_folder):
        monkeypatch.setattr(module, "write_json", write_or_die)


def test_two_hosts_may_write_a_file_at_once(tmp_path, monkeypatch):
    path, left = tmp_path / "file.json", [1]

    def other_host(descriptor):
        if left.pop():
            left.append(0)
            oracles.write_json(path, "other")

    monkeypatch.setattr(oracles.os, "fsync", other_host)
    oracles.write_json(path, "mine")
    assert json.loads(path.read_text()) == "mine"


@pytest.mark.parametrize("algorithm", ["bayesian", "hyperband"])
def test_killed_at_any_write_it_ends_the_same(tmp_path, monkeypatch, algorithm):
    write = oracles.write_json
    # Nothing is trained, and this would take all the time.
    monkeypatch.setattr(keras.backend, "clear_session", lambda: None)
    options = {"algorithm": algorithm, "max_trials": 4}
    space = SMALL.change(epochs=9, learning_rate=[1e-4, 1e-3, 1e-2, 1e-1])
    whole = run(tmp_path / "whole", Quick(build, space), None, **options)
    Quick.runs, died = 0, 0
    # Each algorithm at other writes.
    for moment in range(ALGORITHMS.index(algorithm), 60, 8):
        folder = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            dying(write, moment, patch)
            try:
                run(folder, Quick(build, space), None, **options)
                break
            except Killed:
                died += 1
        finished = [r for r in folder.glob("trial_*/result.json")]
        times = {path: path.stat().st_mtime_ns for path in finished}
        found = run(folder, Quick(build, space), None, **options)
        assert results(found) == results(whole)
        assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert died >= 4
    assert Quick.runs <= 5 * died + 4


def test_a_trial_that_ends_its_process_each_time_is_given_up(tmp_path):
    class Deadly(Quick):
        def train(self, hp, model, *data, **fit):
            if hp["learning_rate"] == 1e-2:
                raise Killed
            return super().train(hp, model, *data, **fit)

    space = ONE.change(learning_rate=[1e-3, 1e-2, 1e-1])
    for _ in range(trials.MAX_STARTS):
        with pytest.raises(Killed):
            run(tmp_path / "s", Deadly(build, space), None, "grid")
    found = run(tmp_path / "s", Deadly(build, space), None, "grid")
    status = [row["status"] for row in found.trials]
    assert status == ["completed", "failed", "completed"]
    assert "ended 5 times while this trial ran" in found.trials[1]["reason"]


def test_of_equal_scores_the_first_is_the_best(tmp_path):
    class Equal(Quick):
        def train(self, hp, *arguments, **fit):
            plan, history = super().train(hp, *arguments, **fit)
            best = hp["learning_rate"] in (0.06, 0.12)
            history.best_value = 0.1 if best else 0.5
            return plan, history

    # Numbers get longer: of 9 trials they have one digit, of 12 two.
    space = ONE.change(learning_rate=[i / 100 for i in range(1, 13)])
    for count in (9, 12):
        found = run(
            tmp_path / "s", Equal(build, space), None, "grid",
            max_trials=count, keep=1,
        )  # fmt: skip
    assert len(found.trials) == 12 and found.ranked()[0]["trial"] == 5
    (kept,) = found.folder.glob("*/model.keras")
    assert kept.parent.name == found.ranked()[0]["folder"] and found.best()


def test_nothing_is_printed_of_a_quiet_search(tmp_path, capsys):
    for verbose in (0, 0, 1):
        run(tmp_path / "s", Quick(build, ONE), None, verbose=verbose)
        assert ("Reloading" in capsys.readouterr().out) == bool(verbose)


def test_more_trials_go_on_from_those_there(tmp_path):
    Quick.runs = 0
    few = run(tmp_path / "a", Quick(build, SMALL), None, max_trials=3)
    again = run(tmp_path / "a", Quick(build, SMALL), None, max_trials=3)
    assert results(few) == results(again) and Quick.runs == 3
    more = run(tmp_path / "a", Quick(build, SMALL), None, max_trials=6)
    assert results(more)[:3] == results(few) and Quick.runs == 6
    whole = run(tmp_path / "b", Quick(build, SMALL), None, max_trials=6)
    assert results(more) == results(whole)


def test_another_search_is_refused_in_the_folder(tmp_path):
    run(tmp_path / "s", Quick(build, SMALL), None)
    with pytest.raises(ValueError, match="algorithm and space differ"):
        run(tmp_path / "s", Quick(build, ONE), None, "grid")
    (tmp_path / "s" / "mine.txt").touch()
    hypermodel = Quick(build, ONE.change(epochs=[1, 3]))
    run(tmp_path / "s", hypermodel, None, "hyperband", overwrite=True)
    assert hypermodel.space == ONE.change(epochs=[1, 3])
    assert (tmp_path / "s" / "mine.txt").exists()
    with pytest.raises(ValueError, match="holds no search"):
        Search(tmp_path)


def test_build_may_return_the_plan_as_well(tmp_path):
    def build(hp):
        model = eager(hp)
        if hp.Choice("train", ["head", "all"]) == "head":
            return model, ft.plans.linear_probe(1, learning_rate=0.1)
        with hp.conditional_scope("train", ["all"]):
            return model, ft.plans.full(1, hp.Choice("rate", [1e-3, 1e-2]))

    search = tune(
        build, data(), data(), algorithm="grid", max_trials=4,
        directory=tmp_path / "search", verbose=0,
    )  # fmt: skip
    phases = [(t["values"], t["plan"][0]) for t in search.trials]
    assert [phase.layers for _, phase in phases] == ["head", "all", "all"]
    for values, phase in phases:
        assert values["train"] == phase.layers
        assert values.get("rate", 0.1) == phase.learning_rate
    assert search.best()[1][0] in [phase for _, phase in phases]


if __name__ == "__main__":
    _trials_of_a_strategy(sys.argv[1], *map(int, sys.argv[2:]))


def test_a_search_knows_prompts_from_others():
    one, other = (ft.prompts(["who ran?"], [name]) for name in ("ann", "bob"))
    assert describe(one) != describe(other)
    assert describe(one) == describe(ft.prompts(["who ran?"], ["ann"]))
