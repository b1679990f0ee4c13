"""The values that a part of a search space may have."""

import math
import numbers

import numpy as np


def checked(name, values):
    """Returns the values of a part in one of their two forms, or refuses.

    These are a list of choices, and a tuple: a range.
    """
    if isinstance(values, tuple) and _is_range(values):
        return tuple(plain(value) for value in values)
    choices = values if isinstance(values, list) else [values]
    choices = [plain(value) for value in choices]
    kinds = {_kind(value) for value in choices}
    if kinds == {numbers.Integral, numbers.Real}:
        choices, kinds = [float(value) for value in choices], {numbers.Real}
    if len(kinds) != 1 or None in kinds or len(set(choices)) < len(choices):
        raise ValueError(
            "A part of a search space must be a list of choices of one type "
            "(strings, booleans, integers or floats, each once; say 'none' "
            "for None), a range (low, high), (low, high, 'log') or (low, "
            f"high, step), or one value. Received: {name}={values!r}"
        )
    return choices


def plain(value):
    """Turns a scalar of NumPy into Python's, which JSON has too."""
    return value.item() if isinstance(value, np.generic) else value


def _kind(value):
    kinds = (bool, numbers.Integral, numbers.Real, str)
    return next((kind for kind in kinds if isinstance(value, kind)), None)


def _is_range(values):
    if len(values) not in (2, 3) or any(
        _kind(v) not in (numbers.Integral, numbers.Real) for v in values[:2]
    ):
        return False
    low, high, *more = values
    if not low < high or not math.isfinite(high - low):
        return False
    if not more:
        return True
    if more[0] == "log":
        return low > 0
    return _kind(more[0]) in (numbers.Integral, numbers.Real) and more[0] > 0


def _is_integer(values):
    numbers_ = [v for v in values if v != "log"]
    return all(_kind(v) is numbers.Integral for v in numbers_)


def listed(values):
    """All values of a part, or `[]` where they are without number."""
    if isinstance(values, list):
        return values
    low, high, *step = values
    if step == ["log"]:
        step = []
    if not step and not _is_integer(values):
        return []
    step = step[0] if step else 1
    count = int((high - low) / step + 1e-8) + 1
    return [low + i * step for i in range(count)]


def default(values):
    """Returns the value that is tried first."""
    if isinstance(values, list):
        return values[0]
    low, high, *step = values
    middle = math.sqrt(low * high) if step == ["log"] else (low + high) / 2
    choices = listed(values)
    if choices:
        return min(choices, key=lambda value: abs(value - middle))
    return float(f"{middle:.4g}")


def declare(hp, name, values):
    """Declares a part with KerasTuner."""
    if isinstance(values, list):
        if len(values) == 1:
            hp.Fixed(name, values[0])
        else:
            hp.Choice(name, values, default=values[0])
        return
    low, high, *step = values
    kind, cast = (hp.Int, int) if _is_integer(values) else (hp.Float, float)
    options = {"default": cast(default(values))}
    if step == ["log"]:
        options["sampling"] = "log"
    elif step:
        options["step"] = step[0]
    kind(name, cast(low), cast(high), **options)


def shown(values):
    """Returns values as the table has them."""
    if isinstance(values, list):
        return joined(values)
    low, high, *step = values
    text = f"{low:g} to {high:g}"
    if step:
        text += ", log" if step == ["log"] else f" by {step[0]:g}"
    return text


def joined(values):
    """Returns a list of values as text."""
    return ", ".join(
        f"{v:g}" if _kind(v) is numbers.Real else str(v) for v in values
    )
