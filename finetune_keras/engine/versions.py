"""What not every Keras has, from 3.8 on: one table, asked for by name."""

import keras

# By public name, the first version of Keras with it.
SINCE = {
    "config.max_epochs": "3.10",
    # Those of 3.10 to 3.12 fail on TensorFlow.
    "optimizers.Muon": "3.13",
    "optimizers.MultiOptimizer": "3.15",
    "optimizers.OptimizerMap": "3.15",
    "optimizers.ScheduleFreeAdamW": "3.14",
}
# The same for formats of `model.export`.
FORMATS = {"litert": "3.13"}


def find(name):
    """What this Keras has under a public name, or `None`."""
    room, _, name = name.partition(".")
    return getattr(getattr(keras, room), name, None)


def is_a(value, name):
    """Tells an instance of a class that this Keras may lack."""
    cls = find(name)
    return cls is not None and isinstance(value, cls)


def most_epochs():
    """The epochs that a user allows at most, or `None`."""
    function = find("config.max_epochs")
    return function and function()


def get_optimizer(value):
    """`keras.optimizers.get`, which says from which version one is there."""
    refuse_unknown_optimizer(value)
    return keras.optimizers.get(value)


def refuse_unknown_optimizer(value):
    """Raises where this Keras lacks an optimizer that a later one has.

    Args:
        value: String or dict, the name or the serialized form of one;
            anything else passes.
    """
    name = value
    if isinstance(value, dict):
        name = value.get("registered_name") or value.get("class_name")
    wanted = str(name).rpartition(">")[2].lower()
    for known, version in SINCE.items():
        short = known.rpartition(".")[2]
        same = wanted in (short.lower(), f"layerwise{short}".lower())
        if same and _is_older_than(version):
            _refuse(f"`keras.{known}`", version, name)


def refuse_unknown_format(name):
    """Raises where `model.export` of this Keras lacks a format."""
    since = FORMATS.get(name, "0.0")
    if _is_older_than(since):
        _refuse(f"The format {name!r}", since, name)


def _is_older_than(version):
    here, there = (v.split(".")[:2] for v in (keras.__version__, version))
    return list(map(int, here)) < list(map(int, there))


def _refuse(what, version, received):
    raise ValueError(
        f"{what} works in Keras from {version} on. Install `keras>={version}`, "
        f"or choose another one. Received: {received!r}, with Keras "
        f"{keras.__version__}"
    )
