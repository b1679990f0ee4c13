"""What callbacks remember of a run, as plain data and arrays."""

import collections
import warnings

import keras
import numpy as np

from finetune_keras.training.described import digest

_PLAIN = (str, bool, int, float, type(None))
_OF_KERAS = ("_model", "model", "params", "validation_data")
# They turn out anew: Keras turns the sign of `min_delta` once it knows which
# way is better, and looks for that in each process.
_FOUND_OUT = ("min_delta", "monitor_op")
# They watch, and change nothing that a run ends with.
_WATCHING = (
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)


class CallbackState:
    """The attributes of callbacks that change while a run goes on.

    Numbers, strings, arrays, and lists, tuples, sets, dicts and deques of them
    are kept. What is no plain data is not, and is told of once.

    Args:
        callbacks: List of `keras.callbacks.Callback`s, after
            `on_train_begin`.
    """

    def __init__(self, callbacks):
        self.callbacks = dict(zip(_names(callbacks), callbacks, strict=True))
        self.changed = {name: set() for name in self.callbacks}
        self.first = {
            name: {key: _mark(value) for key, value in _members(one)}
            for name, one in self.callbacks.items()
        }

    def pack(self):
        """Returns `(facts, arrays)` of what has changed since the beginning."""
        facts, arrays = {}, {}
        for name, callback in self.callbacks.items():
            self._look(name, callback)
            kept = facts[name] = {}
            for key in sorted(self.changed[name]):
                value = vars(callback).get(key)
                kept[key] = _packed(value, f"callback/{name}/{key}", arrays)
        return facts, arrays

    def _look(self, name, callback):
        first, changed = self.first[name], self.changed[name]
        for key, value in _members(callback):
            mark = _mark(value)
            if key in changed or first.get(key) == mark:
                continue
            if not mark.startswith("plain"):
                first[key] = mark
                self._tell(name, callback, key, value)
                continue
            changed.add(key)

    def _tell(self, name, callback, key, value):
        if isinstance(callback, _WATCHING):
            return
        warnings.warn(
            f"`{name}.{key}` changes while the run goes on, and is no plain "
            "data: a run that goes on after a kill begins without it. Keep it "
            "as numbers, strings, arrays, or lists and dicts of them. "
            f"Received: a {type(value).__name__}",
            stacklevel=2,
        )

    def unpack(self, facts, arrays):
        """Gives the callbacks back what `pack` returned."""
        for name in facts.keys() & self.callbacks.keys():
            for key, value in facts[name].items():
                value = _unpacked(value, arrays)
                setattr(self.callbacks[name], key, value)
                self.changed[name].add(key)


def check_callbacks(facts, callbacks):
    """Refuses to go on without a callback that remembers something.

    Args:
        facts: Dict, from `CallbackState.pack`.
        callbacks: List of `keras.callbacks.Callback`s.

    Raises:
        ValueError: If one is missing.
    """
    names = _names(callbacks)
    missing = [
        name
        for name, kept in facts.items()
        if kept and name not in names and not _only_watches(name)
    ]
    if missing:
        raise ValueError(
            f"The run had the callbacks {missing}, which remember what they "
            "have seen, and now it has not. Pass them again, or give this run "
            f"an empty folder. Received: callbacks={names}"
        )


def _names(callbacks):
    """Names callbacks by their class; a second one has a number."""
    names, seen = [], collections.Counter()
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


def _only_watches(name):
    return name.split()[0] in {kind.__name__ for kind in _WATCHING}


def _members(callback):
    hidden = (*_OF_KERAS, *_FOUND_OUT)
    return [(k, v) for k, v in vars(callback).items() if k not in hidden]


def _mark(value):
    """What tells whether an attribute has changed."""
    arrays = {}
    try:
        return f"plain {_packed(value, '', arrays)} {digest(arrays)}"
    except TypeError:
        return f"object {id(value)}"


def _packed(value, name, arrays):
    """Turns a value into what JSON has, and arrays into an entry of `arrays`.

    Raises:
        TypeError: If it is no plain data.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OV":
        key = f"{name}/{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return {"number": value.dtype.str, "is": value.item()}
    if type(value) in _PLAIN:
        return value
    if type(value) in (dict, collections.OrderedDict):
        return {"dict": _packed_all(value.items(), name, arrays)}
    kinds = {list: "list", tuple: "tuple", set: "set"}
    if type(value) in kinds:
        return {kinds[type(value)]: _packed_all(value, name, arrays)}
    if type(value) is collections.deque:
        parts = _packed_all(value, name, arrays)
        return {"deque": parts, "maxlen": value.maxlen}
    raise TypeError(type(value))


def _packed_all(values, name, arrays):
    return [_packed(value, name, arrays) for value in values]


def _unpacked(value, arrays):
    """Returns what `_packed` was given."""
    if not isinstance(value, dict):
        return value
    (kind, parts), *rest = value.items()
    if kind == "array":
        return np.array(arrays[parts])
    if kind == "number":
        return np.dtype(parts).type(value["is"])
    parts = [_unpacked(part, arrays) for part in parts]
    if kind == "deque":
        return collections.deque(parts, value["maxlen"])
    kinds = {"list": list, "tuple": tuple, "set": set, "dict": dict}
    return kinds[kind](parts)
