"""Anything as plain data that is the same in the next process."""

import concurrent.futures
import functools
import hashlib
import itertools
import types

import keras
import numpy as np

_PLAIN = (str, bool, int, float, type(None))
_LONGEST = 200  # of a list or string that is kept as it is
_CHUNK = 2**24


def describe(value, without=()):
    """Describes a value: equal descriptions, equal behaviour.

    Objects of Keras are their class and config; a function its name and code;
    arrays and long lists a digest of all that is in them. Of an object that
    tells nothing of itself it is the class, and the attributes that are plain.
    The names in `without` are left out of dicts and configs, at any depth.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        parts = [describe(part, without) for part in value]
        return parts if len(parts) <= _LONGEST else _short(parts)
    if isinstance(value, dict):
        pairs = [(str(k), describe(v, without)) for k, v in value.items()]
        return {name: part for name, part in pairs if name not in without}
    if isinstance(value, str) and len(value) > _LONGEST:
        return _short(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted(str(describe(part, without)) for part in value)
    return _describe_object(value, without)


def _describe_object(value, without):
    if isinstance(value, functools.partial):
        parts = {"args": value.args, "kwargs": value.keywords}
        function = describe(value.func, without)
        return {"partial": function, **describe(parts, without)}
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, types.MethodType):
        value = value.__func__
    if isinstance(value, types.FunctionType):
        return _describe_function(value)
    if hasattr(value, "__array__") or keras.ops.is_tensor(value):
        return f"array {digest(value)}"
    try:
        config = value.get_config()
    except Exception:  # of the user's own, or of none
        members = getattr(value, "__dict__", {}).items()
        config = {
            name: part
            for name, part in members
            if not name.startswith("_") and isinstance(part, _PLAIN)
        }
    return {"class": type(value).__name__, **describe(config, without)}


def _describe_function(function):
    """Keras's own are known by name; others by their code, too."""
    if (function.__module__ or "").split(".")[0] == "keras":
        return function.__name__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    parts = [function.__defaults__, cells, function.__kwdefaults__]
    parts = [part for part in parts if part is not function]
    known = [_describe_code(function.__code__), repr(_plain_alone(parts))]
    return f"{function.__qualname__} with code {_short(known)}"


def _plain_alone(value):
    # A closure may hold anything, such as the model that holds the function.
    if isinstance(value, (list, tuple)):
        return [_plain_alone(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain_alone(part) for key, part in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return digest(value)
    if isinstance(value, types.FunctionType):
        return value.__qualname__
    return value if isinstance(value, _PLAIN) else type(value).__qualname__


def _describe_code(code):
    """What a function does, wherever in its file it stands."""
    constants = [
        _describe_code(part)
        if isinstance(part, types.CodeType)
        else sorted(map(repr, part))
        if isinstance(part, frozenset)
        else repr(part)
        for part in code.co_consts
    ]
    return [code.co_code.hex(), constants, code.co_names]


def _short(value):
    return digest(repr(value))


def digest(*data):
    """Returns a digest of all in arrays, texts, or structures of them."""
    found = hashlib.blake2b(digest_size=8)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for key, part in _leaves(data, ""):
            part = _as_array(part)
            found.update(f"{key}{part.dtype.name}{part.shape}".encode())
            # A thread for each word would take longer than the words.
            run = pool.map if part.nbytes > _CHUNK else map
            for chunk in run(_digest_rows, *_chunks(part)):
                found.update(chunk)
    return found.hexdigest()


def _leaves(data, key):
    """Yields the arrays in a structure, each with its place in it."""
    if isinstance(data, dict):
        for name in sorted(data, key=str):
            yield from _leaves(data[name], f"{key}/{name}")
    elif not isinstance(data, (list, tuple)):
        yield key, data
    elif all(isinstance(part, (*_PLAIN, bytes)) for part in data):
        yield key, np.array(data, object)
    else:
        for i, part in enumerate(data):
            yield from _leaves(part, f"{key}/{i}")


def _as_array(part):
    if keras.ops.is_tensor(part) or isinstance(part, keras.Variable):
        return keras.ops.convert_to_numpy(part)
    return np.asarray(part)


def _chunks(array):
    """The array again and again, and the rows of each chunk."""
    if not array.ndim:
        return [array[None]], [0], [1]
    row = max(array[:1].nbytes, 1)
    step = max(_CHUNK // row, 1)
    starts = range(0, len(array), step)
    return itertools.repeat(array, len(starts)), starts, itertools.repeat(step)


def _digest_rows(array, start, step):
    rows = np.ascontiguousarray(array[start : start + step])
    # The bytes of an array of objects are places in memory.
    if rows.dtype.kind in "OU":
        data = repr(rows.tolist()).encode("utf-8", "surrogatepass")
    else:
        data = rows.reshape(-1).view("u1")
    # Most processors have instructions for it.
    return hashlib.sha256(data).digest()


def differences(before, now, path=""):
    """Lists what differs between two descriptions, as sentences.

    Such as `"class_weight was None and is {'1': 2.0}"`.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        names = dict.fromkeys([*before, *now])
        pairs = [(f"{path}.{n}", before.get(n), now.get(n)) for n in names]
    elif (
        isinstance(before, list)
        and isinstance(now, list)
        and len(before) == len(now)
    ):
        parts = enumerate(zip(before, now, strict=True))
        pairs = [(f"{path}[{i}]", *both) for i, both in parts]
    else:
        equal = repr(before) == repr(now)
        was = f"{path.lstrip('.')} was {_cut(before)} and is {_cut(now)}"
        return [] if equal else [was]
    return [line for name, a, b in pairs for line in differences(a, b, name)]


def _cut(value):
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
