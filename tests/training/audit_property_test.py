"""Random plans on random small models: what is frozen is equal to the bit."""

import keras
import numpy as np
import pytest

import finetune_keras as ft

layers = keras.layers


def random_model(rng):
    inputs = x = keras.Input((6, 6, 2))
    for i in range(int(rng.integers(2, 5))):
        y = layers.Conv2D(4, 3, padding="same", name=f"block{i}_conv")(x)
        if rng.random() < 0.6:
            y = layers.BatchNormalization(name=f"block{i}_norm")(y)
        if rng.random() < 0.4 and x.shape == y.shape:
            y = layers.Add(name=f"block{i}_add")([x, y])
        # Smooth, so that no unit is dead and idle by chance.
        x = layers.Activation("tanh", name=f"block{i}_act")(y)
    hidden = (5,) if rng.random() < 0.5 else ()
    model = ft.replace_head(
        keras.Model(inputs, x),
        2,
        hidden_units=hidden,
        activation="tanh",
        dropout=float(rng.choice([0.0, 0.2])),
    )
    optimizer = str(rng.choice(["adam", "sgd", "rmsprop"]))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def random_plan(rng, groups):
    phases, before = [], None
    for _ in range(int(rng.integers(1, 4))):
        layers_ = int(rng.integers(0, len(groups)))
        if rng.random() < 0.4:
            chosen = rng.choice(len(groups), size=2, replace=False)
            layers_ = [groups[i].name for i in sorted(chosen)]
        if layers_ == before:
            continue
        before = layers_
        phases.append(
            ft.Phase(
                layers_,
                epochs=int(rng.integers(1, 3)),
                learning_rate=float(10.0 ** rng.uniform(-3, -2)),
                batch_norm=str(rng.choice(["frozen", "train"])),
            )
        )
    return ft.Plan(phases)


@pytest.mark.filterwarnings("ignore:.*rate.*:UserWarning")
@pytest.mark.parametrize("seed", range(6))
def test_the_audit_never_lies(seed):
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model = random_model(rng)
    groups = ft.layer_groups(model)
    plan = random_plan(rng, groups)
    x = rng.normal(size=(12, 6, 6, 2)).astype("float32")
    y = np.arange(12) % 2
    seen = []

    class Spy(keras.callbacks.Callback):
        """Takes its own copies, independent of the audit."""

        def on_epoch_begin(self, epoch, logs=None):
            seen.append([snapshot(model), None])

        def on_epoch_end(self, epoch, logs=None):
            seen[-1][1] = snapshot(model)

    history = ft.fine_tune(
        model, plan, (x, y), callbacks=[Spy()], verbose=0, batch_size=6
    )
    assert len(history.ledger) == len(plan)
    for row, (before, after) in zip(history.epochs, seen, strict=True):
        phase = plan[row["phase"]]
        trained = {id(layer) for layer in phase.select(ft.layer_groups(model))}
        for group in groups:
            entry = history.ledger[row["phase"]][group.name]
            moves = any(id(layer) in trained for layer in group.layers)
            assert entry["trained"] == moves
            for layer in group.layers:
                for variable in layer.weights:
                    same = np.array_equal(
                        before[id(variable)], after[id(variable)]
                    )
                    if id(layer) not in trained:
                        assert same, (variable.path, phase)
                    elif variable.name == "kernel":
                        assert not same, (variable.path, phase)


def snapshot(model):
    return {
        id(v): keras.ops.convert_to_numpy(v).copy() for v in model.weights
    }
