"""How a model falls into layer groups: by its graph, and by its names."""

import math
import re

import keras

from finetune_keras.engine import graph
from finetune_keras.models.block_names import (
    block_keys,
    group_name,
    is_block_key,
    unique_names,
)
from finetune_keras.models.head_finder import find_head, trunk_cuts
from finetune_keras.models.subclassed import is_norm, parts_by_call

OUTSIDE = "outside the graph"


class LayerGroup:
    """A named run of layers that are frozen, and get their rate, together.

    Made by `layer_groups`.

    Attributes:
        name: String, such as `"stem"`, `"block5"`, `"transformer_layer_3"` or
            `"head"`.
        layers: List of the leaf layers with weights, from input to output.
        cut: `KerasTensor` that carries everything from the groups before into
            this one and those behind it (inputs of the model, such as a mask,
            pass by), or `None` where no single tensor does. For an inner model
            it belongs to the inner graph.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    group = ft.layer_groups(model)[-1]
    print(group.name, [layer.name for layer in group.layers])
    ```
    """

    def __init__(self, name, layers, cut=None):
        self.name = name
        self.layers = layers
        self.cut = cut

    @property
    def variables(self):
        """List of the weights of the group, statistics included, each once."""
        own = [v for layer in self.layers for v in graph.own_variables(layer)]
        return list({id(variable): variable for variable in own}.values())

    @property
    def num_params(self):
        """Integer, how many numbers the weights of the group hold."""
        return sum(size_of(v.shape) for v in self.variables)

    def __repr__(self):
        return (
            f"<LayerGroup {self.name!r}: {len(self.layers)} layers, "
            f"{self.num_params:,} parameters>"
        )


class Atom:
    """A layer with weights as it is called: what groups are put together from.

    `first` and `last` are the places of the first and last `Step` that call
    it, `leaves` its leaf layers with their paths; it `follows` if it only
    scales what a kernel before it gives.
    """

    def __init__(self, layer, path, position):
        self.layer, self.path = layer, path
        self.first = self.last = position
        self.leaves = graph.leaf_layers(layer, path)
        self.follows = not graph.inner_layers(layer) and all(
            len(v.shape) < 2 for v in graph.own_variables(layer)
        )


def parts_of(model, walked, granularity="block", names=None):
    """Puts the layers of a model together into groups, from input to output.

    `walked` is what `graph.walk` says of it, `None` if it has no graph; the
    others are as in `LayerGroups`.
    """
    if walked is None:
        return _parts_without_graph(model, names)
    steps, _, outputs = walked
    joints = graph.cut_points(steps, outputs, graph.is_mask)
    atoms = weighted_atoms(steps)
    head = find_head(steps, joints, outputs, atoms)
    body = [atom for atom in atoms if atom not in head]
    joints = trunk_cuts(steps, outputs, weights_of(head))
    if granularity == "layer":
        parts = [(atom.path.split("/")[-1], [atom]) for atom in body]
    else:
        parts = _blocks(steps, joints, body)
    if head:
        parts.append(("head", head))
    if names is not None:
        parts = _named(parts, names, lambda atom: atom.path, atoms)
    groups = _with_cuts(steps, graph.cut_points(steps, outputs), parts)
    known = {id(layer) for group in groups for layer in group.layers}
    groups[0].layers[:0] = [
        layer
        for layer in graph.leaf_layers(model)
        if graph.own_variables(layer) and id(layer) not in known
    ]
    return groups


def _parts_without_graph(model, names):
    parts = parts_by_call(model)
    if not parts:
        return [LayerGroup(model.name, [model])]
    if graph.own_variables(model):
        parts[0][1].insert(0, model)
    unique = unique_names([name for name, _ in parts])
    parts = [(x, part[1]) for x, part in zip(unique, parts, strict=True)]
    if names is not None:
        paths = graph.leaf_layers(model)
        leaves = [leaf for _, part in parts for leaf in part]
        parts = _named(parts, names, paths.get, leaves)
    return [LayerGroup(name, leaves) for name, leaves in parts]


def _named(parts, names, path_of, members):
    """Puts what stands in `parts` together by names or expressions."""
    known = {id(member): name for name, part in parts for member in part}
    found, used, lost = {}, set(), []
    for member in members:
        path = path_of(member)
        group, name = _named_group(known[id(member)], path, names)
        used.add(name)
        lost += [path] if group is None else []
        found.setdefault(group, []).append(member)
    unused = [name for name in names if name not in used]
    if lost or unused:
        raise ValueError(
            "Each layer with weights belongs to one layer group, and each "
            "name or expression to some layers; an expression is looked for "
            "in the path of a layer. Without a group: "
            f"{lost[:5]}{' and more' if len(lost) > 5 else ''}, without "
            f"layers: {unused}. Received: names={names!r}"
        )
    return list(found.items())


def _named_group(group, path, names):
    """The group of a layer, and which of `names` it is for."""
    if group in names:
        return group, group
    for name in names:
        if found := re.search(name, path):
            return found[0], name
    return None, None


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
    # A layer with weights of its own and an adapter inside is no block.
    blocks = [
        type(child)
        for child in children
        if graph.inner_layers(child) and not graph.own_variables(child)
    ]
    stack = any(blocks.count(kind) > 1 for kind in blocks)
    own = graph.own_variables(layer)
    if isinstance(layer, wrappers) or not stack or own:
        yield layer, path
        return
    for child in children:
        yield from _open(child, f"{path}/{child.name}")


def _blocks(steps, joints, body):
    """Puts atoms together by name and by the graph; `(name, atoms)` each."""
    keys = block_keys(steps, joints, body)
    parts, by_key = [], {}
    for atom, key in zip(body, keys, strict=True):
        if key in by_key:
            by_key[key].append(atom)
        else:
            by_key[key] = [atom]
            parts.append((key, by_key[key]))
    starts = [
        i
        for i, (key, atoms) in enumerate(parts)
        if is_block(atoms) or is_block_key(key)
    ]
    parts = [(group_name(key, atoms), atoms) for key, atoms in parts]
    return _join_stem(parts, starts)


def _join_stem(parts, starts):
    """Calls what stands before the first real block the stem."""
    if not starts or starts[0] == 0:
        return parts
    front = [atom for _, atoms in parts[: starts[0]] for atom in atoms]
    embeds = any("Embedding" in type(atom.layer).__name__ for atom in front)
    return [("embeddings" if embeds else "stem", front), *parts[starts[0] :]]


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


def _with_cuts(steps, cuts, parts):
    names = unique_names([name for name, _ in parts])
    groups, seen = [], set()
    for i, (name, (_, atoms)) in enumerate(zip(names, parts, strict=True)):
        layers = [
            leaf
            for atom in atoms
            for leaf in atom.leaves
            if graph.own_variables(leaf) and leaf not in seen
        ]
        # A layer that another one holds is in the group of its first call.
        seen.update(layers)
        cut = _cut_between(steps, cuts, parts[:i], parts[i:])
        if layers:
            groups.append(LayerGroup(name, layers, cut))
    return groups


def _cut_between(steps, cuts, below, above):
    """Picks a cut between two runs of atoms."""
    if not below:
        return None
    start = max(atom.last for _, atoms in below for atom in atoms)
    stop = min(atom.first for _, atoms in above for atom in atoms)
    return cuts.get(best_cut(steps, cuts, start, stop))


def best_cut(steps, cuts, start, stop):
    """Picks the smallest cut in a stretch, with random operations above it.

    Returns a key of `cuts`, or `None`.
    """
    best = None
    for position in [p for p in range(start, stop) if p in cuts]:
        random = graph.is_random(steps[position].operation)
        size = size_of(cuts[position].shape)
        if best is None or (not random and size <= size_of(cuts[best].shape)):
            best = position
        elif random:
            break
    return best


def size_of(shape):
    """Counts the numbers in a tensor of a shape, without the batch."""
    return math.prod(dimension or 1 for dimension in shape)
