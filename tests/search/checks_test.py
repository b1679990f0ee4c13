"""What a search refuses, or tells, before its first trial."""

import json
import os
import warnings

import keras
import keras_tuner
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.search.folder import in_use
from finetune_keras.search.hypermodel import FineTuneHyperModel
from finetune_keras.search.result import Search
from finetune_keras.search.space import search_space
from finetune_keras.search.tune import tune
from finetune_keras.training.history import FineTuneHistory

pytestmark = pytest.mark.usefixtures("op_by_op", "garbage_stays")
ONE = search_space(groups=0, epochs=1, batch_size=16, learning_rate=1e-2)


def data(factor=1.0):
    rng = np.random.default_rng(0)
    y = np.arange(32) % 2
    return factor * (rng.normal(size=(32, 4)) + y[:, None]), y


def build(hp):
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(3, activation="relu")
    return ft.replace_head(keras.Model(inputs, layer(inputs)), 2)


class Quick(FineTuneHyperModel):
    """Trials that train nothing."""

    def train(self, hp, model, train, validation, **fit):
        plan = self.prepare(hp, model)
        model.compile("adam", "sparse_categorical_crossentropy")
        history = FineTuneHistory(self.objective)
        history.best_epoch, history.best_value = 0, 0.5
        history.epochs = [{"epoch": 0, "phase": 0, self.objective: 0.5}]
        return plan, history


def run(folder, build=build, space=ONE, algorithm="random", **options):
    options = {
        "train": data(), "validation": data(), "max_trials": 2, "verbose": 0,
        **options,
    }  # fmt: skip
    return tune(
        build, space=space, algorithm=algorithm, directory=folder, **options
    )


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(16 * index, 16 * index + 16)
        return tuple(array[part] for array in data())


WORKERS = {"cluster": {"worker": ["a:1", "b:1"]}}


# === Arguments ===


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executions": 3}, "Did you mean 'executions_per_trial'"),
        ({"monitor": "val_loss"}, "the metric that decides is `objective`"),
        ({"epochs": 3}, "epochs are the plan's"),
        ({"cache": None}, "`cache` must be one of"),
        ({"batch_size": 8}, "The search space has batch sizes"),
        ({"max_epochs": 3}, "for Hyperband alone"),
        ({"max_epochs": 0, "algorithm": "hyperband"}, "`max_epochs` must be"),
        ({"max_epochs": "5", "algorithm": "hyperband"}, "an integer of at"),
        ({"max_epochs": 2.5, "algorithm": "hyperband"}, "an integer of at"),
        ({"validation": None}, "A search judges by validation data"),
        ({"train": iter([data()])}, "`train` is a generator"),
        ({"train": data()[:1]}, "a tuple of 1"),
        ({"train": Sequence(), "space": ONE}, "batches of its own"),
        ({"objective": "val_acuracy"}, r"\['val_accuracy', 'val_loss'\]"),
        (
            {"objective": keras_tuner.Objective("val_accuracy", "max")},
            "must be the name of a metric, such as 'val_accuracy'",
        ),
    ],
)
def test_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "s", **options)
    assert not (tmp_path / "s" / "search.json").exists()


def test_metrics_of_all_kinds_are_found(tmp_path):
    def own_error(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1)

    def plain(y_true, y_pred):
        return own_error(y_true, y_pred)

    def compiled(hp):
        model = build(hp)
        other = keras.metrics.SparseCategoricalCrossentropy(name="error")
        loss = "sparse_categorical_crossentropy"
        model.compile(
            "adam",
            loss,
            metrics=[own_error, other, plain],
            weighted_metrics=["accuracy"],
        )
        return model

    for name in ("val_own_error", "val_accuracy"):
        found = run(tmp_path / name, compiled, objective=name, max_trials=1)
        assert "reason" not in found.trials[0]
    with pytest.raises(ValueError, match="val_accuracy.*val_error.*val_own"):
        run(tmp_path / "s", compiled, objective="val_mse")
    with pytest.raises(ValueError, match="rise or to fall.*'val_plain'"):
        run(tmp_path / "s", compiled, objective="val_plain")


def test_options_of_an_own_train_are_known(tmp_path):
    class Mine(Quick):
        def train(self, hp, model, train, validation, mine, **fit):
            assert mine == 3
            return super().train(hp, model, train, validation, **fit)

    found = run(tmp_path / "s", Mine(build), mine=3, max_trials=1)
    assert found.trials[0]["status"] == "completed"


def test_several_workers_of_one_model_are_refused(tmp_path, monkeypatch):
    task = {"type": "worker", "index": 1}
    cases = {"would search for itself": {**WORKERS, "task": task}}
    cases["must say which worker"] = WORKERS
    for message, config in cases.items():
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "s", Quick(build))
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}}')
    run(tmp_path / "s", Quick(build))


def test_a_loss_with_penalties_is_told(tmp_path):
    space = ONE.change(l2=[0.0, 1e-3])

    def regularised(hp):
        ft.model_options(hp)
        return build(hp)

    with pytest.warns(UserWarning, match=r"contains the penalty.*\['l2'\]"):
        run(tmp_path / "a", Quick(regularised), space)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        objective = "val_accuracy"
        run(tmp_path / "b", Quick(regularised), space, objective=objective)
        run(tmp_path / "c", Quick(regularised), ONE.change(l2=[1e-3]))


# === The space ===


class OwnPlan(Quick):
    def plan(self, hp):
        return ft.plans.linear_probe(epochs=1)

    def options(self, hp):
        return {}


@pytest.mark.parametrize(
    ("hypermodel", "space", "lost"),
    [
        (OwnPlan, ONE, ["groups", "learning_rate", "epochs", "batch_size"]),
        (Quick, ONE.change(rank=[4, 8]), ["rank"]),
        (
            Quick,
            search_space(plan={"a": ft.plans.full(1)}).change(epochs=[1, 2]),
            ["epochs"],
        ),
    ],
)
def test_known_parts_that_nothing_reads_are_told(
    tmp_path, hypermodel, space, lost
):
    with pytest.warns(UserWarning) as caught:
        run(tmp_path / "s", hypermodel(build), space)
    (told,) = [w for w in caught if "Nothing reads" in str(w.message)]
    assert str(told.message).startswith(f"Nothing reads {lost}, so")
    assert told.filename == __file__


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_an_own_plan_reads_is_not_told(tmp_path):
    class Reading(Quick):
        def plan(self, hp):
            rates = self.space.values(hp)
            return ft.plans.linear_probe(
                epochs=hp["epochs"], learning_rate=rates["learning_rate"]
            )

    space = ONE.change(adapter=["none", "lora"], rank=[2, 4])
    run(tmp_path / "a", Quick(build), space)
    run(tmp_path / "b", Reading(build), ONE)


def test_a_part_that_is_declared_again_is_refused(tmp_path):
    def clashing(hp):
        hp.Choice("learning_rate", [0.5, 0.25])
        return build(hp)

    with pytest.raises(ValueError, match="'learning_rate' is a part of the"):
        run(tmp_path / "s", Quick(clashing))

    def equal(hp):
        hp.Choice("size", ["small", "large"], default="large")
        return build(hp)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(tmp_path / "s", Quick(equal), ONE.change(size=["small", "large"]))


# === The folder ===


def choosing(*widths):
    def build_with_choice(hp):
        hp.Choice("width", list(widths))
        return build(hp)

    return Quick(build_with_choice)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"build": choosing(4, 8, 16)}, "parts of `build` differ"),
        ({"train": data(2.0)}, "search: train differ"),
        ({"class_weight": {0: 1.0, 1: 2.0}}, "class_weight differ"),
    ],
)
def test_a_search_that_changed_is_refused(tmp_path, changed, message):
    options = {"build": choosing(4, 8), "callbacks": list}
    run(tmp_path / "s", **options)
    run(tmp_path / "s", **{**options, "cache": "off", "callbacks": None})
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "s", **{**options, **changed})


def test_labels_of_all_kinds_are_told_apart(tmp_path):
    x = [f"text {i}" for i in range(4)]
    tags = [["a"], ["b", "a"], [], ["c"]]
    others = [["a"], ["b", "c"], [], ["c"]]
    run(tmp_path / "s", Quick(build), train=(x, tags), validation=(x, tags))
    with pytest.raises(ValueError, match="validation differ"):
        run(
            tmp_path / "s", Quick(build), train=(x, tags),
            validation=(x, others),
        )  # fmt: skip
    # Objects are known by their values, and not by where they lie.
    for _ in range(2):
        labels = np.array([f"{c}{c}" for c in "abcd"], dtype=object)
        run(tmp_path / "o", Quick(build), train=(x, labels))


def test_a_search_that_never_began_claims_no_folder(tmp_path):
    def broken(hp):
        raise KeyError("typo")

    with pytest.raises(KeyError, match="typo"):
        run(tmp_path / "s", broken)
    run(tmp_path / "s", Quick(build), ONE.change(epochs=2))


def test_nothing_is_deleted_for_a_search_that_cannot_begin(tmp_path):
    def broken(hp):
        raise KeyError("typo")

    run(tmp_path / "s", Quick(build))
    for wrong in ({"build": broken}, {"max_epochs": 3}, {"train": data()[:1]}):
        options = {"build": Quick(build), **wrong}
        with pytest.raises((KeyError, ValueError)):
            run(tmp_path / "s", overwrite=True, **options)
    assert len(Search(tmp_path / "s").trials) == 1


def test_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    with in_use(tmp_path / "s"):
        with pytest.raises(ValueError, match="is using this folder"):
            run(tmp_path / "s", Quick(build))
        # A worker has another name.
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker1")
        with in_use(tmp_path / "s"):
            pass
    monkeypatch.delenv("KERASTUNER_TUNER_ID")
    run(tmp_path / "s", Quick(build))


@pytest.mark.parametrize("name", ["s[1]", "s*", "s?"])
def test_folders_with_names_of_patterns_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="takes .* for a pattern"):
        run(tmp_path / name, Quick(build))
    assert not os.listdir(tmp_path)
