"""What the config of an object must hold."""

import inspect

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def config_keys(obj):
    """What a config must hold: our arguments and what Keras's class adds."""
    keys = set()
    for kind in type(obj).__mro__:
        if kind.__module__.split(".")[0] in ("keras", "keras_hub"):
            return keys | _keras_keys(kind, obj)
        if "__init__" in vars(kind):
            signature = inspect.signature(kind.__init__)
            _, *arguments = signature.parameters.values()
            keys |= {x.name for x in arguments if x.kind not in _STARRED}
            if not any(x.kind is x.VAR_KEYWORD for x in arguments):
                break
    return keys


def _keras_keys(kind, obj):
    try:
        return set(kind.get_config(obj))
    except (AttributeError, NotImplementedError):
        return set()


def is_plain(value):
    """Tells whether a value is in a config as it is in the object."""
    return isinstance(value, (int, float, str, type(None)))
