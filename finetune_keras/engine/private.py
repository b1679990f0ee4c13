"""What the library takes from inside Keras, from 3.8 to 3.15."""

import keras
from keras.src.backend import AutocastScope, get_keras_mask, set_keras_mask
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.function import make_node_key
from keras.src.saving.serialization_lib import in_safe_mode
from keras.src.utils import naming

__all__ = [
    "AutocastScope",
    "Functional",
    "functional_like_constructor",
    "get_keras_mask",
    "global_state",
    "in_safe_mode",
    "make_node_key",
    "naming",
    "set_keras_mask",
]


def tensorflow_trainer():
    """The module with the `fit` of TensorFlow."""
    from keras.src.backend.tensorflow import trainer

    return trainer


def dataset_of_indices(indices, batch_size, shuffle):
    """The `tf.data.Dataset` that `fit` would make of an array."""
    from keras.src.trainers.data_adapters import array_data_adapter

    adapter = array_data_adapter.ArrayDataAdapter(
        indices, batch_size=batch_size, shuffle=shuffle
    )
    return adapter.get_tf_dataset()


def inner_optimizer(optimizer):
    """The optimizer that steps, under one that only scales its loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimizer_of(optimizer, variable):
    """The optimizer that holds the slots of a variable."""
    optimizer = inner_optimizer(optimizer)
    choose = getattr(optimizer, "_optimizer_map", None)
    return choose(variable) if choose else optimizer


def way_of(metric):
    """`"up"` or `"down"`, where a metric of Keras knows it, or `None`."""
    return getattr(metric, "_direction", None)


def flat_inputs(model):
    """Lists the inputs of a model in the order of their structure."""
    inputs = getattr(model, "inputs", None) or []
    return keras.tree.flatten(getattr(model, "_inputs_struct", inputs))
