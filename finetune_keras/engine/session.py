"""Keras's own state between two trials."""

import gc

import keras

from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.engine.private import global_state, naming

# What a user has set, and `clear_session` would forget too.
_KEPT = (
    "custom_objects_scope_dict",
    "distribution",
    "dtype_policy",
    "flash_attention",
    "interactive_logging",
    "nnx_enabled",
    "torch_device",
    "traceback_filtering",
)


def clear_session():
    """Clears what Keras remembers of models, and keeps what a user has set.

    Names of layers are then counted from the start.
    """
    if _in_strategy():
        # `tf.distribute` keeps the strategy in the graph that Keras resets.
        naming.reset_uids()
        gc.collect()
        return
    kept = {name: global_state.get_global_attribute(name) for name in _KEPT}
    keras.backend.clear_session()
    for name, value in kept.items():
        if value is not None:
            global_state.set_global_attribute(name, value)


def _in_strategy():
    if not backend.on("tensorflow"):
        return False
    return tf.distribute.has_strategy()
