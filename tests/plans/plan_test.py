import json
import re
import warnings

import keras
import pytest

import finetune_keras as ft
from finetune_keras import plans
from finetune_keras.models.freezing import is_batch_norm
from finetune_keras.plans.phase import Phase
from finetune_keras.plans.plan import Plan

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


def example():
    return Plan(
        [
            Phase("head", epochs=5, learning_rate=1e-3),
            Phase(2, epochs=10, learning_rate=1e-4, patience=2),
            Phase(
                ["block1", r"block[23]_.*", "head"],
                epochs=20,
                learning_rate=3e-5 * 1.1,
                patience=3,
                layerwise_lr_decay=0.8,
                batch_norm="train",
                schedule="cosine",
                warmup_fraction=0.1,
                multipliers={"stem": 0.5},
                weight_decay=1e-4,
                optimizer=keras.optimizers.SGD(momentum=0.9),
                restore_best_weights=False,
            ),
        ],
        head_initializer="ridge",
    )


# === Plan as data ===


def test_sequence_equality_and_repr():
    plan = example()
    assert len(plan) == 3 and list(plan)[1] == plan[1]
    assert plan[-1].schedule == "cosine" and len(plan[1:]) == 2
    assert eval(repr(plan), {"Plan": Plan, "Phase": Phase}) == plan
    assert plan == example()
    assert plan != Plan(plan) and Plan(plan, "ridge") == plan
    assert plan != Plan(plan[:2], "ridge") and plan != "plan"
    for name, value in example()[2].to_dict().items():
        other = {**example()[2].to_dict(), name: Phase("all").to_dict()[name]}
        assert (Phase(**other) == plan[2]) is False, (name, value)
    assert repr(Phase("head")) == "Phase('head')"


@pytest.mark.parametrize(
    "phases", [[{"layers": "head"}], {"phases": []}, None, "head", 3]
)
def test_plan_refuses_what_is_no_phase(phases):
    with pytest.raises(ValueError, match="must be a list of `Phase`s"):
        Plan(phases)


def test_plan_refuses_an_unknown_head_initializer():
    with pytest.raises(ValueError, match="Did you mean 'ridge'"):
        Plan([Phase("head")], head_initializer="rigde")


def test_table():
    lines = str(Plan([*example()[:2], Phase(1), Phase(0)])).splitlines()
    assert lines == [
        "Plan: 4 phases, at most 17 epochs",
        "phase                trains  epochs  learning rate  schedule  "
        "decay  patience  batch norm",
        "-" * 89,
        "1                      head       5          0.001  constant  "
        "    -         -      frozen",
        "2      head + last 2 groups      10         0.0001  constant  "
        "    -         2      frozen",
        "3       head + last 1 group       1    as compiled  constant  "
        "    -         -      frozen",
        "4                      head       1    as compiled  constant  "
        "    -         -      frozen",
    ]
    assert "block1, block[23]_.*, head" in str(example())
    assert "35 epochs, head initializer: ridge" in str(example())
    assert str(Plan([Phase("all")])).startswith("Plan: 1 phase, at most 1 ")


def test_dicts_round_trip_through_json():
    data = json.loads(json.dumps(example().to_dict()))
    assert Plan.from_dict(data) == example()
    short = Plan.from_dict({"phases": [{"layers": "head"}]})
    assert short == Plan([Phase("head")])


@pytest.mark.parametrize(
    "data, message",
    [
        ([], "Expected a dict with the keys"),
        ({}, "key 'phases' is missing"),
        ({"phases": {}}, "key 'phases': `phases` must be a list"),
        ({"phases": [], "name": 1}, "key 'name': The key 'name' is unknown"),
        ({"phases": ["head"]}, "phase 1: Expected a dict"),
        ({"phases": [{"layers": 1}, {"epochs": 1}]}, "phase 2: The key 'lay"),
        ({"phases": [{"layers": 1, "epochs": 0}]}, "phase 1, key 'epochs': "),
        ({"phases": [], "head_initializer": "rdige"}, "key 'head_initia"),
    ],
)
def test_errors_of_dicts_name_phase_and_key(data, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan.from_dict(data)


# === Plan against a model ===


def test_check_leaves_the_model_as_it_is(model):
    flags = [v.trainable for v in model.variables]
    flags += [x.trainable for x in [model, *model.layers]]
    kind = type(model)
    example().check(ft.layer_groups(model))
    assert type(model) is kind
    assert flags == [v.trainable for v in model.variables] + [
        x.trainable for x in [model, *model.layers]
    ]


@pytest.mark.parametrize(
    "phases, message",
    [
        ([], "The plan is empty"),
        ([Phase("head"), Phase("blok3")], r"Phase 2 of the plan \('blok3'\)"),
        ([Phase("head"), Phase("blok3_a")], "Nearest names: .'block3_a'"),
        ([Phase("head"), Phase(9)], r"Phase 2 of the plan \(9\)"),
        ([Phase("block._norm")], 'Phase 1.*batch_norm="train"'),
        ([Phase("block1_relu")], "Phase 1.*train nothing"),
        ([Phase("head"), Phase(0)], "Phase 2 does nothing new.* phase 1"),
        (
            [Phase("all"), Phase(["backbone", "head"], 3, patience=2)],
            "one phase of 4 epochs",
        ),
        ([Phase(1), Phase(2), Phase(2)], "Phase 3 does nothing new.* phase 2"),
        ([Phase(1), Phase(1, layerwise_lr_decay=1.0)], "Phase 2 does nothing"),
        # BatchNormalization in the head trains under either policy.
        ([Phase("head"), Phase("head", batch_norm="train")], "nothing new"),
    ],
)
def test_check_refuses(model, phases, message):
    with pytest.raises(ValueError, match=message):
        Plan(phases).check(ft.layer_groups(model))


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 1e-4},
        {"layerwise_lr_decay": 0.5},
        {"batch_norm": "train"},
        {"schedule": "cosine"},
        {"warmup_fraction": 0.5},
        {"multipliers": {"stem": 0.1}},
        {"weight_decay": 0.0},
        {"optimizer": "sgd"},
    ],
)
def test_check_takes_any_difference_that_matters(model, options):
    Plan([Phase("all"), Phase("all", **options)]).check(ft.layer_groups(model))


def test_check_takes_warm_restarts(model):
    restart = Phase("all", epochs=2, learning_rate=1e-3, schedule="cosine")
    Plan([restart, restart]).check(ft.layer_groups(model))


def test_check_wants_a_head_to_start_from(model):
    plan = Plan([Phase("all")], head_initializer="lda")
    plan.check(ft.layer_groups(model))
    with pytest.raises(ValueError, match="head_initializer='lda'"):
        plan.check(ft.layer_groups(backbone()))


def test_check_warns_of_a_rate_above_that_of_the_head(model):
    plan = Plan(
        [
            Phase("head", learning_rate=1e-3),
            Phase(1, learning_rate=1e-4),
            Phase("all", learning_rate=1e-2),
        ]
    )
    with pytest.warns(UserWarning, match=r"Phase 3 \('all'\).*0.01 over 0.001"):
        plan.check(ft.layer_groups(model))


@pytest.mark.parametrize(
    "rates", [(1e-3, 1e-3, None), (None, 1e-2, 1e-4), (1e-3, None, 1e-4)]
)
def test_check_is_silent_where_rates_do_not_rise(model, rates):
    specs = ["head", 1, "all"]
    pairs = zip(specs, rates, strict=True)
    plan = Plan([Phase(spec, learning_rate=rate) for spec, rate in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.check(ft.layer_groups(model))
        # The head bears a high rate after the rest.
        Plan([Phase("all", 1, 1e-5), Phase("head", 1, 1e-3)]).check(
            ft.layer_groups(model)
        )


# === Strategies ===


def strategies(model):
    groups = ft.layer_groups(model)
    return [
        plans.linear_probe(),
        plans.top_layers(),
        plans.full(),
        plans.discriminative(),
        plans.gradual(len(groups)),
        plans.linear_probe_then_full(),
        plans.chain_thaw(groups),
    ]


def test_strategies_fit_models_and_files(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for plan in strategies(model):
            plan.check(ft.layer_groups(model))
            assert Plan.from_yaml(plan.to_yaml()) == plan


def test_strategies_train_what_they_say(model):
    def trained(plan):
        return [
            {layer.name for layer in p.select(ft.layer_groups(model))}
            for p in plan
        ]

    groups = ft.layer_groups(model)
    sets = [
        {x.name for x in g.layers if g.name == "head" or not is_batch_norm(x)}
        for g in groups
    ]
    all_layers, head = set().union(*sets), sets[-1]
    probe, top, full, slow, gradual, both, chain = map(
        trained, strategies(model)
    )
    assert probe == [head] and top == [set().union(*sets[-3:])]
    assert full == slow == [all_layers] and both == [head, all_layers]
    assert gradual == [
        set().union(*sets[-n:]) for n in range(1, len(groups) + 1)
    ]
    assert chain == [head, *sets[:-1], all_layers]


def test_strategies_pass_their_arguments_on():
    assert plans.linear_probe(3, 0.1, patience=2) == Plan(
        [Phase("head", 3, 0.1, patience=2)], head_initializer="auto"
    )
    assert plans.top_layers(4, epochs=3, learning_rate=0.1, patience=2) == Plan(
        [Phase(4, 3, 0.1, patience=2)]
    )
    full = Phase("all", 3, 0.1, patience=2, schedule="cosine")
    assert plans.full(3, 0.1, patience=2) == Plan([full])
    assert plans.linear_probe_then_full(5, 3, 0.2, 0.1, patience=2) == Plan(
        [Phase("head", 5, 0.2, patience=2), full], head_initializer="auto"
    )
    assert plans.discriminative(3, 0.1, decay=0.7, patience=2) == Plan(
        [Phase("all", 3, 0.1, 2, 0.7, schedule="one_cycle")]
    )
    plan = plans.gradual(3, 2, 7, 0.2, 0.1, decay=0.7, patience=4)
    assert plan == Plan(
        [
            Phase("head", 2, 0.2),
            Phase(1, 2, 0.1, layerwise_lr_decay=0.7),
            Phase(2, 7, 0.1, patience=4, layerwise_lr_decay=0.7),
        ]
    )
    assert plans.gradual(1, 2, 7) == Plan([Phase("head", 7, 1e-3)])
    plan = plans.chain_thaw(["stem", "top"], 2, 7, 0.2, 0.1, patience=4)
    assert plan == Plan(
        [
            Phase("head", 2, 0.2, 4),
            Phase("stem", 2, 0.1, 4),
            Phase("top", 2, 0.1, 4),
            Phase("all", 7, 0.1, 4),
        ]
    )


@pytest.mark.parametrize("number", [0, 2.0, None, [1]])
def test_gradual_wants_a_number_of_groups(number):
    with pytest.raises(ValueError, match="num_groups="):
        plans.gradual(number)


@pytest.mark.parametrize("groups", ["stem", 3, [], [1, 2], None])
def test_chain_thaw_wants_groups(groups):
    with pytest.raises(ValueError, match="groups="):
        plans.chain_thaw(groups)
