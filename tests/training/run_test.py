import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize

pytestmark = pytest.mark.usefixtures("op_by_op")
layers = keras.layers
HEAD = ft.Phase("head", epochs=3, learning_rate=0.05)
ALL = ft.Phase("all", epochs=3, learning_rate=0.01)


def network(optimizer="sgd"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, "tanh", name="body"),
            layers.Dense(3, "softmax", name="head"),
        ]
    )
    randomize(model)
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def data(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 40)
    return (rng.normal(size=(40, 8)) + y[:, None]).astype("float32"), y


def run(*phases, model=None, **fit):
    model = model or network()
    options = {"batch_size": 16, "verbose": 0, **fit}
    validation = options.pop("validation", data(1))
    plan = ft.Plan(list(phases))
    return model, ft.fine_tune(model, plan, data(), validation, **options)


# === Callbacks ===


@pytest.mark.backends("memory")
@pytest.mark.parametrize("cache", ["off", "memory"])
def test_early_stopping_of_keras_ends_the_run(cache):
    stop = keras.callbacks.EarlyStopping(patience=1, min_delta=10.0)
    _, history = run(HEAD, ALL, callbacks=[stop], cache=cache)
    assert len(history.epochs) == 2
    assert [phase["stopped"] for phase in history.phases] == [True]


@pytest.mark.backends("off")
@pytest.mark.parametrize("cache", ["off", "memory"])
def test_a_callback_stops_within_an_epoch(cache):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.stop_training = True

    model, history = run(HEAD, ALL, callbacks=[Stop()], cache=cache)
    assert int(model.optimizer.iterations) == 2
    assert len(history.epochs) == 1


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_a_plateau_of_one_phase_is_no_stop_of_the_run(cache):
    waiting = ft.Phase("head", epochs=9, learning_rate=1e-5, patience=1)
    slow = ft.Phase("all", epochs=2, learning_rate=1e-5)
    _, history = run(waiting, slow, cache=cache, monitor="val_accuracy")
    assert [phase["stopped"] for phase in history.phases] == [True, False]
    assert history.epochs[-1]["phase"] == 1


def test_a_callback_may_lower_the_rate_of_a_phase():
    lower = keras.callbacks.ReduceLROnPlateau(
        factor=0.5, patience=1, min_delta=10.0
    )
    _, history = run(HEAD, ALL, callbacks=[lower])
    rates = history.history["learning_rate"]
    np.testing.assert_allclose(rates[:3], [0.05, 0.025, 0.0125])
    # The next phase has a rate of its own again.
    assert rates[3] == pytest.approx(0.005)


class Witness(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.events = []

    def on_train_begin(self, logs=None):
        self.events.append("begin")
        assert self.params["epochs"] == 6

    def on_train_end(self, logs=None):
        self.events.append("end")

    def on_epoch_end(self, epoch, logs=None):
        self.events.append(epoch)
        logs["val_own"] = abs(epoch - 4.0)


@pytest.mark.parametrize("folder", [False, True])
def test_for_callbacks_a_run_is_one_fit(tmp_path, folder):
    witness = Witness()
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    _, history = run(
        HEAD, ALL, callbacks=[witness, log], monitor="val_own", mode="min",
        checkpoint_dir=tmp_path / "run" if folder else None,
    )  # fmt: skip
    assert witness.events == ["begin", *range(6), "end"]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 7
    assert history.best_epoch == 4  # by what the callback put in


def test_moving_averages_are_judged_and_kept_if_they_are_swapped_in():
    optimizer = keras.optimizers.SGD(use_ema=True, ema_momentum=0.9)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model, history = run(HEAD, model=network(optimizer), callbacks=[swap])
    logs = model.evaluate(*data(1), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(history.best_value, rel=1e-5)
    plain = keras.optimizers.SGD()
    other, _ = run(HEAD, model=network(plain))
    assert np.abs(model.get_weights()[2] - other.get_weights()[2]).max() > 1e-3


def test_what_keeps_fit_from_running_is_told():
    class Elsewhere(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model._initial_epoch = 9  # as `BackupAndRestore` does

    with pytest.raises(RuntimeError, match="none of the epochs from 1"):
        run(ALL, callbacks=[Elsewhere()], cache="off")


@pytest.mark.needs("3.10")
def test_the_limit_of_epochs_of_keras_holds():
    keras.config.set_max_epochs(2)
    try:
        _, history = run(HEAD, ALL)
    finally:
        keras.config.set_max_epochs(None)
    assert len(history.epochs) == 2


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.backends("memory")
@pytest.mark.parametrize("cache", ["off", "memory"])
def test_an_interrupted_run_leaves_its_best_weights(cache):
    model = network()
    with pytest.raises(KeyboardInterrupt) as caught:
        run(HEAD, ALL, model=model, callbacks=[Interrupt(4)], cache=cache)
    history = caught.value.history
    assert len(history.epochs) == 4
    logs = model.evaluate(*data(1), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(history.best_value, rel=1e-5)


# === Resume ===


@pytest.mark.backends
def test_an_interrupted_run_goes_on(tmp_path):
    whole, _ = run(
        HEAD, ALL, model=network("adam"), checkpoint_dir=tmp_path / "a"
    )
    model, folder = network("adam"), tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        run(
            HEAD, ALL, model=model, callbacks=[Interrupt(3)],
            checkpoint_dir=folder,
        )  # fmt: skip
    # The same object has the flags and the slots of the second phase.
    model, history = run(HEAD, ALL, model=model, checkpoint_dir=folder)
    assert len(history.ledger) == 2
    assert [epoch["phase"] for epoch in history.epochs] == [0, 0, 0, 1, 1, 1]
    for a, b in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_phase_with_patience_goes_on_from_its_last_epoch(tmp_path):
    """And not from the best one, as a phase that is over."""

    class Judge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = [1.0, 2.0, 0.0, 3.0][epoch]

    phase = ft.Phase("all", epochs=4, learning_rate=0.05, patience=4)

    def weights(folder, *stops):
        for stop in stops:
            model, _ = run(
                phase, checkpoint_dir=folder, stop_after=stop,
                callbacks=[Judge()],
            )  # fmt: skip
        return model.get_weights()

    whole = weights(tmp_path / "whole", 4)
    for a, b in zip(whole, weights(tmp_path / "b", 2, 4), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_the_ledger_has_each_phase_once(tmp_path, stop):
    run(HEAD, ALL, checkpoint_dir=tmp_path, stop_after=stop)
    _, history = run(HEAD, ALL, checkpoint_dir=tmp_path)
    trained = [
        {name: row["trained"] for name, row in entry.items()}
        for entry in history.ledger
    ]
    assert trained == [
        {"body": False, "head": True},
        {"body": True, "head": True},
    ]
    _, again = run(HEAD, ALL, checkpoint_dir=tmp_path)
    assert again.ledger == history.ledger


def test_another_run_is_refused(tmp_path):
    run(HEAD, checkpoint_dir=tmp_path, stop_after=1)
    with pytest.raises(ValueError, match="monitor.0. was .* is 'val_accuracy'"):
        run(HEAD, checkpoint_dir=tmp_path, monitor="val_accuracy")
    with pytest.raises(ValueError, match="class was 'SGD' and is 'Adam'"):
        run(HEAD, model=network("adam"), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="validation.x was"):
        run(HEAD, validation=data(2), checkpoint_dir=tmp_path)
    x, y = data()
    plan = ft.Plan([HEAD])
    with pytest.raises(ValueError, match="train.x was"):
        ft.fine_tune(
            network(), plan, (x + 1, y), data(1), checkpoint_dir=tmp_path,
            batch_size=8, verbose=0,
        )  # fmt: skip


def test_a_schedule_of_the_own_rate_begins_with_it(tmp_path):
    own = ft.Phase("all", epochs=4, schedule="cosine")
    model = network(keras.optimizers.SGD(0.1))
    _, first = run(own, model=model)
    _, second = run(own, model=model)
    rates = first.history["learning_rate"]
    assert 0.09 < rates[0] < 0.1 and rates[-1] < 0.01
    assert second.history["learning_rate"] == rates
    model = network(keras.optimizers.SGD(0.1))
    run(own, model=model, checkpoint_dir=tmp_path, stop_after=2)
    _, resumed = run(own, model=model, checkpoint_dir=tmp_path)
    np.testing.assert_allclose(resumed.history["learning_rate"], rates)


@pytest.mark.backends
def test_a_warm_up_is_in_the_steps():
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, use_bias=False, name="head")]
    )
    # The gradient is 1 in each step, so that the weight sinks by the rates.
    model.compile("sgd", loss=lambda y, output: output)
    model.set_weights([np.array([[2.0]])])
    phase = ft.Phase("all", 5, 0.1, schedule="linear", warmup_fraction=0.2)
    ones = np.ones((8, 1))
    ft.fine_tune(model, ft.Plan([phase]), (ones, ones), batch_size=4, verbose=0)
    rates = [1 / 3, 2 / 3, *(1 - i / 8 for i in range(8))]
    np.testing.assert_allclose(
        model.get_weights()[0][0, 0], 2 - 0.1 * sum(rates), rtol=1e-5
    )


# === What a phase has of its own ===


def moved(**options):
    """How the weights of the network move in one step of SGD."""
    model = network()
    before = model.get_weights()
    phase = ft.Phase("all", learning_rate=0.1, **options)
    run(phase, model=model, validation=None, batch_size=40)
    pairs = zip(model.get_weights(), before, strict=True)
    return [after - value for after, value in pairs], before, model


@pytest.mark.backends
def test_rates_by_group_and_weight_decay():
    (kernel, bias, *head), start, _ = moved()
    some, *_ = moved(multipliers={"body": 0.25})
    for a, b in zip(some, [kernel / 4, bias / 4, *head], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7)
    decayed, _, model = moved(weight_decay=0.5)
    np.testing.assert_allclose(
        decayed[0], kernel - 0.05 * start[0], rtol=2e-3, atol=1e-5
    )
    np.testing.assert_allclose(decayed[1], bias, rtol=2e-4, atol=1e-7)
    # The optimizer, and what it would trace from now on, have none again.
    assert model.optimizer.weight_decay is None


MOMENTUM = keras.optimizers.SGD(0.05, momentum=0.9)
OWN = ft.Phase("all", epochs=3, optimizer=MOMENTUM)


@pytest.mark.backends
def test_an_optimizer_of_its_own_is_that_of_a_new_compile():
    model, history = run(HEAD, OWN, model=network("adam"), validation=None)
    other, _ = run(HEAD, model=network("adam"), validation=None)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert int(model.optimizer.iterations) == int(other.optimizer.iterations)
    other.get_layer("body").trainable = True
    other.compile(keras.optimizers.SGD(0.05, momentum=0.9), other.loss)
    own = ft.Phase("all", epochs=3, learning_rate=0.05)
    run(own, model=other, validation=None)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(history.history["learning_rate"][3:], 0.05)
    assert "Phase 2 (all): optimizer SGD" in str(history)
    # The model goes on training with its own.
    model.fit(*data(), verbose=0)


@pytest.mark.backends
def test_a_run_stopped_under_its_own_optimizer_goes_on(tmp_path):
    last = ft.Phase(
        "all", 2, schedule="linear", warmup_fraction=0.3, weight_decay=0.1
    )
    whole, first = run(
        HEAD, OWN, last, model=network("adam"), checkpoint_dir=tmp_path / "a"
    )
    for stop in (2, 5, 7, None):
        model = network("adam")  # as if in a new process
        if stop != 2:
            # The seed is in the folder: later ones play no part.
            keras.utils.set_random_seed(9)
        fit = {"checkpoint_dir": tmp_path / "b", "stop_after": stop}
        _, second = run(HEAD, OWN, last, model=model, **fit)
    assert [row["val_loss"] for row in first.epochs] == [
        row["val_loss"] for row in second.epochs
    ]
    for a, b in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("restored", [None, True])
def test_a_phase_may_end_with_its_best_epoch(restored):
    wild = ft.Phase(
        "head", epochs=4, learning_rate=3.0, restore_best_weights=restored
    )
    still = ft.Phase("all", learning_rate=1e-5)
    _, history = run(wild, still)
    losses = history.history["val_loss"]
    assert min(losses[:4]) < losses[3] * 0.95
    kept = min(losses[:4]) if restored else losses[3]
    np.testing.assert_allclose(losses[4], kept, rtol=1e-3)
    words = f"Phase 1 (head): ended as after epoch {1 + np.argmin(losses[:4])}"
    assert (words in str(history)) == bool(restored)
    with pytest.raises(ValueError, match="`restore_best_weights`"):
        run(ft.Phase("all", restore_best_weights=True), validation=None)


def test_a_solved_head_is_kept_with_a_training_metric_too():
    model = network()
    start = model.get_layer("head").get_weights()
    waiting = ft.Phase("head", epochs=3, learning_rate=0.05, patience=1)
    plan = ft.Plan([waiting], head_initializer="auto")
    ft.fine_tune(
        model, plan, data(), data(1), monitor="loss", batch_size=8, verbose=0
    )
    after = model.get_layer("head").get_weights()
    assert np.abs(after[0] - start[0]).max() > 0.01
