import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache.shared_activations import (
    SharedActivations,
    describe_prefix,
    example_digests,
)


def backbone(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, activation="tanh", name="lower")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, name="upper")(x))


def tune(model, data, **cache):
    keras.utils.set_random_seed(7)
    plan = ft.Plan([ft.Phase("head", epochs=2, learning_rate=1e-2)])
    return ft.fine_tune(model, plan, data, data, cache=cache, verbose=0)


def data(seed=1):
    x = np.random.default_rng(seed).normal(size=(20, 6)).astype("float32")
    return x, np.arange(20) % 2


@pytest.mark.backends
def test_folds_compute_each_example_once_and_train_alike():
    shared, (x, y) = SharedActivations(), data()
    for part in (slice(0, 12), slice(4, 16), slice(8, 20)):
        weights = []
        for cache in ({}, {"shared": shared}):
            keras.utils.set_random_seed(3)
            model = ft.replace_head(backbone(), 2)
            tune(model, (x[part], y[part]), **cache)
            weights.append(model.get_weights())
        for plain, ours in zip(*weights, strict=True):
            np.testing.assert_allclose(plain, ours, atol=1e-6)
    assert len(next(iter(shared.rows.values()))) == 20
    assert shared.found > 0


def test_another_prefix_gets_activations_of_its_own():
    shared = SharedActivations()
    for seed in (0, 1):
        tune(ft.replace_head(backbone(seed), 2), data(), shared=shared)
    assert len(shared.rows) == 2 and shared.computed == 40


def test_names_do_not_count_and_weights_do():
    first, second = describe_prefix(backbone()), describe_prefix(backbone())
    assert first == second != describe_prefix(backbone(1))


def test_examples_are_told_apart():
    x = np.arange(6.0).reshape(3, 2)
    digests = example_digests([x, np.array(["a", "b", "c"], object)])
    assert len(set(digests)) == 3
    changed = example_digests([x, np.array(["a", "b", "d"], object)])
    assert changed[:2] == digests[:2] and changed[2] != digests[2]


def arguments_of_calls(kind, value):
    def scale(tensor):
        return tensor * value

    inputs = keras.Input((6,))
    x = {
        "product": lambda: inputs * value,
        "array": lambda: inputs * np.full(6, value, "float32"),
        "slice": lambda: inputs[:, int(value) : int(value) + 3],
        "clip": lambda: keras.ops.clip(inputs, -value, value),
        "lambda": lambda: keras.layers.Lambda(scale)(inputs),
    }[kind]()
    return keras.Model(inputs, keras.layers.Activation("tanh")(x))


@pytest.mark.backends
@pytest.mark.parametrize("kind", ["product", "array", "slice", "clip"])
def test_what_a_layer_is_called_with_counts(kind):
    one, same, other = (arguments_of_calls(kind, v) for v in (1.0, 1.0, 2.0))
    assert describe_prefix(one) == describe_prefix(same)
    assert describe_prefix(one) != describe_prefix(other)


def test_functions_are_not_taken_for_one_another():
    models = [arguments_of_calls("lambda", value) for value in (1.0, 2.0)]
    assert len({describe_prefix(model) for model in models}) == 2
    assert describe_prefix(models[0]) == describe_prefix(models[0])


@pytest.mark.backends
def test_what_is_kept_on_disk_is_not_kept_in_memory(tmp_path):
    shared = SharedActivations()
    history = tune(
        ft.replace_head(backbone(), 2), data(), shared=shared, storage="disk"
    )
    assert "on disk" in history.phases[0]["cache"]
    assert not shared.rows
