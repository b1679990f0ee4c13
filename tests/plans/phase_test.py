import json
import math
import re

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.plans.phase import Phase
from finetune_keras.plans.schedules import OneCycle

layers = keras.layers


def block(x, name, units):
    y = layers.Dense(units, name=f"{name}_a")(x)
    y = layers.BatchNormalization(name=f"{name}_norm")(y)
    y = layers.ReLU(name=f"{name}_relu")(y)
    y = layers.Dense(units, name=f"{name}_b")(y)
    return layers.Add(name=f"{name}_add")([x, y])


def backbone():
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="stem_dense")(inputs)
    for number in (1, 2, 3):
        x = block(x, f"block{number}", 6)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def model():
    return ft.replace_head(backbone(), 3, hidden_units=(5,), batch_norm=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layers": -1}, "at least 0"),
        ({"layers": True}, "must be a string"),
        ({"layers": 1.0}, "must be a string"),
        ({"layers": ""}, "must be a string"),
        ({"layers": []}, "must be a string"),
        ({"layers": ["head", 2]}, "list of strings"),
        ({"layers": layers.Dense(2, name="logits")}, "name is 'logits'"),
        ({"layers": re.compile("conv.*")}, "name is 'conv.*'"),
        ({"layers": layers.Dense}, "no objects or functions"),
        ({"layers": lambda layer: True}, "no objects or functions"),
        ({"epochs": 0}, "`epochs` must be an integer of at least 1"),
        ({"epochs": 2.0}, "epochs=2.0"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs": None}, "epochs=None"),
        ({"learning_rate": 0}, "positive float"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3'"),
        ({"patience": 0}, "`patience` must be an integer of at least 1"),
        ({"layerwise_lr_decay": 0}, "over 0 and at most 1"),
        ({"layerwise_lr_decay": 1.1}, "layerwise_lr_decay=1.1"),
        ({"batch_norm": "freeze"}, "Did you mean 'frozen'"),
        ({"batch_norm": None}, "batch_norm=None"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"warmup_fraction": 1.0}, "less than 1"),
        ({"warmup_fraction": "1e-1"}, "warmup_fraction='1e-1'"),
        ({"multipliers": {"stem": 0}}, "to positive floats"),
        ({"multipliers": {}}, "to positive floats"),
        ({"weight_decay": -0.1}, "at least 0"),
        ({"optimizer": "sdg"}, "name of a Keras optimizer"),
        ({"optimizer": keras.optimizers.SGD}, "name of a Keras optimizer"),
        ({"optimizer": {"class_name": "sdg"}}, "name of a Keras optimizer"),
        (
            {
                "optimizer": {
                    "module": "os",
                    "class_name": "system",
                    "config": {"command": "echo"},
                }
            },
            "name of a Keras optimizer",
        ),
        ({"optimizer": {"config": {}}}, "name of a Keras optimizer"),
        (
            {
                "optimizer": keras.optimizers.SGD(
                    keras.optimizers.schedules.CosineDecay(0.1, 10)
                )
            },
            "with a number as its learning rate",
        ),
        ({"restore_best_weights": 1}, "one of [None, True, False]"),
    ],
)
def test_phase_refuses_what_is_no_plain_and_sound_value(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Phase(**{"layers": "head", **arguments})
    name = next(iter(arguments))
    assert f"Received: {name}=" in str(caught.value)


def test_numbers_of_numpy_become_plain():
    phase = Phase(
        np.int64(2), epochs=np.int32(3), learning_rate=np.float32(0.1)
    )
    assert phase.layers == 2 and phase.epochs == 3
    assert json.loads(json.dumps(phase.to_dict())) == phase.to_dict()
    assert phase.learning_rate == float(np.float32(0.1))


def test_a_phase_does_not_share_its_list():
    names = ["head", "stem"]
    phase = Phase(names)
    names.append("block1")
    phase.to_dict()["layers"].append("block1")
    assert phase.layers == ["head", "stem"]


@pytest.mark.parametrize(
    "spec, name",
    [
        ("head", "head"),
        ("all", "all"),
        (0, "head"),
        (1, "head + last 1 group"),
        (2, "head + last 2 groups"),
        (["block5", "block6"], "block5, block6"),
        (["a" * 20, "b" * 18], "a" * 20 + ", " + "b" * 18),
        (["a" * 20, "b" * 19], "a" * 20 + ", " + "b" * 15 + "..."),
    ],
)
def test_name(spec, name):
    assert Phase(spec).name == name


def names_of(layers):
    return [layer.name for layer in layers]


HEAD = ["head_dense_1", "head_norm_1", "head_predictions"]
BLOCK3 = ["block3_a", "block3_b"]


@pytest.mark.parametrize(
    "phase, expected",
    [
        (Phase("head"), HEAD),
        (Phase(0), HEAD),
        (Phase(1), BLOCK3 + HEAD),
        (
            Phase(1, batch_norm="train"),
            BLOCK3[:1] + ["block3_norm"] + BLOCK3[1:] + HEAD,
        ),
        (Phase(["head", "block3"]), BLOCK3 + HEAD),
        (Phase("block[13]_a"), ["block1_a", "block3_a"]),
        (Phase("block3_norm", batch_norm="train"), ["block3_norm"]),
    ],
)
def test_select(model, phase, expected):
    assert names_of(phase.select(ft.layer_groups(model))) == expected


def test_integers_count_groups(model):
    groups = ft.layer_groups(model)
    assert [group.name for group in groups][-1] == "head"
    for n in range(len(groups)):
        phase = Phase(n, batch_norm="train")
        expected = {x for group in groups[-n - 1 :] for x in group.layers}
        assert set(phase.select(ft.layer_groups(model))) == expected
    with pytest.raises(ValueError, match=f"layers={len(groups)}"):
        Phase(len(groups)).select(ft.layer_groups(model))
    headless = backbone()
    groups = ft.layer_groups(headless)
    assert groups[-1].name != "head"
    assert names_of(Phase(1).select(ft.layer_groups(headless))) == BLOCK3
    with pytest.raises(ValueError, match="layers=0"):
        Phase(0).select(ft.layer_groups(headless))


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize("spec", ["all", "head", "backbone", "block2", 2])
def test_select_is_what_unfreeze_sets(spec, batch_norm):
    model = ft.replace_head(backbone(), 3, hidden_units=(5,), batch_norm=True)
    phase = Phase(spec, batch_norm=batch_norm)
    chosen = phase.select(ft.layer_groups(model))
    ft.freeze(model)
    groups = ft.layer_groups(model)[-3:] if spec == 2 else spec
    ft.unfreeze(model, groups, batch_norm=batch_norm)
    trained = [x for x in ft.select_layers(model) if x.trainable and x.weights]
    assert chosen == trained


def test_rates_of_the_schedules():
    rates = [Phase("all", 4, 0.3).learning_rate_at(epoch) for epoch in range(4)]
    assert rates == [0.3] * 4
    phase = Phase("all", 4, 0.3, schedule="cosine")
    rates = [phase.learning_rate_at(epoch) for epoch in range(4)]
    expected = [0.3 * 0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    assert rates == pytest.approx(expected, rel=1e-6)
    assert rates[0] == 0.3
    assert phase.learning_rate_at(2.5) < rates[2]
    phase = Phase("all", 5, 0.3, schedule="linear", warmup_fraction=0.2)
    rates = [phase.learning_rate_at(epoch) for epoch in (0, 0.5, 1, 3, 4)]
    assert rates == pytest.approx([0, 0.15, 0.3, 0.15, 0.075])
    for epochs in (1, 2, 5, 20):
        phase = Phase("all", epochs, 0.3, schedule="one_cycle")
        # Two steps an epoch: step 2 e + 1 is the middle of epoch e.
        cycle = OneCycle(0.3, total_steps=2 * epochs)
        for step in range(2 * epochs):
            rate = phase.learning_rate_at(step / 2)
            assert rate == pytest.approx(float(cycle(step)), rel=1e-4)


def test_rates_need_a_rate_and_an_epoch_of_the_phase():
    phase = Phase("all", 4, schedule="cosine")
    assert phase.learning_rate_at(2, learning_rate=0.2) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no learning rate of its own"):
        phase.learning_rate_at(0)
    assert Phase("all").learning_rate_at(0) is None
    assert Phase("all").learning_rate_at(0, learning_rate=0.2) == 0.2
    with pytest.raises(ValueError, match="learning_rate='fast'"):
        phase.learning_rate_at(0, learning_rate="fast")
    # The phase's own rate wins.
    assert Phase("all", 1, 0.3).learning_rate_at(0, learning_rate=0.2) == 0.3
    for epoch in (-1, 4):
        with pytest.raises(ValueError, match=f"epoch={epoch}"):
            phase.learning_rate_at(epoch, learning_rate=0.2)
