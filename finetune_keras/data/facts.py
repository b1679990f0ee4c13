"""What a file says of itself, checked before it is believed."""

import contextlib
import json
import os
import pathlib
import zipfile
import zlib

from finetune_keras.arguments import Kind

# What Python raises for what is cut off, changed or made up.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)


TEXT = Kind("a string", lambda v: isinstance(v, str))
TRUTH = Kind("true or false", lambda v: isinstance(v, bool))
NUMBER = Kind("a number", lambda v: type(v) in (int, float))
COUNT = Kind("a whole number", lambda v: type(v) is int and v >= 0)
DICT = Kind("an object", lambda v: isinstance(v, dict))


def either(*kinds):
    """The kind of what is of one of several kinds."""
    words = " or ".join(kind.words for kind in kinds)
    return Kind(words, lambda v: any(kind.holds(v) for kind in kinds))


def list_of(kind, size=None):
    """The kind of lists of one kind, of any size or of a given one."""
    count = "" if size is None else f"{size} times "
    return Kind(
        f"a list of {count}{kind.words}",
        lambda v: (
            isinstance(v, list)
            and len(v) in (size, len(v) if size is None else size)
            and all(map(kind.holds, v))
        ),
    )


def dict_of(kind):
    """The kind of dicts from strings to values of a kind."""
    return Kind(
        f"an object whose values are each {kind.words}",
        lambda v: isinstance(v, dict) and all(map(kind.holds, v.values())),
    )


def object_of(**kinds):
    """The kind of dicts that have each of some names, of its kind."""
    inner = ", ".join(f"{name}: {kind.words}" for name, kind in kinds.items())
    return Kind(
        f"an object with {inner}",
        lambda v: (
            isinstance(v, dict)
            and all(n in v and kind.holds(v[n]) for n, kind in kinds.items())
        ),
    )


class DamagedFile(ValueError):
    """A file that cannot be used: which, why, and what can be done."""


def check_facts(facts, expected, path):
    """Raises where facts from a file lack something or have another kind.

    Names that are not among those expected are let pass.
    """
    if not isinstance(facts, dict):
        raise damaged(path, f"it holds {_shown(facts)} in place of facts")
    for name, kind in expected.items():
        if name not in facts:
            raise damaged(path, f"it lacks {name!r}")
        if not kind.holds(facts[name]):
            raise damaged(
                path, f"{name!r} must be {kind.words}, is {_shown(facts[name])}"
            )


def check_expansion(size, packed, path):
    """Raises where a small file would fill the memory once it is unpacked.

    That is where it would grow more than a hundredfold, beyond 64 MiB.
    """
    if size > 2**26 + 100 * packed:
        raise damaged(
            path,
            f"its {packed:,} bytes would expand to {size:,}, far more than "
            "what is written here does",
        )


@contextlib.contextmanager
def reading(path):
    """Turns what Python raises for a broken file into one clear error."""
    try:
        yield
    except DamagedFile:
        raise
    except _BROKEN as error:
        plain = type(error) is ValueError
        reason = str(error) if plain else f"{type(error).__name__}: {error}"
        raise damaged(path, reason) from error


def damaged(path, reason):
    """Makes the error of a file that cannot be used."""
    return DamagedFile(
        f"The file is damaged or was not written by finetune_keras: {reason}. "
        "Write it anew, or get it once more from where it comes from. "
        f"Received: {os.fspath(path)[:300]!r}"
    )


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def read_json(path, expected):
    """Reads a JSON file of facts, which must be of the expected kinds."""
    with reading(path):
        facts = json.loads(pathlib.Path(path).read_text("utf-8"))
    check_facts(facts, expected, path)
    return facts
