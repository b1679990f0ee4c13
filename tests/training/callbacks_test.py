import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers


def network():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((5,))
    x = layers.Dense(6, activation="tanh", name="lower")(inputs)
    x = layers.Dense(6, activation="tanh", name="upper")(x)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def data():
    x = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


class Watch(keras.callbacks.Callback):
    """Which layers moved in each epoch."""

    def on_train_begin(self, logs=None):
        self.moved = []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self.values()

    def on_epoch_end(self, epoch, logs=None):
        after = self.values()
        self.moved.append(
            [
                name
                for name in after
                if not np.array_equal(after[name], self.before[name])
            ]
        )

    def values(self):
        return {
            layer.name: keras.ops.convert_to_numpy(layer.kernel).copy()
            for layer in self.model.layers
            if layer.weights
        }


def moved(callback, epochs=6):
    watch = Watch()
    network().fit(
        *data(),
        epochs=epochs,
        batch_size=8,
        callbacks=[callback, watch],
        verbose=0,
    )
    return watch.moved


HEAD = ["head_predictions"]
TWO = ["upper", *HEAD]
ALL = ["lower", *TWO]


@pytest.mark.backends
def test_gradual_unfreezing():
    assert moved(ft.GradualUnfreeze(every=2)) == [HEAD] * 2 + [TWO] * 2 + (
        [ALL] * 2
    )
    assert moved(ft.GradualUnfreeze(start=2, stop=2), 3) == [TWO] * 3


@pytest.mark.backends
def test_a_plateau_unfreezes_one_more_group():
    class Metric(keras.callbacks.Callback):
        """Puts known values in the place of the loss."""

        losses = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0]

        def on_epoch_end(self, epoch, logs=None):
            logs["seen"] = self.losses[epoch]

    class Both(ft.UnfreezeOnPlateau):
        def on_epoch_end(self, epoch, logs=None):
            logs = {**logs, "seen": Metric.losses[epoch]}
            super().on_epoch_end(epoch, logs)

    callback = Both("seen", patience=2, mode="min")
    assert moved(callback) == [HEAD] * 4 + [TWO] * 2


@pytest.mark.backends
def test_your_own_decision_and_freezing_again():
    class Swap(ft.UnfreezeCallback):
        def groups_to_train(self, epoch, logs=None):
            return ["lower", "upper", "lower"][epoch]

    assert moved(Swap(), 3) == [["lower"], ["upper"], ["lower"]]


@pytest.mark.backends
def test_moments_of_what_goes_on_are_kept():
    class Slots(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            optimizer = self.model.optimizer
            if epoch == 2:
                self.at_change = {
                    v.path: keras.ops.convert_to_numpy(v).copy()
                    for v in optimizer.variables
                }

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.before = {
                    v.path: keras.ops.convert_to_numpy(v).copy()
                    for v in self.model.optimizer.variables
                }

    slots = Slots()
    network().fit(
        *data(),
        epochs=3,
        callbacks=[ft.GradualUnfreeze(every=2), slots],
        verbose=0,
    )
    assert len(slots.before) < len(slots.at_change)
    for path, value in slots.before.items():
        np.testing.assert_array_equal(value, slots.at_change[path])


def test_bad_arguments():
    with pytest.raises(ValueError, match="every"):
        ft.GradualUnfreeze(every=0)
    with pytest.raises(ValueError, match="stop"):
        ft.GradualUnfreeze(start=3, stop=2)
    with pytest.raises(ValueError, match="monitor='seen'"):
        moved(ft.UnfreezeOnPlateau("seen", mode="max"), epochs=2)
    with pytest.raises(ValueError, match="mode"):
        moved(ft.UnfreezeOnPlateau("seen"))
    with pytest.raises(ValueError, match="mode='up'"):
        moved(ft.UnfreezeOnPlateau(mode="up"))
    with pytest.warns(UserWarning, match="monitor='val_loss'"):
        moved(ft.UnfreezeOnPlateau(), epochs=2)
    with pytest.raises(RuntimeError, match="overridden"):
        moved(ft.UnfreezeCallback())


def test_a_count_may_be_of_numpy():
    assert moved(ft.GradualUnfreeze(every=np.int64(2)), 3) == [HEAD] * 2 + [TWO]


def test_a_plateau_skips_epochs_without_validation():
    model, x_y = network(), data()
    callback = ft.UnfreezeOnPlateau(patience=1, min_delta=100.0)
    counts = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: counts.append(callback._count)
    )
    model.fit(
        *x_y,
        validation_data=x_y,
        validation_freq=2,
        epochs=5,
        callbacks=[callback, watch],
        verbose=0,
    )
    assert counts == [1, 1, 1, 1, 2]


def test_regularisers_of_new_weights_are_no_setback():
    keras.utils.set_random_seed(2)
    strong = keras.regularizers.L2(10.0)
    x = inputs = keras.Input((5,))
    for name in ("lower", "upper"):
        x = layers.Dense(
            6, activation="tanh", kernel_regularizer=strong, name=name
        )(x)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    metric = keras.metrics.SparseCategoricalCrossentropy(name="bare")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])
    callback = ft.UnfreezeOnPlateau(patience=1, start=1, min_delta=100.0)
    seen = []

    class See(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            bare = logs["val_loss"] - callback._penalty
            seen.append((logs["val_loss"], bare, logs["val_bare"]))

    model.fit(
        *data(),
        validation_data=data(),
        epochs=4,
        callbacks=[callback, See()],
        verbose=0,
    )
    assert seen[3][0] > seen[0][0] + 1
    for _, bare, expected in seen:
        assert bare == pytest.approx(expected, abs=1e-3)
