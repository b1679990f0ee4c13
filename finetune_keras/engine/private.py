"""What the library takes from inside Keras, as of Keras 3.15."""

from keras.src.backend import AutocastScope, get_keras_mask, set_keras_mask
from keras.src.backend.common import global_state
from keras.src.saving.serialization_lib import in_safe_mode

__all__ = [
    "AutocastScope",
    "get_keras_mask",
    "global_state",
    "in_safe_mode",
    "set_keras_mask",
]


def dataset_of_indices(indices, batch_size, shuffle):
    """The `tf.data.Dataset` that `fit` would make of an array."""
    from keras.src.trainers.data_adapters import array_data_adapter

    adapter = array_data_adapter.ArrayDataAdapter(
        indices, batch_size=batch_size, shuffle=shuffle
    )
    return adapter.get_tf_dataset()
