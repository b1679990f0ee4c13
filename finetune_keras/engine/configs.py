"""Configs of models that forget what they were made with."""

import contextlib
import functools
import inspect

import keras

from finetune_keras.engine.packages import keras_hub

_PLAIN = (bool, int, float, str)
# Keras itself keeps these.
_KEPT = {"name", "dtype", "trainable"}


@contextlib.contextmanager
def whole_configs(layers):
    """Lets parts of KerasHub write what their `get_config` forgets.

    The Llama of KerasHub 0.32 does not write that its embedding is tied, and
    loads with weights more than it was saved with; preprocessors for BART do
    not write how much they read. Where an argument of the constructor is kept
    as an attribute, and is not the default, it is written in here.

    Args:
        layers: Iterable of layers, of which some are such models and
            preprocessors.
    """
    parts = {id(layer): layer for layer in layers if _is_of_hub(layer)}
    parts = parts.values()
    lost = [(part, _forgotten(part)) for part in parts]
    lost = [(part, found) for part, found in lost if found]
    for part, found in lost:
        part.get_config = functools.partial(_whole, part.get_config, found)
    try:
        yield
    finally:
        for part, _ in lost:
            del part.get_config


def _is_of_hub(layer):
    if type(layer).__module__.split(".")[0] != "keras_hub":
        return False
    kinds = keras.Model, keras_hub.models.Preprocessor
    return isinstance(layer, kinds)


def _whole(get_config, found):
    return {**get_config(), **found}


def _forgotten(part):
    """Dict of plain arguments that a part has and does not write."""
    parameters = inspect.signature(type(part).__init__).parameters
    kept = {name: getattr(part, name, None) for name in parameters}
    kept = {
        name: value
        for name, value in kept.items()
        if isinstance(value, _PLAIN)
        and name not in _KEPT
        and value != parameters[name].default
    }
    written = part.get_config() if kept else {}
    return {name: value for name, value in kept.items() if name not in written}
