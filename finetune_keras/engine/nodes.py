"""Nodes and tensors of Keras's graph: run again, and followed backwards.

As Keras has them from 3.8 on, like all that `engine.graph` reads.
"""

import contextlib

import keras

from finetune_keras.engine.graph import graph_of


def run_through(model, inputs, call):
    """Runs the graph of a model on tensors in the structure of its inputs.

    `call` is a function `(operation, *args, **kwargs)` that makes each step.
    """
    run = graph_of(model)._run_through_graph
    return run(inputs, operation_fn=lambda operation: operation, call_fn=call)


def pack_inputs(model, tensors):
    """Puts a list of tensors into the structure of a model's inputs."""
    graph = graph_of(model)
    return keras.tree.pack_sequence_as(graph._inputs_struct, tensors)


def maker_of(tensor):
    """Returns `(operation, inputs)` of the call that made a tensor."""
    operation, index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[index].input_tensors


def is_selection(operation, arguments):
    """Tells whether a call picks a place of a sequence, such as `x[:, 0]`.

    `arguments` are the tensor and the key, of which the channels stay whole.
    """
    if type(operation).__name__ != "GetItem" or len(arguments) < 2:
        return False
    tensor, *key = arguments
    whole = [part for part in key if part == slice(None)]
    numbers = [part for part in key if type(part) is int]
    few = len(key) < len(tensor.shape)
    return few and len(numbers) == 1 and len(whole) + 1 == len(key)


def place_of(tensor):
    """Where a tensor stands among the outputs of the call that made it."""
    return tensor._keras_history[2]


def nodes_of(model):
    """Lists the nodes of a model's own graph."""
    by_depth = graph_of(model)._nodes_by_depth
    return [node for nodes in by_depth.values() for node in nodes]


@contextlib.contextmanager
def histories_kept(tensors):
    """Lets tensors stand where they stood, though models are made of them."""
    histories = [tensor._keras_history for tensor in tensors]
    yield
    for tensor, history in zip(tensors, histories, strict=True):
        tensor._keras_history = history
