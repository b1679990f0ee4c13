"""From the values of a trial to a model and a plan."""

import keras

from finetune_keras.adapters.adapter import add_adapters
from finetune_keras.adapters.bottleneck import Bottleneck
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.scales_and_biases import IA3, BitFit
from finetune_keras.engine.fit_state import compile_arguments
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.plans.phase import Phase
from finetune_keras.plans.plan import Plan
from finetune_keras.search.space import SearchSpace
from finetune_keras.search.space_parts import FIT_PARTS, PLAN_PARTS
from finetune_keras.training.compiled import ensure_compiled

_AS_TRIED_FIRST = SearchSpace({**PLAN_PARTS, **FIT_PARTS})


def model_options(hp):
    """Returns the options of a model that a trial has values for.

    They are those of `replace_head`: `pooling`, `features`, `hidden_units`,
    `dropout` and `kernel_regularizer` (from `l1` and `l2`); and
    `augmentation`, of `image_classifier`. What is not in the search space is
    left out.

    Args:
        hp: The `keras_tuner.HyperParameters` that `build` gets.

    Returns:
        Dict of keyword arguments.

    Example:

    ```python
    import keras, keras_tuner
    import finetune_keras as ft

    hp = keras_tuner.HyperParameters()
    ft.search_space(dropout=[0.2, 0.5], l2=[1e-4]).declare(hp)
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    model = ft.replace_head(backbone, 2, **ft.model_options(hp))
    print(ft.model_options(hp))
    ```
    """
    names = ("augmentation", "pooling", "features", "dropout", "hidden_units")
    found = {name: hp[name] for name in (*names, "l1", "l2") if name in hp}
    for name, nothing in (("augmentation", "none"), ("features", 0)):
        if found.get(name) == nothing:
            del found[name]
    if "hidden_units" in found:
        units = found["hidden_units"]
        found["hidden_units"] = (units,) if units else ()
    rates = {k: found.pop(k) for k in ("l1", "l2") if k in found}
    rates = {name: rate for name, rate in rates.items() if rate}
    if rates:
        found["kernel_regularizer"] = keras.regularizers.L1L2(**rates)
    return found


def make_plan(space, values, model):
    """Makes the plan of a trial of the `values` of its space.

    `model` is that of the trial, with its adapters.
    """
    if "plan" in values:
        return space.plans[values["plan"]]
    values = {**_AS_TRIED_FIRST.values({}), **values}
    if values.get("adapter", "none") != "none":
        return Plan([_phase(["adapter_default", "head"], values)])
    groups = [group.name for group in layer_groups(model)]
    has_head = groups[-1] == "head"
    below = groups[:-1] if has_head else groups
    depth = min(values["groups"], len(below))
    depth = depth if has_head else max(depth, 1)
    return Plan(_phases(values, below, depth, has_head))


def _phases(values, below, depth, has_head):
    if depth == 0:
        return [_phase("head", values)]
    total = values["epochs"]
    count = min(values["phases"], total, depth + has_head)
    if count == 1:
        return [_deep_phase(depth, values, total)]
    early = round(values["boundary"] * total)
    early = min(max(early, count - 1), total - 1)
    shares = [early // (count - 1)] * (count - 1)
    shares[-1] += early - sum(shares)
    if has_head:
        ends = [round(depth * i / (count - 1)) for i in range(count)]
        phases = [_phase("head", {**values, "epochs": shares[0]})]
    else:
        ends = [round(depth * (i + 1) / count) for i in range(count)]
        phases = [_deep_phase(ends[0], values, shares[0])]
    for start, end, epochs in zip(ends, ends[1:-1], shares[1:], strict=False):
        layers = end
        if values["order"] == "chain":
            layers = below[len(below) - end : len(below) - start]
        phases.append(_deep_phase(layers, values, epochs))
    return [*phases, _deep_phase(depth, values, total - early)]


def _deep_phase(layers, values, epochs):
    rate = values["learning_rate"] * values["backbone_factor"]
    decay = values["decay"] if values["decay"] < 1 else None
    factor = values.get("head_factor", 1)
    return _phase(
        layers,
        {**values, "epochs": epochs, "learning_rate": rate},
        layerwise_lr_decay=decay,
        multipliers=None if factor == 1 else {"head": factor},
    )


def _phase(layers, values, **options):
    schedule = values.get("schedule", "constant")
    return Phase(
        layers,
        values["epochs"],
        float(f"{values['learning_rate']:.4g}"),
        schedule=schedule,
        warmup_fraction=values.get("warmup_fraction"),
        **options,
    )


def largest_epochs(space):
    """Returns the most epochs that a plan of the space may have, or `None`."""
    if "plan" in space:
        plans = space.plans.values()
        return max(sum(phase.epochs for phase in plan) for plan in plans)
    if "epochs" not in space:
        return None
    values = space.parts["epochs"]
    return max(v for v in values[: 2 if type(values) is tuple else None])


def put_adapters(model, values):
    """Adds the adapters of a trial, if it has any; returns whether it has."""
    kind, rank = values.get("adapter", "none"), values.get("rank", 8)
    if kind == "none":
        return False
    methods = {
        "lora": lambda: LoRA(rank=rank),
        "bottleneck": lambda: Bottleneck(units=rank),
        "ia3": IA3,
        "bitfit": BitFit,
    }
    if kind not in methods:
        raise ValueError(
            f"`adapter` must be one of {['none', *methods]}; add others in "
            f"`build`. Received: adapter={kind!r}"
        )
    add_adapters(model, methods[kind]())
    return True


def compile_for(model, plan, labels_rank, weight_decay):
    """Compiles a model that is not, with the weight decay of a trial."""
    if getattr(model, "optimizer", None) is not None:
        if weight_decay is not None:
            raise ValueError(
                "The search space has a `weight_decay`, and `build` compiles "
                "the model with an optimizer of its own. Leave the model "
                'uncompiled, or read `hp["weight_decay"]` in `build` under '
                f"another name. Received: weight_decay={weight_decay!r}"
            )
        return
    ensure_compiled(model, plan, labels_rank)
    if weight_decay:
        arguments = compile_arguments(model)
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=weight_decay)
        model.compile(**{**arguments, "optimizer": optimizer})
        ensure_compiled(model, plan, labels_rank)
