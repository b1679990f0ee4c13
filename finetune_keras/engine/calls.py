"""Calls of operations: changed for a while, their tensors seen and replaced."""

import contextlib
import functools

import keras


@contextlib.contextmanager
def changed_calls(changes):
    """Has operations be called by other functions, and restores them.

    `changes` are pairs of an operation and a function, which is given how the
    operation is called and returns how it is to be.
    """
    replaced = []
    try:
        for operation, change in changes:
            for name in ("call", "quantized_call"):
                function = getattr(operation, name, None)
                if function is not None:
                    own = vars(operation).get(name)
                    replaced.append((operation, name, own))
                    new = functools.wraps(function)(change(function))
                    vars(operation)[name] = new
        yield
    finally:
        for operation, name, own in reversed(replaced):
            if own is None:
                del vars(operation)[name]
            else:
                vars(operation)[name] = own


def swapped_inputs(swap):
    """A change of a call by which `swap` replaces each thing that it reads."""

    def change(function):
        def call(*args, **kwargs):
            args, kwargs = keras.tree.map_structure(swap, (args, kwargs))
            return function(*args, **kwargs)

        return call

    return change


def swapped_output(swap):
    """A change of a call by which `swap` replaces what it gives."""

    def change(function):
        return lambda *args, **kwargs: swap(function(*args, **kwargs))

    return change


def without_activation(operation):
    """A change of a call that leaves out the softmax or sigmoid in it."""

    def change(function):
        if not hasattr(operation, "activation"):
            return lambda inputs, *args, **kwargs: inputs

        def call(*args, **kwargs):
            with other_activation(operation, keras.activations.linear):
                return function(*args, **kwargs)

        return call

    return change


@contextlib.contextmanager
def other_activation(layer, activation):
    """Lets a layer have another activation, or none."""
    # Past Keras's tracking, which would take this for a new part.
    members = vars(layer)
    own, before = "activation" in members, layer.activation
    members["activation"] = activation
    try:
        yield
    finally:
        if own:
            members["activation"] = before
        else:
            del members["activation"]
