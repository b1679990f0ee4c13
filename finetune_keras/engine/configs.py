"""Configs of models that forget what they were made with."""

import contextlib
import functools
import inspect

import keras

_PLAIN = (bool, int, float, str)
# Keras itself keeps these.
_KEPT = {"name", "dtype", "trainable"}


@contextlib.contextmanager
def whole_configs(layers):
    """Lets models of KerasHub write what their `get_config` forgets.

    The Llama of KerasHub 0.32 does not write that its embedding is tied, and
    loads with weights more than it was saved with. Where an argument of the
    constructor is kept as an attribute, and is not the default, it is written
    in here.

    Args:
        layers: Iterable of layers, of which some are models.
    """
    models = [layer for layer in layers if _is_of_hub(layer)]
    lost = [(model, _forgotten(model)) for model in models]
    lost = [(model, found) for model, found in lost if found]
    for model, found in lost:
        model.get_config = functools.partial(_whole, model.get_config, found)
    try:
        yield
    finally:
        for model, _ in lost:
            del model.get_config


def _is_of_hub(layer):
    module = type(layer).__module__.split(".")[0]
    return isinstance(layer, keras.Model) and module == "keras_hub"


def _whole(get_config, found):
    return {**get_config(), **found}


def _forgotten(model):
    """Dict of plain arguments that a model has and does not write."""
    parameters = inspect.signature(type(model).__init__).parameters
    kept = {name: getattr(model, name, None) for name in parameters}
    kept = {
        name: value
        for name, value in kept.items()
        if isinstance(value, _PLAIN)
        and name not in _KEPT
        and value != parameters[name].default
    }
    written = model.get_config() if kept else {}
    return {name: value for name, value in kept.items() if name not in written}
