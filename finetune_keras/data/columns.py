"""Columns of texts that may be numbers."""

import math
import re

import numpy as np

_INTEGER = re.compile(r"\s*[+-]?(0|[1-9]\d*)\s*", re.ASCII)
_FLOAT = re.compile(
    r"\s*[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII
)
# As elsewhere: with a decimal comma, thousands, a sign of percent; or none.
_ALMOST = re.compile(
    r"\s*[+-]?(nan|inf(inity)?|\d+,\d+|\d+(\.\d+)?\s?%|"
    r"\d{1,3}([,' ]\d{3})+(\.\d+)?|\d{1,3}([.' ]\d{3})+,\d+)\s*",
    re.ASCII | re.IGNORECASE,
)
# What has a leading zero is a name, such as a postcode.
_NAME = re.compile(r"\s*[+-]?0\d+\s*", re.ASCII)
_EXACT = 2**53


def read_numbers(column):
    """Numbers of a column of strings where every value is one, else objects.

    Empty strings are missing.
    """
    texts = np.array(column, object)
    given = [v for v in column if v.strip()]
    if not given or not all(map(_is_number, given)):
        return texts
    whole = all(map(_INTEGER.fullmatch, given))
    kind = int if whole else float
    numbers = [kind(v) if v.strip() else math.nan for v in column]
    if whole and max(map(abs, map(int, given))) > _EXACT:
        # Long ids, of which floats would make one.
        fits = len(given) == len(column) and np.array(numbers).dtype.kind == "i"
        return np.array(numbers) if fits else texts
    return np.array(numbers)


def odd_among_numbers(column):
    """Finds what keeps a column of strings from being numbers.

    The places of the values that are none, where at least half of the values
    are, or are written as such elsewhere; else an empty list.
    """
    if not all(isinstance(value, str) for value in column):
        return []
    given = [i for i, value in enumerate(column) if value.strip()]
    odd = [i for i in given if not _is_number(column[i])]
    almost = [i for i in odd if _ALMOST.fullmatch(column[i])]
    numbers = len(given) - len(odd) + len(almost)
    if not odd or 2 * numbers < len(given):
        return []
    return [] if any(_NAME.fullmatch(column[i]) for i in odd) else odd


def _is_number(text):
    return bool(_FLOAT.fullmatch(text)) and math.isfinite(float(text))
