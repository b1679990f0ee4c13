"""Activations of frozen prefixes that several runs share."""

import hashlib
import itertools
import json
import weakref

import keras
import numpy as np

from finetune_keras.engine import graph

_FUNCTIONS = weakref.WeakKeyDictionary()
_NUMBERS = itertools.count()


class SharedActivations:
    """Remembers what a frozen prefix made of an example, for later runs.

    Runs on parts of the same data with the same pretrained weights, as folds
    of a cross-validation or trials of a search are, compute each example once.
    A prefix is known by its layers and weights, an example by its content, so
    a run with another prefix or with other data never gets a wrong one.

    Pass it as `cache={"shared": ...}` to each `fine_tune`. Everything is kept
    in memory, as long as the object lives.

    Attributes:
        computed: Integer, examples that went through a prefix so far.
        found: Integer, examples that were there already.
    """

    def __init__(self):
        self.rows = {}
        self._digests = {}
        self.computed = 0
        self.found = 0

    def activations(self, prefix, x, compute):
        """Lists the activations of a batch, computed where they are new.

        `prefix` is from `describe_prefix`; there is one for each output of it.
        """
        known = self.rows.setdefault(prefix, {})
        keys = self._keys(x)
        if all(key in known for key in keys):
            self.found += len(keys)
        else:
            self.computed += len(keys)
            rows = zip(*compute(x), strict=True)
            known.update(zip(keys, map(_copies, rows), strict=False))
        columns = zip(*(known[key] for key in keys), strict=True)
        return [np.stack(column) for column in columns]

    def _keys(self, x):
        """Digests of examples, taken once of arrays that do not change."""
        parts = keras.tree.flatten(x)
        if not all(map(_is_constant, parts)):
            return example_digests(x)
        facts = [
            (a.__array_interface__["data"], a.shape, a.strides, str(a.dtype))
            for a in parts
        ]
        facts = tuple(facts)
        if facts not in self._digests:
            # With the arrays, whose memory no other may have.
            self._digests[facts] = example_digests(x), parts
        return self._digests[facts][0]


def _is_constant(part):
    return isinstance(part, np.ndarray) and not part.flags.writeable


def _copies(row):
    return [np.array(part) for part in row]


def example_digests(x):
    """Lists a digest of each example of a batch."""
    parts = [np.asarray(part) for part in keras.tree.flatten(x)]
    return [
        hashlib.blake2b(
            b"".join(_bytes(part[i]) for part in parts), digest_size=16
        ).digest()
        for i in range(len(parts[0]))
    ]


def _bytes(value):
    # The bytes of an array of objects, such as strings, would be addresses.
    value = np.asarray(value)
    return repr(value.tolist()).encode() if value.dtype == "O" else bytes(value)


def _constant(value):
    """Text for what is no JSON; arrays and weights by their content."""
    if isinstance(value, keras.KerasTensor):
        return "tensor"
    if isinstance(value, keras.Variable) or hasattr(value, "__array__"):
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(value))
        content = hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
        return f"{values.dtype} {values.shape} {content}"
    return repr(value)


def _number_of(function):
    """A number of its own for each function: nobody sees what it reads."""
    if function not in _FUNCTIONS:
        _FUNCTIONS[function] = next(_NUMBERS)
    return _FUNCTIONS[function]


def describe_prefix(prefix):
    """A digest of the layers, their order and the weights.

    Names do not count: Keras numbers them anew at each build.
    """
    digest = hashlib.blake2b(digest_size=16)
    steps, _, outputs = graph.walk(prefix)
    for step in steps:
        operation = step.operation
        config = dict(operation.get_config())
        config.pop("name", None)
        facts = [type(operation).__name__, config, step.inputs, step.outputs]
        facts += [_constant(x) for x in step.arguments]
        if isinstance(operation, keras.layers.Lambda):
            facts.append(_number_of(operation.function))
        digest.update(json.dumps(facts, default=_constant).encode())
    digest.update(json.dumps(outputs).encode())
    for variable in prefix.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(values.tobytes())
    return digest.hexdigest()
