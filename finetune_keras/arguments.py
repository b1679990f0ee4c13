"""Checks of arguments: a table with one line an argument.

check(
    rank=(rank, integer(1)),
    alpha=(alpha, maybe(positive)),
    variant=(variant, one_of("lora", "dora")),
)
"""

import difflib
import math
import numbers
import os
import typing


class Kind(typing.NamedTuple):
    """A kind of value: how it is called, and whether a value is one."""

    words: str
    holds: typing.Callable
    known: tuple = ()


def check(**arguments):
    """Raises where an argument is not of its kind.

    Args:
        **arguments: By name `(value, kind)`, or `(value, kind, meaning)`.
    """
    for name, (value, kind, *meaning) in arguments.items():
        if not kind.holds(value):
            words = ": ".join([kind.words, *meaning])
            raise ValueError(
                f"`{name}` must be {words}.{nearest(value, kind.known)} "
                f"Received: {name}={value!r}"
            )


def check_model(model):
    """Raises where a file or a model of Keras 2 stands for a model."""
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        raise ValueError(
            "A model is expected, not its name or the path of its file. Load "
            f"it first: `model = keras.models.load_model({path!r})`. "
            f"Received: model={path!r}"
        )
    modules = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    if "tf_keras" in modules:
        raise ValueError(
            "This is a model of Keras 2 (`tf_keras`), and not of Keras 3. "
            "Build the same model with `keras`, and give it the weights: "
            "`new.set_weights(old.get_weights())`. Where `tf.keras` made it, "
            "leave the environment variable `TF_USE_LEGACY_KERAS` out. "
            f"Received: a model of type {type(model).__module__}."
            f"{type(model).__name__}"
        )


def nearest(value, known):
    """Returns a question after the likeliest of the known names, or nothing."""
    known = [str(one) for one in known if one is not None]
    found = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def is_number(value, kind=numbers.Real):
    """Tells a number, NumPy's too, from all else; a boolean is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def integer(least=-math.inf):
    bound = "" if least == -math.inf else f" of at least {least}"
    return Kind(
        f"an integer{bound}",
        lambda v: is_number(v, numbers.Integral) and v >= least,
    )


def number(least):
    return Kind(
        f"a number of at least {least}",
        lambda v: is_number(v) and least <= v < math.inf,
    )


positive = Kind("a positive float", lambda v: is_number(v) and 0 < v < math.inf)
share = Kind("a float from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
part = Kind(
    "a share of at least 0 and less than 1",
    lambda v: is_number(v) and 0 <= v < 1,
)


def one_of(*values):
    """One of a few strings or constants."""
    return Kind(
        f"one of {list(values)}",
        # 1 is not True here.
        lambda v: any(type(v) is type(x) and v == x for x in values),
        values,
    )


def maybe(kind):
    """What may be `None`."""
    words = f"{kind.words}, or `None`"
    return Kind(words, lambda v: v is None or kind.holds(v), kind.known)


def list_of(kind, words):
    """A list or tuple, not empty, of values of a class."""
    return Kind(
        f"a list of at least one {words}",
        lambda v: (
            isinstance(v, (list, tuple))
            and len(v) > 0
            and all(isinstance(x, kind) for x in v)
        ),
    )
