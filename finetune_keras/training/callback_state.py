"""What callbacks remember of a run, as plain data and arrays."""

import collections
import warnings

import keras

from finetune_keras.training.described import digest
from finetune_keras.training.observer import Observer
from finetune_keras.training.saved import packed

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


class CallbackState(Observer):
    """The attributes of callbacks that change while a run goes on.

    Numbers, strings, arrays, and lists, tuples, sets, dicts and deques of them
    are kept. What is no plain data is not, and is told of once.

    Args:
        callbacks: List of `keras.callbacks.Callback`s.
    """

    def __init__(self, callbacks):
        self.callbacks = dict(zip(_names(callbacks), callbacks, strict=True))
        self.changed = {name: set() for name in self.callbacks}
        self.first, self.loaded = {}, {}

    def begin(self):
        """Looks at them, as they are now that training has begun for them."""
        for name, callback in self.callbacks.items():
            self.first[name] = {k: _mark(v) for k, v in _members(callback)}
            for key, value in self.loaded.get(name, {}).items():
                setattr(callback, key, value)
                self.changed[name].add(key)

    def state(self):
        """Returns what has changed since the beginning, a dict for each."""
        return {
            name: {
                key: value
                for key, value in _members(callback)
                if self._is_kept(name, key, value)
            }
            for name, callback in self.callbacks.items()
        }

    def _is_kept(self, name, key, value):
        mark, first = _mark(value), self.first[name]
        if not mark.startswith("plain"):
            if first.get(key) != mark:
                first[key] = mark
                self._tell(name, key, value)
            return False
        if first.get(key) != mark:
            self.changed[name].add(key)
        return key in self.changed[name]

    def _tell(self, name, key, value):
        if isinstance(self.callbacks[name], _WATCHING):
            return
        warnings.warn(
            f"`{name}.{key}` changes while the run goes on, and is no plain "
            "data: a run that goes on after a kill begins without it. Keep it "
            "as numbers, strings, arrays, or lists and dicts of them. "
            f"Received: a {type(value).__name__}",
            stacklevel=2,
        )

    def load_state(self, state):
        """Refuses to go on without a callback that remembers something."""
        missing = [
            name
            for name, kept in state.items()
            if kept and name not in self.callbacks and not _only_watches(name)
        ]
        if missing:
            raise ValueError(
                f"The run had the callbacks {missing}, which remember what "
                "they have seen, and now it has not. Pass them again, or give "
                "this run an empty folder. "
                f"Received: callbacks={list(self.callbacks)}"
            )
        self.loaded = state


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
        return f"plain {packed(value, arrays)} {digest(arrays)}"
    except TypeError:
        return f"object {id(value)}"
