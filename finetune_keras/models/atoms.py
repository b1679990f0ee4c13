"""Layers with weights as they are called: what groups are put together from."""

import inspect

import keras

from finetune_keras.engine import graph
from finetune_keras.models.subclassed import is_norm


class Atom:
    """A layer with weights as it is called: what groups are put together from.

    `first` and `last` are the places of the first and last `Step` that call
    it, `leaves` its leaf layers with their paths; it `follows` if it only
    scales what a kernel before it gives. `words` is its stable path, `given`
    that part of it that a person named.
    """

    def __init__(self, layer, path, position):
        self.layer, self.path = layer, path
        self.words = self.given = path
        self.first = self.last = position
        self.leaves = graph.leaf_layers(layer, path)
        self.follows = not graph.inner_layers(layer) and all(
            len(v.shape) < 2 for v in graph.own_variables(layer)
        )

    @property
    def is_module(self):
        """Whether it is a composite layer of a class that is not Keras's."""
        ours = type(self.layer).__module__.startswith("keras.")
        return not ours and bool(graph.inner_layers(self.layer))


def weighted_atoms(steps):
    """Lists weighted layers, large composites opened into their blocks."""
    atoms = {}
    for position, step in enumerate(steps):
        if not isinstance(step.operation, keras.layers.Layer):
            continue
        for layer, path in _open(step.operation, step.path):
            if layer in atoms:
                atoms[layer].last = position
            elif layer.weights:
                atoms[layer] = Atom(layer, path, position)
    return list(atoms.values())


def weights_of(atoms):
    """The identities of the weights of atoms."""
    return {id(weight) for atom in atoms for weight in atom.layer.weights}


def _open(layer, path):
    """Yields the blocks of a stack that hides them, else the layer itself."""
    wrappers = (
        keras.layers.Wrapper,
        keras.layers.Bidirectional,
        keras.layers.RNN,
    )
    children = [c for c in graph.inner_layers(layer) if c.weights]
    own = graph.own_variables(layer)
    if isinstance(layer, wrappers) or own or not _is_stack(layer, children):
        yield layer, path
        return
    for child in children:
        yield from _open(child, f"{path}/{child.name}")


def may_be_opened(layer):
    """Tells a stack that does what the layers in it do, and no more.

    Of its own classes a user knows whether they add to the loss or differ in
    training; a graph of what is inside would not show it.
    """
    return (
        isinstance(layer, keras.layers.Layer)
        and type(layer).__module__.startswith("keras_hub.")
        and not graph.own_variables(layer)
        and "training" not in inspect.signature(layer.call).parameters
    )


def _is_stack(layer, children):
    """Tells whether blocks of one kind, one after the other, make a layer."""
    kinds = {}
    for child in children:
        # A layer with weights of its own and an adapter inside is no block.
        if graph.inner_layers(child) and not graph.own_variables(child):
            kinds.setdefault(type(child), []).append(child)
    blocks = max(kinds.values(), key=len, default=[])
    if len(blocks) < 2 or any(map(_are_apart, blocks, blocks[1:])):
        return False
    size = sum(block.count_params() for block in blocks)
    return 2 * size > layer.count_params()


def _are_apart(one, other):
    """Tells two models of which one does not take what the other gives."""
    if graph.graph_of(one) is None or graph.graph_of(other) is None:
        return False
    return one.output_shape[-1] != other.input_shape[-1]


def is_block(atoms):
    """Tells whether atoms make a block: several kernels, or one composite."""
    kernels = [
        leaf
        for atom in atoms
        for leaf in _outer_leaves(atom)
        if not is_norm(leaf)
        and any(len(v.shape) > 1 for v in graph.own_variables(leaf))
        and "Embedding" not in type(leaf).__name__
    ]
    return len(kernels) > 1


def _outer_leaves(atom):
    """Leaves of an atom that are not inside another one, as adapters are."""
    inside = {id(x) for leaf in atom.leaves for x in graph.all_layers(leaf)}
    return [leaf for leaf in atom.leaves if id(leaf) not in inside]
