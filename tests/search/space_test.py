import itertools
import json

import keras
import keras_tuner
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.search.hypermodel import sized
from finetune_keras.search.parts import (
    largest_epochs,
    make_plan,
    model_options,
    put_adapters,
)
from finetune_keras.search.space import search_space


def make_model(units=(8, 7, 6, 5)):
    inputs = x = keras.Input((4,))
    for i, count in enumerate(units):
        x = keras.layers.Dense(count, activation="relu", name=f"part{i}")(x)
    return ft.replace_head(keras.Model(inputs, x), 2)


def brute_force(space):
    """All combinations, found by trying every value of every part."""
    found = set()
    for values in itertools.product(*space.parts.values()):
        given = dict(zip(space.parts, values, strict=True))
        found.add(tuple(space.values(given).items()))
    return len(found)


@pytest.mark.parametrize("phases", [[2, 1, 3], 2, 1])
def test_size_counts_what_makes_a_difference(phases):
    space = search_space(
        groups=[0, 1, 2],
        phases=phases,
        boundary=[0.3, 0.5],
        learning_rate=[1e-3],
        backbone_factor=[0.1, 0.2],
        adapter=["none", "lora", "bitfit"],
        rank=[4, 8],
        batch_size=32,
    )
    assert space.size == brute_force(space)
    assert f" parts, {space.size:,} combinations\n" in str(space)


def test_default_space_is_continuous_and_says_so():
    space = search_space()
    assert space.size == "continuous"
    assert str(space).startswith(
        "Search space: 9 parts, continuous: 3 ranges, and "
    )


@pytest.mark.parametrize(
    ("values", "first", "count"),
    [
        ([3, 1, 2], 3, 3),
        ((1, 5), 3, 5),
        ((0.0, 1.0, 0.25), 0.5, 5),
        ((16, 64, 16), 32, 4),
        ("one", "one", 1),
        ([0, 0.5], 0.0, 2),
        ([True, False], True, 2),
    ],
)
def test_kinds_of_values(values, first, count):
    space = search_space(plan={"a": ft.plans.full()}, mine=values)
    assert space.default("mine") == first
    assert space.without("batch_size").size == count
    hp = keras_tuner.HyperParameters()
    space.declare(hp)
    assert space.values(hp)["mine"] == first


def test_log_range_starts_in_its_middle():
    space = search_space(learning_rate=(1e-5, 1e-1, "log"))
    assert space.default("learning_rate") == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dropout": []}, "list of choices of one type"),
        ({"dropout": ["none", 0.5]}, "Received: dropout"),
        ({"groups": [1, 1]}, "each once"),
        ({"learning_rate": (0.1, 0.01)}, "a range"),
        ({"learning_rate": (0.0, 0.01, "log")}, "a range"),
        ({"mine": True}, "this one has none"),
        ({"plan": ["full"]}, "dict from a name to a `Plan`"),
        ({"plan": {"a": ft.plans.full()}, "epochs": 3}, "whole plans"),
        ({"mine": {"values": [1]}}, '"when"'),
        ({"mine": {"values": [1], "when": {"no": [1]}}}, "depends on 'no'"),
        ({"mine": {"values": [1], "when": {"groups": [9]}}}, "these values"),
        ({"mine": {"values": [1], "when": {"mine": [1]}}}, "in turn"),
        ({"order": ["unfreze"]}, "Did you mean 'unfreeze'"),
        ({"schedule": ["cosin"]}, "Did you mean 'cosine'"),
        ({"adapter": ["dora"]}, "`adapter` of a search space must be one of"),
        ({"decay": [1.0, 1.5]}, "a number above 0 to 1. Received: 1.5"),
        ({"learning_rate": [1e-3, -1.0]}, "a number above 0. Received: -1.0"),
        ({"epochs": [2, 0]}, "an integer from 1. Received: 0"),
        ({"batch_size": [-1]}, "an integer from 1"),
        ({"phases": 0}, "an integer from 1"),
        ({"groups": ["all"]}, "an integer from 0"),
        ({"groups": [0.5]}, "an integer from 0"),
        ({"dropout": (0.0, 1.5)}, "a number from 0 to 0.99"),
        ({"l2": [-0.1]}, "a number from 0. Received"),
    ],
)
def test_bad_parts_are_met_at_the_door(parts, message):
    with pytest.raises(ValueError, match=message):
        search_space(**parts)


def test_scalars_of_numpy_become_those_of_python():
    space = search_space(
        groups=[np.int64(1), np.int64(2)],
        dropout=(np.float32(0.25), np.float64(0.5)),
        mine={"values": [np.bool_(True)], "when": {"groups": [np.int64(2)]}},
    )
    assert space == search_space(
        groups=[1, 2],
        dropout=(0.25, 0.5),
        mine={"values": [True], "when": {"groups": [2]}},
    )
    json.dumps(space.to_dict())


def test_known_parts_may_depend_on_own_ones():
    space = search_space(
        dropout={"values": [0.1, 0.2], "when": {"top": ["deep"]}},
        groups={"values": [0, 2], "when": {"top": ["flat"]}},
        top=["flat", "deep"],
        epochs=1,
        batch_size=8,
    )
    names = list(space.parts)
    assert names.index("top") < names.index("groups") < names.index("phases")
    assert names.index("top") < names.index("dropout")
    assert "dropout" in space.values({"top": "deep"})
    assert "dropout" not in space.values({"top": "flat"})


def test_spaces_are_changed_by_copies():
    space = search_space()
    other = space.change(groups=[1], dropout=True, order=False)
    assert other.parts["groups"] == [1] and "order" not in other
    assert other.parts["dropout"] == (0.0, 0.5)
    assert space == search_space() != other
    assert "decay" not in other.without("decay")
    with pytest.raises(ValueError, match="Did you mean 'decay'"):
        other.without("decy")
    json.dumps(other.to_dict())


def test_conditions_follow_the_values_and_reach_kerastuner():
    space = search_space(
        adapter=["lora", "none"],
        rank=[4, 8],
        groups=[0, 3],
        mine={"values": [1, 2], "when": {"groups": [3]}},
    )
    assert space.when["phases"] == ("groups", [3])
    hp = keras_tuner.HyperParameters()
    space.declare(hp)
    assert "rank" in hp.values and "groups" not in hp.values
    assert "mine" not in space.values(hp)
    hp = keras_tuner.HyperParameters()
    hp.values = {"adapter": "none", "groups": 3}
    space.declare(hp)
    assert hp.values["mine"] == 1 and "rank" not in hp.values
    assert set(space.values(hp)) == set(hp.values)


BASE = {
    "groups": 4,
    "phases": 3,
    "boundary": 0.5,
    "order": "unfreeze",
    "learning_rate": 1e-2,
    "backbone_factor": 0.1,
    "decay": 0.8,
    "epochs": 8,
}


@pytest.mark.parametrize(
    ("change", "phases"),
    [
        ({}, [("head", 2), (2, 2), (4, 4)]),
        ({"order": "chain"}, [("head", 2), (["part2", "part3"], 2), (4, 4)]),
        ({"phases": 2, "boundary": 0.25}, [("head", 2), (4, 6)]),
        ({"phases": 1}, [(4, 8)]),
        ({"groups": 0}, [("head", 8)]),
        ({"groups": 99}, [("head", 2), (2, 2), (4, 4)]),
        ({"groups": 1}, [("head", 4), (1, 4)]),
        ({"epochs": 2}, [("head", 1), (4, 1)]),
        ({"epochs": 1}, [(4, 1)]),
        ({"boundary": 0.99}, [("head", 3), (2, 4), (4, 1)]),
        ({"boundary": 0.01}, [("head", 1), (2, 1), (4, 6)]),
    ],
)
def test_plans(change, phases):
    model, values = make_model(), {**BASE, **change}
    plan = make_plan(search_space(), values, model)
    assert [(p.layers, p.epochs) for p in plan] == phases
    plan.check(ft.layer_groups(model))
    for phase in plan:
        deep = phase.layers != "head"
        assert phase.learning_rate == pytest.approx(1e-3 if deep else 1e-2)
        assert phase.layerwise_lr_decay == (0.8 if deep else None)


@pytest.mark.parametrize(
    ("change", "phases"),
    [
        ({}, [(1, 2), (2, 2), (3, 4)]),
        ({"phases": 2}, [(2, 4), (3, 4)]),
        ({"groups": 0}, [(1, 8)]),
    ],
)
def test_plans_of_a_model_without_a_head(small_writer, change, phases):
    model = small_writer(layers=2)
    plan = make_plan(search_space(), {**BASE, **change}, model)
    assert [(p.layers, p.epochs) for p in plan] == phases
    plan.check(ft.layer_groups(model))


def test_prompts_and_pairs_have_the_batch_size_of_a_trial():
    options = {"batch_size": 4}
    for data in (
        ft.prompts(["a", "b"], ["c", "d"]),
        ft.pairs(["a", "b"], ["c", "d"]),
    ):
        assert sized(data, options) == (data, options)
    with pytest.raises(ValueError, match="batches of its own"):
        sized(iter([]), options)


def test_every_plan_of_the_space_fits_a_model():
    model = make_model()
    space = search_space(
        groups=[0, 1, 3, 9],
        phases=[1, 2, 3, 4],
        boundary=[0.1, 0.9],
        epochs=[1, 2, 3, 7],
        learning_rate=1e-3,
        backbone_factor=0.1,
        batch_size=8,
    )
    for values in itertools.product(*space.parts.values()):
        values = space.values(dict(zip(space.parts, values, strict=True)))
        plan = make_plan(space, values, model)
        plan.check(ft.layer_groups(model))
        assert sum(phase.epochs for phase in plan) == values["epochs"]


def test_whole_plans_replace_their_parts():
    plans = {"probe": ft.plans.linear_probe(7), "all": ft.plans.full(3)}
    space = search_space(plan=plans)
    assert list(space.parts) == ["plan", "batch_size"] and space.size == 6
    assert make_plan(space, {"plan": "all"}, None) == plans["all"]
    assert largest_epochs(space) == 7
    assert search_space().change(plan=plans) == space
    assert largest_epochs(search_space(epochs=(4, 9))) == 9


def test_each_phase_has_the_schedule_and_the_warm_up():
    space = search_space(schedule=["linear"], warmup_fraction=True)
    values = {**BASE, "schedule": "linear", "warmup_fraction": 0.3}
    assert space.parts["warmup_fraction"] == [0.0, 0.1, 0.3]
    found = make_plan(space, values, make_model())
    assert {(x.schedule, x.warmup_fraction) for x in found} == {("linear", 0.3)}


def test_the_head_may_be_faster_than_what_is_below_it():
    space = search_space(head_factor=True)
    assert space.when["head_factor"] == ("groups", [2, 1, 4])
    model = make_model()
    assert make_plan(space, space.values(BASE), model)[1].multipliers is None
    plan = make_plan(space, {**BASE, "head_factor": 10.0}, model)
    assert [x.multipliers for x in plan] == [None, *[{"head": 10.0}] * 2]
    plan.check(ft.layer_groups(model))


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "ia3", "bitfit"])
def test_adapters(kind):
    model = make_model()
    put_adapters(model, {"adapter": kind, "rank": 2})
    space = search_space(adapter=[kind], rank=[2])
    plan = make_plan(space, {"adapter": kind, **BASE}, model)
    plan.check(ft.layer_groups(model))
    assert plan[0].layers == ["adapter_default", "head"]


def test_unknown_adapter_is_refused():
    with pytest.raises(ValueError, match="add others in `build`"):
        put_adapters(make_model(), {"adapter": "lore"})


def test_model_options():
    hp = keras_tuner.HyperParameters()
    space = search_space(
        augmentation=["none", "light"],
        hidden_units=[64, 0],
        dropout=[0.3],
        l1=[1e-4, 0.0],
        l2=[0.0, 1e-4],
        features=True,
    )
    space.declare(hp)
    options = model_options(hp)
    regularizer = options.pop("kernel_regularizer").get_config()
    assert regularizer == pytest.approx({"l1": 1e-4, "l2": 0.0})
    assert options == {"hidden_units": (64,), "dropout": 0.3}
    hp.values.update(augmentation="light", hidden_units=0, l1=0.0, features=2)
    options = model_options(hp)
    model = make_model()
    deep = ft.replace_head(model, 2, features=options["features"])
    assert deep.layers[-1].kernel.shape[0] == 5 + 6
    assert options["augmentation"] == "light"
    assert options["hidden_units"] == () and "kernel_regularizer" not in options
