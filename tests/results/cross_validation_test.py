import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache.shared_activations import SharedActivations


def build(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(8, activation="tanh", name="body")(inputs)
    return ft.replace_head(keras.Model(inputs, x), 2)


def data(number=60, seed=1):
    rng = np.random.default_rng(seed)
    y = np.arange(number) % 2
    x = rng.normal(size=(number, 5)) + 1.2 * y[:, None]
    return x.astype("float32"), y


PLAN = ft.plans.linear_probe(epochs=4, learning_rate=0.05)


def test_each_example_is_judged_once_and_never_trained_on():
    x, y = data()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(1)

    found = ft.cross_validate(
        build, PLAN, (x, y), folds=4, verbose=0, callbacks=[Watch()]
    )
    judged = np.concatenate([r.predictions.y_true for r in found.reports])
    assert len(judged) == 60 and judged.sum() == y.sum()
    assert len(seen) == 4
    for report in found.reports:
        counts = np.bincount(report.predictions.y_true)
        assert abs(counts[0] - counts[1]) <= 1
    assert found.mean["accuracy"] > 0.75
    low, high = found.intervals["accuracy"]
    assert low < found.mean["accuracy"] < high
    assert "4 folds" in str(found)


def test_shared_activations_change_nothing_and_save_work():
    shared = SharedActivations()
    results = [
        ft.cross_validate(
            build, PLAN, data(), folds=3, repeats=2, verbose=0, cache=cache
        )
        for cache in ({"shared": shared}, "off")
    ]
    first, second = (result.metrics["log_loss"] for result in results)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert len(first) == 6
    # The first fold leaves a third out, which the second one needs.
    assert shared.computed <= 80


def test_a_plan_that_waits_never_sees_the_fold_it_is_judged_on():
    plan = ft.Plan([ft.Phase("head", 6, learning_rate=0.05, patience=2)])
    found = ft.cross_validate(build, plan, data(70), folds=5, verbose=0)
    history = found.histories[0]
    assert "val_loss" in history.history
    assert found.mean["accuracy"] > 0.7


def test_groups_stay_together():
    x, y = data()
    groups = np.arange(60) // 6
    found = ft.cross_validate(
        build, PLAN, (x, y), folds=5, groups=groups, verbose=0
    )
    sizes = [len(report.predictions.y_true) for report in found.reports]
    assert all(size % 6 == 0 for size in sizes)


def test_data_splits_leave_their_test_alone():
    x, y = data(80)
    splits = ft.from_arrays(x, y, seed=0)
    found = ft.cross_validate(build, PLAN, splits, folds=3, verbose=0)
    judged = sum(len(report.predictions) for report in found.reports)
    assert judged == splits.sizes["train"] + splits.sizes["validation"]


def test_a_regression_is_cut_without_classes():
    x, _ = data()
    y = x.sum(axis=1)
    made = []

    def build_regression():
        made.append(1)
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5,))
        body = keras.layers.Dense(8, name="body")(inputs)
        return ft.replace_head(keras.Model(inputs, body), 1, task="regression")

    plan = ft.plans.linear_probe(epochs=20, learning_rate=0.05)
    found = ft.cross_validate(
        build_regression, plan, (x, y), folds=3, verbose=0
    )
    assert len(made) == 3 and found.mean["r2"] > 0.5


@pytest.mark.usefixtures("op_by_op")
def test_questions_of_a_model_that_writes_are_folds(small_writer):
    texts = ["is a", "is b", "a b", "b"], ["yes", "no", "a", "b"]
    plan = ft.Plan([ft.Phase("all", epochs=1, learning_rate=1e-3)])
    found = ft.cross_validate(
        lambda: small_writer(layers=1),
        plan,
        ft.prompts(*texts),
        folds=2,
        verbose=0,
    )
    judged = [one.predictions.y_true.tolist() for one in found.reports]
    assert sorted(sum(judged, [])) == sorted(texts[1])
    assert [len(one) for one in judged] == [2, 2]
    assert found.mean["perplexity"] > 1


def test_bad_input_is_met_at_the_door():
    with pytest.raises(ValueError, match="at least 2 folds"):
        ft.cross_validate(build, PLAN, data(), folds=1)
    with pytest.raises(ValueError, match="each fold"):
        ft.cross_validate(build, PLAN, data(3), folds=5)
    with pytest.raises(ValueError, match="tuple of arrays"):
        ft.cross_validate(build, PLAN, iter([data()]))
