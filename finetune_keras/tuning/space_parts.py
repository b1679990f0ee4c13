"""The parts of a search that the library knows, and their checks."""

from finetune_keras.training.phase import nearest
from finetune_keras.training.plan import Plan

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
    "hidden_units": [0, 64, 256],
    "dropout": (0.0, 0.5),
    "l1": [0.0, 1e-5, 1e-4],
    "l2": [0.0, 1e-5, 1e-4, 1e-3],
    "weight_decay": [0.0, 1e-4, 1e-2],
    "adapter": ["none", "lora", "bottleneck", "ia3", "bitfit"],
    "rank": [8, 4, 16],
    "schedule": ["constant", "cosine", "one_cycle"],
    "plan": None,
}
# The library itself does what these say; all else is for `build` to read.
APPLIED = ("adapter", "rank", "plan", *PLAN_PARTS, *FIT_PARTS)
APPLIED += ("schedule", "weight_decay")
_ORDER = ["backbone", *APPLIED, *ON_REQUEST]
CONDITIONS = {
    "rank": ("adapter", lambda value: value in ("lora", "bottleneck")),
    "groups": ("adapter", lambda value: value == "none"),
    "phases": ("groups", lambda value: value > 0),
    "boundary": ("phases", lambda value: value > 1),
    "order": ("phases", lambda value: value > 2),
    "backbone_factor": ("groups", lambda value: value > 0),
    "decay": ("groups", lambda value: value > 0),
}


def position(name):
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


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
    extra = [n for n in (*PLAN_PARTS, "schedule") if parts.get(n)]
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
    return part["values"], (parent, list(wanted))
