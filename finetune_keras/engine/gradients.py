"""Gradients with respect to tensors, by each backend in its own way."""

from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf


def gradients(function, tensors):
    """Lists the gradients of a function at a list of tensors.

    `function` takes such a list and gives one number. Where a tensor has no
    part in it, the gradient is zero.
    """
    if backend.on("tensorflow"):
        return _by_tape(function, tensors)
    if backend.on("jax"):
        import jax

        return jax.grad(function)(tensors)
    if backend.on("torch"):
        return _by_autograd(function, tensors)
    raise NotImplementedError(
        "Gradients are taken on TensorFlow, JAX and torch. Set "
        "`KERAS_BACKEND` to one of them. "
        f"Received: the backend {backend.name()!r}"
    )


def _by_tape(function, tensors):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        value = function(tensors)
    return tape.gradient(value, tensors, unconnected_gradients="zero")


def _by_autograd(function, tensors):
    import torch

    tensors = [x.detach().requires_grad_(True) for x in tensors]
    with torch.enable_grad():
        value = function(tensors)
    return torch.autograd.grad(
        value, tensors, allow_unused=True, materialize_grads=True
    )
