"""What layers and optimizers of Keras know of themselves, and do not tell.

Each function reads or sets private attributes, as Keras has them from 3.8 on.
"""

import keras
from keras import ops


def every_layer(layer):
    """Lists a layer and all that it holds at any depth, tracked in any way."""
    return list(layer._flatten_layers())


def direct_layers(layer):
    """Lists the layers that a layer holds itself."""
    return list(getattr(layer, "_layers", []))


def own_flag(layer):
    """Returns whether a layer itself is to train, whatever is in it."""
    return layer._trainable


def could_train(layer):
    """Lists the weights of a layer itself that it made to be trained."""
    return list(layer._trainable_variables)


def hold(layer, name, child):
    """Has a layer that is built hold one more layer."""
    layer._tracker.unlock()
    setattr(layer, name, child)
    layer._tracker.lock()


def let_go(layer, name, child):
    """Has a layer hold a layer no more."""
    layer._tracker.unlock()
    layer._tracker.untrack(child)
    layer._tracker.lock()
    delattr(layer, name)


def call_facts(model):
    """How a model was built and is called: `(shapes, names, takes_training)`.

    Shapes by the names of arguments with `_shape` behind, the names of the
    arguments of `call`, and whether it has an argument `training`.
    """
    names = list(model._call_signature.parameters)
    shapes = dict(model._build_shapes_dict)
    return shapes, names, model._call_has_training_arg


def float_kernel(layer):
    """The kernel of a `Dense` or `EinsumDense`, which may be quantised."""
    kernel = ops.cast(layer.kernel, "float32")
    mode = layer.dtype_policy.quantization_mode
    if mode is None:
        return kernel
    scale = layer.kernel_scale
    if mode == "int8" and hasattr(layer, "equation"):
        return kernel / layer._adjust_scale_for_dequant(scale)
    if getattr(layer, "kernel_zero", None) is None:
        flat = ops.reshape(kernel, (-1, scale.shape[-1]))
        return ops.reshape(flat / scale, kernel.shape)
    # In groups of rows, each with a scale and a zero of its own.
    flat = ops.reshape(kernel, (-1, scale.shape[-1]))
    groups = ops.cast(layer.g_idx, "int32")
    zero = ops.cast(ops.take(layer.kernel_zero, groups, axis=0), "float32")
    flat = (flat - zero) * ops.take(scale, groups, axis=0)
    return ops.reshape(flat, kernel.shape)


def make_float(layer, policy):
    """Gives a quantised layer a kernel in the numbers of a policy again."""
    kernel = float_kernel(layer)
    for name in ("_kernel", "kernel_scale", "kernel_zero", "g_idx"):
        variable = getattr(layer, name, None)
        if variable is not None:
            layer._untrack_variable(variable)
            # Keras's own looks for garbage each time.
            super(keras.layers.Layer, layer).__delattr__(name)
    layer._tracker.unlock()
    layer._is_quantized = False
    layer.quantization_config = None
    layer.dtype_policy = policy
    trainable = layer.trainable
    layer._kernel = layer.add_weight(kernel.shape, name="kernel")
    layer._kernel.trainable = trainable
    layer._tracker.lock()
    layer._kernel.assign(kernel)


def live_in(weight, variable):
    """Has a weight of a layer live in a variable of TensorFlow."""
    weight._value = variable


def causal_padding(layer):
    """Returns what a causal convolution puts around its inputs."""
    return layer._compute_causal_padding()


def seeds_of(layer):
    """Returns the seeds of an image layer, for the backend that it is in."""
    return layer._get_seed_generator(layer.backend._backend)


# By this method, attention of Keras computes from queries, keys and values.
ATTENTION = "_compute_attention"


def raw_iterations(optimizer):
    """Returns the variable of steps, those that are gathered included."""
    return optimizer._iterations


def decays_weight(optimizer, variable):
    """Tells whether weight decay holds for a variable."""
    return optimizer._use_weight_decay(variable)


def rate_or_schedule(optimizer):
    """Returns the rate as it was given: variable, schedule or function."""
    return optimizer._learning_rate


def own_rate(optimizer):
    """Returns the rate that a step would take, but for `replace_rate`."""
    return type(optimizer)._get_current_learning_rate(optimizer)


def replace_rate(optimizer, function):
    """Has each step that is traced from now on ask a function for its rate.

    Without a function it asks for the optimizer's own again.
    """
    vars(optimizer).pop("_get_current_learning_rate", None)
    if function is not None:
        vars(optimizer)["_get_current_learning_rate"] = function
