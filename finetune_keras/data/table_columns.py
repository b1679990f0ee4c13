"""Columns of a table of mixed kinds: what they are, and what a model gets."""

import datetime
import decimal
import numbers
import re

import numpy as np

from finetune_keras.data.labels import as_text, is_missing

KINDS = ("number", "category", "date", "text")
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?"
)
_NUMBER = (numbers.Real, decimal.Decimal, np.bool_)
_DATE = (datetime.date, np.datetime64)
# A text has words; what has few values is a category, whatever its words.
_WORDS, _FEW = 3, 20
_LARGEST = float(np.finfo("float32").max)


def kinds_of(columns, told):
    """Dict from each column to its kind: what is told, or what it looks like.

    `told` is a dict of some kinds, or `"auto"`.
    """
    told = {} if isinstance(told, str) and told == "auto" else told
    known = isinstance(told, dict)
    if not known or set(told.values()) - set(KINDS) or set(told) - set(columns):
        raise ValueError(
            '`kinds` must be "auto", or a dict from columns among the features '
            f"to one of {list(KINDS)}. Received: kinds={told!r}, features="
            f"{list(columns)}"
        )
    return {
        name: told.get(name) or _kind_of(name, column)
        for name, column in columns.items()
    }


def is_mixed(columns):
    """Tells a table that is no matrix of numbers and no column of texts."""
    plain = [column.dtype.kind in "biuf" for column in columns.values()]
    return len(columns) > 1 and not all(plain)


def _kind_of(name, column):
    values = [value for value in column.tolist() if not is_missing(value)]
    if not values:
        raise ValueError(
            f"Column {name!r} has no value at all. Leave it out of `features`. "
            f"Received: {len(column)} missing values"
        )
    if column.dtype.kind in "biuf":
        return "number"
    if column.dtype.kind == "M":
        return "date"
    if all(isinstance(value, _DATE) for value in values):
        return "date"
    if all(isinstance(value, _NUMBER) for value in values):
        return "number"
    texts = [as_text(value) for value in values]
    if all(map(_ISO.fullmatch, texts)):
        return "date"
    words = np.mean([len(text.split()) for text in texts])
    return "text" if words >= _WORDS and len(set(texts)) > _FEW else "category"


def read_column(name, column, kind):
    """A column as a model gets it, (n, 1): float32, or an array of strings.

    A missing number or date is NaN, a missing category or text is empty. Dates
    are days since 1970.
    """
    if kind in ("category", "text"):
        values = [_as_string(value) for value in column]
        return np.array(values, object)[:, None]
    read = _as_number if kind == "number" else _as_days
    if column.dtype.kind == "M":
        return _days(column).astype("float32")[:, None]
    values = np.empty(len(column), "float64")
    for i, value in enumerate(column.tolist()):
        try:
            values[i] = np.nan if _lacks(value) else read(value)
        except (TypeError, ValueError, decimal.InvalidOperation) as error:
            raise ValueError(
                f"Column {name!r} is one of {kind}s, and holds {value!r} in "
                f"row {i}, which is none. {_CURES[kind]} "
                f"Received: {len(column)} rows"
            ) from error
    return values.astype("float32")[:, None]


_CURES = {
    "number": "Write numbers as 1234.5, within float32, and leave a cell empty "
    'where one is missing; pass `kinds={"...": "category"}` for names.',
    "date": "Write dates as 2024-03-01 or 2024-03-01T12:30.",
}


def _lacks(value):
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def _as_string(value):
    if is_missing(value):
        return ""
    # pandas makes floats of integers where one is missing.
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return as_text(value)


def _as_number(value):
    number = float(value)
    if not abs(number) <= _LARGEST:
        raise ValueError("too large for float32")
    return number


def _as_days(value):
    if isinstance(value, str):
        # Python 3.10 does not know the Z of UTC.
        value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if isinstance(value, bool) or isinstance(value, numbers.Real):
        raise TypeError("a number")
    if getattr(value, "tzinfo", None) is not None:
        value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    return _days(np.array(value, "datetime64[us]"))


def _days(dates):
    """Days since 1970, with their fraction."""
    dates = np.asarray(dates, "datetime64[us]")
    return (dates - np.datetime64(0, "us")) / np.timedelta64(1, "D")
