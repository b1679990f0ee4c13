"""Plain data and arrays as one file, without pickle."""

import collections
import io
import json
import zipfile

import numpy as np

from finetune_keras.engine.optimizer_values import copy_of

_FORMAT = 3
_PLAIN = (str, bool, int, float, type(None))
_KINDS = {list: "list", tuple: "tuple", set: "set"}


def encode(value):
    """Turns a value into bytes.

    It may be of numbers, strings, arrays, and lists, tuples, sets, dicts and
    deques of them; a `TypeError` is raised at anything else.
    """
    arrays = {}
    facts = {"format": _FORMAT, "value": packed(value, arrays)}
    facts["arrays"] = sorted(arrays)
    facts = np.frombuffer(json.dumps(facts).encode(), "uint8")
    buffer = io.BytesIO()
    np.savez(buffer, facts=facts, **arrays)
    return buffer.getbuffer()


def decode(file):
    """Returns the value that `encode` was given, from a file.

    Raises:
        OtherFormat: If another version of this library wrote it.
        ValueError: If the file is damaged, or not one that `encode` made.
    """
    try:
        _check_size(file)
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(arrays.pop("facts").tobytes().decode())
        if facts.get("format") != _FORMAT:
            raise OtherFormat(file)
        if facts["arrays"] != sorted(arrays):
            raise ValueError("it lacks arrays, or has others")
        return _unpacked(facts["value"], arrays)
    except (PermissionError, OtherFormat):
        raise
    # Damage shows in whatever part of NumPy, zip or JSON meets it first.
    except Exception as error:
        raise ValueError(
            f"The state of a run in {str(file)!r} is damaged "
            f"({type(error).__name__}: {str(error)[:80]})."
        ) from None


class OtherFormat(ValueError):
    """The file is whole, and of another version of this library."""


def _check_size(file):
    """Refuses what would take more memory than it takes on disk."""
    with zipfile.ZipFile(file) as stored:
        for member in stored.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed")
            with stored.open(member) as part:
                version = np.lib.format.read_magic(part)
                read = getattr(
                    np.lib.format, f"read_array_header_{version[0]}_0"
                )
                shape, _, dtype = read(part)
                size = dtype.itemsize * int(np.prod(shape, dtype=object))
                if part.tell() + size != member.file_size:
                    raise ValueError(f"{member.filename} is of another size")
    if hasattr(file, "seek"):
        file.seek(0)


def packed(value, arrays):
    """Turns a value into what JSON has, and arrays into entries of `arrays`.

    Raises:
        TypeError: If it is no plain data.
    """
    if isinstance(value, np.ndarray) and _is_known(value.dtype):
        key = f"array{len(arrays)}"
        # NumPy would not know it again.
        short = value.dtype.name == "bfloat16"
        arrays[key] = value.view("uint16") if short else value
        return {"bfloat16" if short else "array": key}
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return {"number": value.dtype.str, "is": value.item()}
    if type(value) in _PLAIN:
        return value
    if type(value) in (dict, collections.OrderedDict):
        return {"dict": [packed(list(pair), arrays) for pair in value.items()]}
    if type(value) is collections.deque:
        parts = [packed(part, arrays) for part in value]
        return {"deque": parts, "maxlen": value.maxlen}
    if type(value) in _KINDS:
        return {_KINDS[type(value)]: [packed(part, arrays) for part in value]}
    raise TypeError(type(value))


def _is_known(dtype):
    return dtype.name == "bfloat16" or dtype.kind not in "OV"


def _unpacked(value, arrays):
    """Returns what `packed` was given."""
    if not isinstance(value, dict):
        return value
    (kind, parts), *rest = value.items()
    if kind == "array":
        return np.array(arrays[parts])
    if kind == "bfloat16":
        import ml_dtypes

        return arrays[parts].view(ml_dtypes.bfloat16)
    if kind == "number":
        return np.dtype(parts).type(value["is"])
    parts = [_unpacked(part, arrays) for part in parts]
    if kind == "deque":
        return collections.deque(parts, value["maxlen"])
    kinds = {"list": list, "tuple": tuple, "set": set, "dict": dict}
    return kinds[kind](parts)


def values_of(variables):
    """Copies the values of variables."""
    return [copy_of(variable) for variable in variables]


def assign(variables, values):
    """Gives variables the values that `values_of` returned."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
