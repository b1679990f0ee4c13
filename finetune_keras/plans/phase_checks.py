"""What the arguments of a phase must be, and how plain data keep them."""

import copy

import keras

from finetune_keras.arguments import (
    Kind,
    check,
    integer,
    is_number,
    maybe,
    number,
    one_of,
    part,
    positive,
)
from finetune_keras.engine.versions import refuse_unknown_optimizer
from finetune_keras.plans.schedules import SCHEDULES

BATCH_NORM = ("frozen", "train", "synchronized")


class PlanError(ValueError):
    """A fault in a plan, with the keys and positions that lead to it."""

    def __init__(self, message, *path):
        where = [
            f"phase {part + 1}" if isinstance(part, int) else f"key {part!r}"
            for part in path[1:] or path
        ]
        super().__init__(f"{', '.join(where)}: {message}" if path else message)
        self.path = path


def checked(name, value, *path):
    """Returns an argument of a phase or plan as plain data, or refuses it."""
    kind, plain = CHECKS.get(name, _OF_A_PLAN.get(name))
    try:
        check(**{name: (value, kind)})
    except ValueError as error:
        known = getattr(value, "name", getattr(value, "pattern", None))
        hint = f" Its name is {known!r}." if isinstance(known, str) else ""
        raise PlanError(f"{error}{hint}", *path) from None
    return value if value is None or plain is None else plain(value)


def _is_layers(value):
    listed = isinstance(value, (list, tuple)) and len(value) > 0
    names = value if listed else [value]
    return integer(0).holds(value) or all(
        isinstance(name, str) and name for name in names
    )


def _plain_layers(value):
    if isinstance(value, (list, tuple)):
        return list(value)
    return value if isinstance(value, str) else int(value)


def _is_multipliers(value):
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and name for name in value)
        and all(positive.holds(factor) for factor in value.values())
    )


def make_optimizer(value):
    """The optimizer of a name, or of its serialized form."""
    # Keras writes into a dict that it reads.
    return keras.optimizers.get(copy.deepcopy(value))


def _is_optimizer(value):
    if not isinstance(value, (str, dict, keras.optimizers.Optimizer)):
        return False
    refuse_unknown_optimizer(value)
    try:
        config = _plain_optimizer(value)
        rate = make_optimizer(config).get_config().get("learning_rate")
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return is_number(rate)


def _plain_optimizer(value):
    if isinstance(value, str):
        return value
    if isinstance(value, keras.optimizers.Optimizer):
        value = keras.optimizers.serialize(value)
    # Of what a file says Keras would import any module; it counts the names.
    name = value.get("registered_name") or value["class_name"]
    config = {k: v for k, v in value.get("config", {}).items() if k != "name"}
    return copy.deepcopy({"class_name": name, "config": config})


_LAYERS = Kind(
    "a string (the name of a layer or group, "
    '"head", "backbone", "all", or a regular expression), an integer of '
    "at least 0 (the head and the last n groups before it), or a list of "
    "strings. A plan is plain data that is printed, saved and used for "
    "other models: it names layers and holds no objects or functions. "
    "`ft.layer_groups(model).holding(layers)` tells which groups hold some",
    _is_layers,
)
_DECAY = Kind(
    "a float over 0 and at most 1", lambda v: is_number(v) and 0 < v <= 1
)
_MULTIPLIERS = Kind(
    "a dict from strings (names of layer groups, or else of layers, or regular "
    "expressions) to positive floats",
    _is_multipliers,
)
_OPTIMIZER = Kind(
    "the name of a Keras optimizer, or one with a number as its learning rate "
    "(an optimizer, or what `keras.optimizers.serialize` returns)",
    _is_optimizer,
)
# By argument, what it must be, and what makes plain data of it.
CHECKS = {
    "layers": (_LAYERS, _plain_layers),
    "epochs": (integer(1), int),
    "learning_rate": (maybe(positive), float),
    "patience": (maybe(integer(1)), int),
    "layerwise_lr_decay": (maybe(_DECAY), float),
    "batch_norm": (one_of(*BATCH_NORM), None),
    "schedule": (one_of(*SCHEDULES), None),
    "warmup_fraction": (maybe(part), float),
    "multipliers": (
        maybe(_MULTIPLIERS),
        lambda value: {name: float(x) for name, x in value.items()},
    ),
    "weight_decay": (maybe(number(0)), float),
    "optimizer": (maybe(_OPTIMIZER), _plain_optimizer),
    "restore_best_weights": (one_of(None, True, False), None),
}
_SOLVERS = one_of(None, "auto", "logistic", "ridge", "lda")
_OF_A_PLAN = {"head_initializer": (_SOLVERS, None)}
