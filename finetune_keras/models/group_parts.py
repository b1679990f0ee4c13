"""How a model falls into layer groups: by its graph, and by its names."""

import itertools
import math
import re

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.nodes import is_selection
from finetune_keras.models.atoms import (
    is_block,
    may_be_opened,
    weighted_atoms,
    weights_of,
)
from finetune_keras.models.block_names import (
    block_keys,
    family_of,
    is_block_key,
    unique_names,
)
from finetune_keras.models.head_finder import find_head, trunk_cuts
from finetune_keras.models.levels import is_stem_of_levels
from finetune_keras.models.stable_names import StablePaths
from finetune_keras.models.subclassed import parts_by_call
from finetune_keras.models.towers import is_embedding, named_parts

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
    joints = trunk_cuts(steps, outputs, weights_of(head), by_tower=True)
    if granularity == "layer":
        parts = [(atom.path.split("/")[-1], [atom]) for atom in body]
    else:
        paths = StablePaths(model, steps)
        parts = opened_frames(_blocks(steps, joints, body, paths), paths)
        head = take_last_norm(steps, parts, head) + head
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


def opened_frames(parts, paths):
    """Parts with a model that runs on each frame in its own parts."""
    found = []
    for name, atoms in parts:
        wrapper = atoms[0].layer
        inner = getattr(wrapper, "layer", None)
        frames = isinstance(wrapper, keras.layers.TimeDistributed)
        if len(atoms) > 1 or not frames or not graph.graph_of(inner):
            found.append((name, atoms))
            continue
        found += _parts_of_frames(atoms[0], inner, paths)
    return found


def _parts_of_frames(wrapper, model, paths):
    steps, _, outputs = graph.walk(model)
    joints = graph.cut_points(steps, outputs, graph.is_mask)
    atoms = weighted_atoms(steps)
    for atom in atoms:
        path = f"{wrapper.path}/{model.name}/{atom.path}"
        atom.path, atom.leaves = path, graph.leaf_layers(atom.layer, path)
    parts = _blocks(steps, joints, atoms, paths)
    for atom in atoms:
        atom.first, atom.last = wrapper.first, wrapper.last
    return parts


def take_last_norm(steps, parts, head):
    """Takes the norm behind the last block off it, if it is the head's.

    Where blocks begin with a norm the last one belongs to what comes behind
    it, unless that takes a mean first: then a cut behind the norm is a vector.
    """
    block = parts[-1][1] if parts and head else []
    if len(block) < 2 or not _norms(block[-1].layer):
        return []
    begins = block[0].is_module or len(block) > 2
    if not begins or not _norms(next(iter(block[0].leaves))):
        return []
    last = block[-1]
    between = steps[last.first : min(atom.first for atom in head)]
    if not between or not _ends_in(between[0].operation, last.layer):
        return []
    return [block.pop()] if _reads_all_or_one(between) else []


def _norms(layer):
    return re.match("(Layer|RMS)Norm", type(layer).__name__) is not None


def _ends_in(operation, layer):
    """Tells an operation, or a stack to open, whose last layer is `layer`."""
    if operation is layer:
        return True
    inner = [x for x in graph.inner_layers(operation) if x.weights]
    return layer in inner[-1:] and may_be_opened(operation)


def _reads_all_or_one(steps):
    """Tells whether what steps make of a tensor is all of it, or a place."""
    size = size_of(steps[0].tensors[0].shape)
    for step in steps:
        made = size_of(step.tensors[0].shape)
        if made != size and not is_selection(step.operation, step.arguments):
            return False
        size = made
    return True


def _blocks(steps, joints, body, paths):
    """Puts atoms together by name and by the graph; `(name, atoms)` each."""
    for atom in body:
        atom.words, atom.given = paths.of(atom.path), paths.given(atom.path)
    keys = block_keys(steps, joints, body, paths)
    by_key = {}
    for atom, key in zip(body, keys, strict=True):
        by_key.setdefault(key, []).append(atom)
    parts = list(by_key.items())
    return named_parts(steps, parts, _starts(parts))


def _starts(parts):
    """Places of what is a block, and no part of what comes before blocks."""
    blocks = [is_block(atoms) for _, atoms in parts]
    real = {family_of(part[0]) for part in itertools.compress(parts, blocks)}
    places = []
    for i, (key, atoms) in enumerate(parts):
        level = key[0] == "level" and not is_stem_of_levels(parts, i)
        named = is_block_key(key) and (not real or family_of(key) in real)
        if blocks[i] or (
            (level or named) and not all(map(is_embedding, atoms))
        ):
            places.append(i)
    return places


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
