"""The parts of a search that the library knows, and their checks."""

import math
import numbers

from finetune_keras.arguments import nearest
from finetune_keras.plans.plan import Plan
from finetune_keras.plans.schedules import SCHEDULES
from finetune_keras.search.space_values import plain

# The first of a list is the default, and so is the middle of a range.
PLAN_PARTS = {
    "groups": [2, 0, 1, 4],
    "phases": [2, 1, 3],
    "boundary": (0.2, 0.6),
    "order": ["unfreeze", "chain"],
    "learning_rate": (1e-4, 1e-2, "log"),
    "backbone_factor": (0.01, 0.3, "log"),
    "decay": [1.0, 0.8, 0.6],
    "epochs": [10, 5, 20],
}
FIT_PARTS = {"batch_size": [32, 16, 64]}
ON_REQUEST = {
    "backbone": None,
    "augmentation": ["none", "light", "medium", "strong"],
    "pooling": ["avg", "max"],
    "features": [0, 2, 4],
    "hidden_units": [0, 64, 256],
    "dropout": (0.0, 0.5),
    "l1": [0.0, 1e-5, 1e-4],
    "l2": [0.0, 1e-5, 1e-4, 1e-3],
    "weight_decay": [0.0, 1e-4, 1e-2],
    "adapter": ["none", "lora", "bottleneck", "ia3", "bitfit"],
    "rank": [8, 4, 16],
    "schedule": ["constant", "cosine", "one_cycle"],
    "warmup_fraction": [0.0, 0.1, 0.3],
    "head_factor": [1.0, 3.0, 10.0],
    "plan": None,
}
# What a plan is made of.
PHASE_PARTS = {*PLAN_PARTS, "schedule", "warmup_fraction", "head_factor"}
# What others depend on comes before them.
_ORDER = ["backbone", "adapter", "rank", "plan", *PLAN_PARTS, *FIT_PARTS]
_ORDER += ["schedule", "warmup_fraction", "weight_decay", *ON_REQUEST]
CONDITIONS = {
    "rank": ("adapter", lambda value: value in ("lora", "bottleneck")),
    "groups": ("adapter", lambda value: value == "none"),
    "phases": ("groups", lambda value: value > 0),
    "boundary": ("phases", lambda value: value > 1),
    "order": ("phases", lambda value: value > 2),
    "backbone_factor": ("groups", lambda value: value > 0),
    "decay": ("groups", lambda value: value > 0),
    "head_factor": ("groups", lambda value: value > 0),
}


_COUNT = (numbers.Integral, 1, math.inf)
_FROM_0 = (numbers.Integral, 0, math.inf)
_SHARE = (numbers.Real, 0.0, 1.0)
_RATE = (numbers.Real, math.nextafter(0.0, 1.0), math.inf)
_PENALTY = (numbers.Real, 0.0, math.inf)
# Types and bounds of numbers, or all choices.
_ALLOWED = {
    "groups": _FROM_0,
    "phases": _COUNT,
    "boundary": _SHARE,
    "order": PLAN_PARTS["order"],
    "learning_rate": _RATE,
    "backbone_factor": _RATE,
    "decay": (numbers.Real, _RATE[1], 1.0),
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "schedule": list(SCHEDULES),
    "warmup_fraction": (numbers.Real, 0.0, 0.99),
    "head_factor": _RATE,
    "adapter": ON_REQUEST["adapter"],
    "rank": _COUNT,
    "hidden_units": _FROM_0,
    "features": _FROM_0,
    "dropout": (numbers.Real, 0.0, 0.99),
    "l1": _PENALTY,
    "l2": _PENALTY,
    "weight_decay": _PENALTY,
}


def check_known(name, values):
    """Returns the values of a part, or refuses what has no meaning in it."""
    allowed = _ALLOWED.get(name)
    given = values if isinstance(values, list) else values[:2]
    wrong = [v for v in given if allowed and not _is_allowed(v, allowed)]
    if not wrong:
        return values
    raise ValueError(
        f"`{name}` of a search space must be "
        f"{_told(wrong[0], allowed)} Received: {wrong[0]!r}"
    )


def _told(value, allowed):
    """Says in words what is allowed."""
    if isinstance(allowed, list):
        return f"one of {allowed}.{nearest(value, allowed)}"
    kind, low, high = allowed
    kind = "an integer" if kind is numbers.Integral else "a number"
    above = f"from {low:g}" if low in (0, 1) else "above 0"
    below = "" if high == math.inf else f" to {high:g}"
    return f"{kind} {above}{below}."


def _is_allowed(value, allowed):
    if isinstance(allowed, list):
        return value in allowed
    kind, low, high = allowed
    number = isinstance(value, kind) and not isinstance(value, bool)
    return number and low <= value <= high


def in_order(parts, when):
    """Sorts names of parts: the library's order, parents before children."""
    parents = {name: parent for name, (parent, _) in CONDITIONS.items()}
    parents.update({name: parent for name, (parent, _) in when.items()})
    known = {name: i for i, name in reversed(list(enumerate(_ORDER)))}
    left = sorted(parts, key=lambda name: known.get(name, len(_ORDER)))
    found = []
    while left:
        ready = (name for name in left if parents.get(name) not in left)
        name = next(ready, left[0])  # none, where they go round in a circle
        left.remove(name)
        found.append(name)
    return found


def standard(name):
    known = {**PLAN_PARTS, **FIT_PARTS, **ON_REQUEST}
    if known.get(name) is None:
        raise ValueError(
            "`True` stands for the usual values of a part, and this one has "
            f"none: give it a list.{nearest(name, known)} "
            f"Received: {name}=True"
        )
    return known[name]


def named_plans(plans):
    if (
        isinstance(plans, dict)
        and plans
        and all(isinstance(plan, Plan) for plan in plans.values())
    ):
        return {str(name): plan for name, plan in plans.items()}
    raise ValueError(
        "`plan` must be a dict from a name to a `Plan`, such as "
        '{"probe": ft.plans.linear_probe(), "all": ft.plans.full()}. '
        f"Received: plan={plans!r}"
    )


def check_whole_plans(parts):
    extra = [name for name in parts if name in PHASE_PARTS and parts[name]]
    if extra:
        raise ValueError(
            "`plan` gives whole plans, which have epochs, rates and groups of "
            f"their own. Leave {extra} out, or `plan`. "
            f"Received: plan={parts['plan']!r}"
        )


def conditional(name, part):
    when = part.get("when")
    if set(part) != {"values", "when"} or not (
        isinstance(when, dict) and len(when) == 1
    ):
        raise ValueError(
            'A part that depends on another is a dict with "values" and with '
            '"when", such as {"values": [4, 8], "when": {"adapter": ["lora"]}}'
            f", one other part. Received: {name}={part!r}"
        )
    ((parent, wanted),) = when.items()
    if not isinstance(wanted, (list, tuple)):
        wanted = [wanted]
    return part["values"], (parent, [plain(value) for value in wanted])
