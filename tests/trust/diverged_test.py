"""Whatever ends a run, the model is left in its best state."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize

layers = keras.layers
HEAD, ALL = ft.Phase("head", 1, 1e-2), ft.Phase("all", 3, 1e-2)


def network(optimizer="adam", seed=1):
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh", name="body")(inputs)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))
    randomize(model)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def table(size=40):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)


def optimizer_state(model):
    return [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]


@pytest.mark.backends("averages")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(use_ema=True),
        lambda: keras.optimizers.SGD(momentum=0.9),
        lambda: keras.optimizers.Adagrad(),
    ],
    ids=["adam with averages", "momentum", "adagrad"],
)
def test_a_second_run_on_clean_data_works_after_the_first_diverged(optimizer):
    """As it would from a model that never saw the bad row."""
    x, y = table()
    bad = x.copy()
    bad[37] = np.inf
    losses = []
    for first in (bad, None):
        model = network(optimizer())
        if first is not None:
            with pytest.raises(FloatingPointError, match="lower rate"):
                ft.fine_tune(
                    model, ft.Plan([ALL]), (first, y), batch_size=8, verbose=0
                )
            assert all(np.isfinite(v).all() for v in optimizer_state(model))
        history = ft.fine_tune(
            model, ft.Plan([ft.Phase("all", 2, 1e-3)]), (x, y), batch_size=8,
            shuffle=False, verbose=0,
        )  # fmt: skip
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


class Raise(keras.callbacks.Callback):
    """Ends a run by an error, and keeps what the best epoch was."""

    def __init__(self, error, epoch, at="on_epoch_begin"):
        super().__init__()
        self.error, self.epoch = error, epoch
        setattr(self, at, self.step)
        self.states = {}

    def step(self, index, logs=None):
        if len(self.states) == self.epoch:
            raise self.error

    def on_epoch_end(self, epoch, logs=None):
        # The third epoch is the best of those that are over.
        logs["val_loss"] = abs(2 - epoch) + 1.0
        self.states[epoch] = self.model.get_weights()
        self.slots = getattr(self, "slots", {})
        self.slots[epoch] = optimizer_state(self.model)


class Broken(keras.utils.PyDataset):
    """Data that cannot be read any more once four epochs are over."""

    def __init__(self, data):
        super().__init__()
        self.data, self.epochs = data, 0

    def __len__(self):
        return 5

    def on_epoch_end(self):
        self.epochs += 1

    def __getitem__(self, index):
        if self.epochs == 5 and index == 2:
            raise OSError("the file is gone")
        return tuple(part[8 * index : 8 * index + 8] for part in self.data)


@pytest.mark.backends("exit")
@pytest.mark.parametrize(
    "error",
    [OSError("disk full"), SystemExit(3)],
    ids=["disk", "exit"],
)
def test_an_error_of_any_kind_leaves_the_best_state_and_the_history(error):
    model = network()
    end = Raise(error, 4, "on_train_batch_end")
    with pytest.raises(type(error)) as caught:
        ft.fine_tune(
            model, ft.Plan([HEAD, ft.Phase("all", 5, 1e-2)]), table(),
            table(16), batch_size=8, callbacks=[end], verbose=0,
        )  # fmt: skip
    history = caught.value.history
    assert len(history.epochs) == 4 and history.best_epoch == 2
    for a, b in zip(model.get_weights(), end.states[2], strict=True):
        np.testing.assert_array_equal(a, b)
    # The rate stands second, and is the plan's.
    for i, (a, b) in enumerate(
        zip(optimizer_state(model), end.slots[2], strict=True)
    ):
        np.testing.assert_array_equal(a, b, err_msg=str(i))


def test_data_that_fail_leave_the_best_state_and_the_history():
    model, watch = network(), Raise(None, -1)
    # TensorFlow makes an error of its own of it.
    with pytest.raises(Exception, match="the file is gone") as caught:
        ft.fine_tune(
            model, ft.Plan([ft.Phase("all", 6, 1e-2)]), Broken(table()),
            table(16), callbacks=[watch], verbose=0,
        )  # fmt: skip
    assert caught.value.history.best_epoch == 2
    assert len(caught.value.history.epochs) == 4
    for a, b in zip(model.get_weights(), watch.states[2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backends
def test_an_epoch_that_ends_on_weights_of_no_number_is_never_the_best():
    """The loss is finite until the last step, which overflows the weights."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1, name="head")(inputs))
    model.get_layer("head").kernel.assign([[0.5], [0.25]])
    model.compile(keras.optimizers.SGD(10.0), "mae")
    before = model.get_weights()
    x, y = np.zeros((8, 2), "float32"), np.zeros((8, 1), "float32")
    x[-1] = 3e38
    plan = ft.Plan([ft.Phase("head", 1)])
    for validation in (None, (x[:4], y[:4])):
        with pytest.raises(FloatingPointError, match="head/kernel.*epoch 1"):
            ft.fine_tune(
                model, plan, (x, y), validation, batch_size=1, shuffle=False,
                monitor=validation and "val_loss", verbose=0,
            )  # fmt: skip
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_metric_that_was_never_a_number_chooses_no_epoch():
    x, y = table()
    bad = x.copy()
    bad[3] = np.nan
    with pytest.warns(UserWarning, match="'val_loss' is NaN, so that no"):
        history = ft.fine_tune(
            network(), ft.Plan([ALL]), (x, y), (bad, y), verbose=0
        )
    assert history.best_epoch is None
