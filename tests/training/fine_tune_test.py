
import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.training.best import Best

pytestmark = pytest.mark.usefixtures("op_by_op")
layers = keras.layers


def network(dropout=0.0, optimizer="sgd"):
    keras.utils.set_random_seed(11)
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for i in range(3):
        x = layers.Conv2D(6, 3, padding="same", name=f"block{i}_conv")(x)
        x = layers.BatchNormalization(name=f"block{i}_norm")(x)
        x = layers.ReLU(name=f"block{i}_relu")(x)
    model = ft.replace_head(keras.Model(inputs, x), 3, dropout=dropout)
    if optimizer:
        model.compile(
            optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
    return model


def photos(seed=0, number=48):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, size=number)
    x = rng.normal(size=(number, 8, 8, 3)) + 2 * y[:, None, None, None]
    return x.astype("float32"), y


def values(model):
    return [keras.ops.convert_to_numpy(v).copy() for v in model.weights]


def assert_close(a, b, **tolerance):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


PLAN = [
    ft.Phase("head", epochs=2, learning_rate=0.1),
    ft.Phase(1, epochs=2, learning_rate=0.05),
    ft.Phase("all", epochs=1, learning_rate=0.01),
]


@pytest.mark.backends
@pytest.mark.traced
def test_a_plan_is_the_same_training_written_by_hand():
    # In order: compiling again makes `fit` draw once more on jax and torch.
    train = photos()
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model = network()
    history = ft.fine_tune(model, ft.Plan(PLAN), train, cache="off", **options)

    hand = network()
    ft.freeze(hand)
    for groups, epochs, rate in ((-1, 2, 0.1), (-2, 2, 0.05), (-9, 1, 0.01)):
        ft.unfreeze(hand, ft.layer_groups(hand)[groups:])
        hand.compile(
            keras.optimizers.SGD(rate), "sparse_categorical_crossentropy"
        )
        hand.fit(*train, epochs=epochs, **options)
    assert_close(values(model), values(hand), atol=1e-6)
    assert [row["phase"] for row in history.epochs] == [0, 0, 1, 1, 2]
    rates = [row["learning_rate"] for row in history.epochs]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.05, 0.01])


@pytest.mark.backends("adam")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_cache_changes_nothing(optimizer):
    results = []
    for cache in ("off", "memory"):
        model = network(dropout=0.3, optimizer=optimizer)
        keras.utils.set_random_seed(5)
        history = ft.fine_tune(
            model,
            ft.Plan(PLAN[:2]),
            photos(),
            photos(1, 20),
            cache=cache,
            verbose=0,
            batch_size=16,
        )
        results.append((values(model), history))
    (plain, plain_history), (cached, cached_history) = results
    assert "memory" in cached_history.phases[0]["cache"]
    assert "memory" in cached_history.phases[1]["cache"]
    assert "switched off" in plain_history.phases[0]["cache"]
    assert_close(plain, cached, atol=1e-5)
    for name in ("loss", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(
            plain_history.history[name],
            cached_history.history[name],
            rtol=1e-4,
        )


@pytest.mark.backends
def test_the_model_ends_with_the_weights_of_its_best_epoch():
    model = network()
    validation = photos(1, 30)
    plan = ft.Plan(
        [
            ft.Phase("head", epochs=3, learning_rate=0.1),
            ft.Phase("all", epochs=3, learning_rate=0.9),
        ]
    )
    with pytest.warns(UserWarning, match="rate"):
        history = ft.fine_tune(
            model, plan, photos(), validation, verbose=0, batch_size=16
        )
    losses = history.history["val_loss"]
    assert history.best_value == min(losses)
    assert history.best_epoch == int(np.argmin(losses))
    loss, _ = model.evaluate(*validation, verbose=0)
    np.testing.assert_allclose(loss, history.best_value, rtol=1e-5)


def test_a_plateau_moves_the_plan_on():
    model = network()
    plan = ft.Plan(
        [
            # The rate is so small that the accuracy cannot change.
            ft.Phase("head", epochs=9, learning_rate=1e-9, patience=2),
            ft.Phase("all", epochs=2, learning_rate=1e-10),
        ]
    )
    history = ft.fine_tune(
        model,
        plan,
        photos(),
        photos(1, 30),
        monitor="val_accuracy",
        verbose=0,
    )
    assert [row["phase"] for row in history.epochs] == [0, 0, 0, 1, 1]
    assert [phase["stopped"] for phase in history.phases] == [True, False]


@pytest.mark.backends
def test_ledger_tells_what_moved():
    model = network()
    history = ft.fine_tune(model, ft.Plan(PLAN), photos(), verbose=0)
    trained = [
        [name for name, entry in ledger.items() if entry["trained"]]
        for ledger in history.ledger
    ]
    assert trained == [
        ["head"],
        ["block2", "head"],
        ["block0", "block1", "block2", "head"],
    ]
    for ledger in history.ledger:
        for entry in ledger.values():
            assert (entry["change"] > 0) == entry["trained"]


@pytest.mark.backends
def test_audit_catches_what_moves_a_frozen_weight():
    class Meddler(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = self.model.get_layer("block0_conv").kernel
            kernel.assign_add(np.full(kernel.shape, 1e-3, "float32"))

    with pytest.raises(RuntimeError, match="block0_conv/kernel.*moved"):
        ft.fine_tune(
            network(),
            ft.Plan(PLAN[:1]),
            photos(),
            callbacks=[Meddler()],
            verbose=0,
        )


def test_audit_catches_an_idle_group():
    model = network()
    model.get_layer("block2_norm").gamma.assign(np.zeros(6))
    model.get_layer("block2_norm").beta.assign(np.full(6, -1.0))
    with pytest.warns(UserWarning, match="block2: not moved"):
        history = ft.fine_tune(
            model, ft.Plan(PLAN[1:2]), photos(), photos(), verbose=0
        )
    assert len(history.epochs) == PLAN[1].epochs
    logs = model.evaluate(*photos(), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(history.best_value, rel=1e-5)


@pytest.mark.backends
def test_a_loss_that_explodes_leaves_the_best_weights():
    model = network()
    x, y = photos()
    weight = np.ones(len(y), "float32")
    start = values(model)
    bad = weight.copy()
    bad[20] = np.nan
    place = "epoch 1, step.*'head'.*0.1"
    with pytest.raises(FloatingPointError, match=place) as caught:
        ft.fine_tune(model, ft.Plan(PLAN[:1]), (x, y, bad), verbose=0)
    assert_close(values(model), start, atol=0)
    assert caught.value.history.phases[0]["name"] == "head"


@pytest.mark.backends
def test_an_uncompiled_model_is_compiled_for_its_head():
    model = network(optimizer=None)
    ft.fine_tune(model, ft.Plan(PLAN[:1]), photos(), verbose=0)
    assert model.loss == "sparse_categorical_crossentropy"
    labels = ft.replace_head(network(), 3, task="multi_label")
    x, y = photos()
    ft.fine_tune(labels, ft.Plan(PLAN[:1]), (x, np.eye(3)[y]), verbose=0)
    assert labels.loss == "binary_crossentropy"


@pytest.mark.backends
def test_decay_by_depth_moves_lower_groups_less():
    model = network(optimizer=keras.optimizers.Adam())
    plan = ft.Plan(
        [ft.Phase("all", learning_rate=1e-2, layerwise_lr_decay=0.1)]
    )
    paths = [v.path for v in model.weights]
    before = dict(zip(paths, values(model), strict=True))
    ft.fine_tune(model, plan, photos(number=16), verbose=0, batch_size=16)
    moved = {
        v.path: np.abs(keras.ops.convert_to_numpy(v) - before[v.path]).max()
        for v in model.trainable_variables
    }
    assert moved["head_predictions/kernel"] == pytest.approx(1e-2, rel=0.01)
    assert moved["block2_conv/kernel"] == pytest.approx(1e-3, rel=0.01)
    assert moved["block0_conv/kernel"] == pytest.approx(1e-5, rel=0.01)


def test_random_layers_below_the_cut_need_views():
    inputs = keras.Input((8, 8, 3))
    x = layers.GaussianNoise(0.5)(inputs)
    body = network()
    ft.freeze(body)
    outputs = ft.remove_head(body)(x)
    model = ft.replace_head(keras.Model(inputs, outputs), 3)
    plan = ft.Plan(PLAN[:1])
    history = ft.fine_tune(model, plan, photos(), verbose=0)
    assert "random layers" in history.phases[0]["cache"]
    history = ft.fine_tune(
        model, plan, photos(), photos(1), cache={"views": 2}, verbose=0
    )
    assert "2 views" in history.phases[0]["cache"]
    assert len(history.epochs) == 2


@pytest.mark.backends("ridge")
@pytest.mark.parametrize("start", ["ridge", "lda"])
def test_head_initializer_is_ahead_of_training(start):
    model = network()
    phase = ft.Phase("head", learning_rate=1e-5)
    plan = ft.Plan([phase], head_initializer=start)
    history = ft.fine_tune(model, plan, photos(), photos(1, 60), verbose=0)
    assert history.history["val_accuracy"][0] > 0.8
    hidden = ft.replace_head(network(), 3, hidden_units=(4,))
    with pytest.raises(ValueError, match="hidden_units"):
        ft.fine_tune(hidden, plan, photos(), verbose=0)


@pytest.mark.backends
def test_a_head_solved_in_closed_form_needs_no_phase():
    plan = ft.plans.linear_probe_then_full(epochs=2)
    model = network(optimizer="adam")
    history = ft.fine_tune(model, plan, photos(), photos(1, 60), verbose=0)
    first = history.phases[0]
    assert "strength" in first["head_initializer"]
    assert first["solved"]["val_accuracy"] > 0.8
    assert [row["phase"] for row in history.epochs] == [1, 1]
    assert history.ledger[0]["head"]["change"] > 0
    assert history.ledger[0]["block0"]["change"] == 0


def test_the_solved_head_competes_with_the_epochs():
    phases = [
        ft.Phase("head", learning_rate=3.0),
        ft.Phase("all", epochs=2, learning_rate=3.0),
    ]
    plan = ft.Plan(phases, head_initializer="auto")
    model = network()
    history = ft.fine_tune(model, plan, photos(), photos(1, 60), verbose=0)
    assert history.best_epoch == -1
    loss = model.evaluate(*photos(1, 60), verbose=0)[0]
    assert loss == pytest.approx(history.phases[0]["solved"]["val_loss"])


def test_where_there_is_no_closed_form_the_phase_trains():
    plan = ft.plans.linear_probe_then_full(2, 1)
    hidden = ft.replace_head(network(), 3, hidden_units=(4,))
    history = ft.fine_tune(hidden, plan, photos(), verbose=0)
    assert "single dense" in history.phases[0]["head_initializer"]
    assert [row["phase"] for row in history.epochs] == [0, 0, 1]
    x, y = photos()
    focal = network()
    focal.compile("sgd", keras.losses.CategoricalFocalCrossentropy())
    history = ft.fine_tune(focal, plan, (x, np.eye(3)[y]), verbose=0)
    assert "cross-entropy" in history.phases[0]["head_initializer"]
    assert len(history.epochs) == 3
    weighed = ft.replace_head(network(), 3, kernel_regularizer="l2")
    history = ft.fine_tune(weighed, plan, (x, y), verbose=0)
    assert "regularizer" in history.phases[0]["head_initializer"]
    assert len(history.epochs) == 3


x, y = photos()


@pytest.mark.parametrize(
    "train, validation, message",
    [
        ((x,), None, "labels"),
        ((x, y), (x,), "validation.*labels"),
        ((x[:0], y[:0]), None, "empty"),
        ((x, y[:-1]), None, "one length"),
        ((x, y + 1), None, "3 outputs"),
        ((x, y), (x, y + 5), "validation.*3 outputs"),
        ((b for b in [(x, y)]), None, "generator"),
        (7, None, "tuple of arrays"),
    ],
)
def test_bad_data_is_met_at_the_door(train, validation, message):
    model = network()
    before = values(model)
    with pytest.raises(ValueError, match=message):
        ft.fine_tune(model, ft.Plan(PLAN), train, validation, verbose=0)
    assert_close(before, values(model), atol=0)


def test_bad_arguments_are_met_at_the_door():
    with pytest.raises(ValueError, match="cache"):
        ft.fine_tune(network(), ft.Plan(PLAN), (x, y), cache="ram")
    waiting = ft.Plan([ft.Phase("head", patience=2)])
    with pytest.raises(ValueError, match="validation"):
        ft.fine_tune(network(), waiting, (x, y))
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    scheduled = network(optimizer=keras.optimizers.SGD(schedule))
    with pytest.raises(ValueError, match="schedule"):
        ft.fine_tune(scheduled, ft.Plan(PLAN), (x, y))


def test_quiet_and_one_line_an_epoch(capsys):
    ft.fine_tune(network(), ft.Plan(PLAN[:1]), photos(), verbose=0)
    assert capsys.readouterr().out == ""
    ft.fine_tune(network(), ft.Plan(PLAN[:1]), photos(), verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "Phase 1/1 [head]" in lines[0]
    assert lines[2].startswith("Epoch 2/2 [head]")


def test_history_draws_and_prints():
    pytest.importorskip("matplotlib", reason="needs finetune_keras[plots]")
    history = ft.fine_tune(
        network(), ft.Plan(PLAN), photos(), photos(1), verbose=0
    )
    figure = history.plot()
    assert len(figure.axes) == 2
    assert len(figure.axes[0].lines) == 2 + 3
    assert "Best: epoch" in str(history)


@pytest.mark.filterwarnings("ignore:The monitored metric 'val_loss' is NaN")
def test_an_epoch_of_nan_does_not_hide_those_after_it():
    best = Best("val_loss", ft.layer_groups(network()))
    best.begin_phase(ft.Phase("all"))
    kept = []
    for epoch, value in enumerate((np.nan, 0.9, np.nan, 0.8, 0.85)):
        best.offer(epoch, value)
        kept.append(best.value)
    assert kept == [None, 0.9, 0.9, 0.8, 0.8]
