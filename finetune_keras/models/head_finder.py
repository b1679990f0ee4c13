"""Where the backbone ends and the head begins, told by the graph."""

import re

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.graph import cut_points, is_mask


def find_head(steps, cuts, output_keys, atoms):
    """Finds the atoms of the head, none for a backbone.

    In this order: layers named head at the end; what stands behind an inner
    model that holds most of the weights; the dense layers behind the point
    where space or time collapses (pooling, flatten); a last dense layer or
    1x1 convolution that gives the output.
    """
    if not atoms:
        return []
    if len({key[0] for key in output_keys}) > 1:
        return _heads_of_several(steps, output_keys, atoms)
    for find in (_by_name, _behind_inner_model, _behind_collapse, _last_one):
        head = find(steps, cuts, output_keys, atoms)
        if head:
            return _projections(steps, atoms, head) + head
    return []


def _projections(steps, atoms, head):
    """Dense layers, one a tower, between pooled vectors and a common head."""
    keys = steps[head[-1].first].inputs
    if len(set(keys)) < 2:
        return []
    found = []
    for key in keys:
        maker = [a for a in atoms if a.last == key[0]]
        if maker and maker[0] in head:
            continue
        if not maker or not isinstance(maker[0].layer, keras.layers.Dense):
            return []
        shapes = [steps[i].input_shapes for i in _before(steps, key)]
        if not any(len(shape) > 2 for shape in sum(shapes, [])):
            return []
        found += maker
    return found


def _before(steps, key):
    """Places of the step that makes a tensor, and of the last two before."""
    places = [key[0]]
    for _ in range(2):
        inputs = [key for key in steps[places[-1]].inputs if key[0] != "input"]
        places += [inputs[0][0]] if inputs else []
    return places


def _by_name(steps, cuts, output_keys, atoms):
    head = []
    for atom in reversed(atoms):
        if not re.search(r"(^|_)head(_|$)", atom.path.split("/")[-1]):
            break
        head.insert(0, atom)
    return head if len(head) < len(atoms) else []


def _behind_inner_model(steps, cuts, output_keys, atoms):
    def outer(atom):
        return atom.path.split("/")[0] if "/" in atom.path else None

    sizes = {}
    for atom in atoms:
        size = atom.layer.count_params()
        sizes[outer(atom)] = sizes.get(outer(atom), 0) + size
    total = sum(sizes.values())
    sizes.pop(None, None)
    largest = max(sizes, key=sizes.get, default=None)
    if largest is None or sizes[largest] * 2 < total:
        return []
    last = max(i for i, atom in enumerate(atoms) if outer(atom) == largest)
    behind = atoms[last + 1 :]
    return [] if _holds_decoder(steps, atoms[last], behind) else behind


def _holds_decoder(steps, last, behind):
    inner = [x for atom in behind for x in graph.all_layers(atom.layer)]
    between = steps[last.last : behind[-1].last] if behind else []
    return any(map(enlarges, [*(step.operation for step in between), *inner]))


def _behind_collapse(steps, cuts, output_keys, atoms):
    for position, step in enumerate(steps):
        if position in cuts and collapses(step):
            behind = [atom for atom in atoms if atom.first > position]
            if behind and all(_may_be_in_head(a.layer) for a in behind):
                return behind if len(behind) < len(atoms) else []
    return []


def collapses(step):
    """Tells whether a step turns a map or a sequence into one vector."""
    if is_mask(step.tensors[0]):
        return False
    if re.match(r"Global\w+Pooling", type(step.operation).__name__):
        return True
    ranks = [len(shape) for shape in step.input_shapes]
    return len(step.tensors[0].shape) == 2 and max(ranks, default=0) > 2


def _may_be_in_head(layer):
    if isinstance(layer, keras.layers.Conv2D):
        return tuple(layer.kernel_size) == (1, 1)
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    return isinstance(layer, kinds) or "Normalization" in type(layer).__name__


def _last_one(steps, cuts, output_keys, atoms):
    last, decodes = atoms[-1], any(enlarges(step.operation) for step in steps)
    if len(atoms) < 2 or not _gives_output(last.layer, decodes):
        return []
    after = steps[last.last + 1 :]
    after = [step.operation for step in after]
    keeps = all(enlarges(x) or _keeps_logits(x) for x in after)
    return [last] if keeps else []


def _gives_output(layer, decodes):
    """Tells a layer that may give outputs, of a decoder any convolution."""
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    convolves = re.fullmatch(r"Conv\dD(Transpose)?", type(layer).__name__)
    pointwise = convolves and (decodes or set(layer.kernel_size) == {1})
    if not pointwise and not isinstance(layer, kinds):
        return False
    return _squashes(layer)


def enlarges(operation):
    """Tells whether an operation makes a map larger, as in decoders."""
    name = type(operation).__name__
    return bool(re.search("UpSampling|Conv.*Transpose|^Resiz", name))


def _squashes(layer):
    allowed = ("linear", "softmax", "sigmoid", "log_softmax")
    return getattr(layer.activation, "__name__", None) in allowed


def _keeps_logits(operation):
    if isinstance(operation, keras.layers.Activation):
        return _squashes(operation)
    kinds = (
        keras.layers.Softmax,
        keras.layers.Reshape,
        keras.layers.Flatten,
        keras.layers.Dropout,
        keras.layers.Rescaling,
    )
    names = ("Softmax", "Sigmoid", "Squeeze", "Reshape", "Cast")
    return isinstance(operation, kinds) or type(operation).__name__ in names


def _heads_of_several(steps, output_keys, atoms):
    """With several outputs, the head is what not all of them need."""
    needs = [_needed_steps(steps, key) for key in output_keys]
    for key, own in zip(output_keys, needs, strict=True):
        if any(key[0] in other for other in needs if other is not own):
            # One output feeds another: features of a backbone, not tasks.
            return []
    shared = set.intersection(*needs)
    head = [atom for atom in atoms if atom.first not in shared]
    return head if len(head) < len(atoms) else []


def _needed_steps(steps, key):
    makers = {
        output: i for i, step in enumerate(steps) for output in step.outputs
    }
    needed, left = set(), [key]
    while left:
        position = makers.get(left.pop())
        if position is not None and position not in needed:
            needed.add(position)
            left.extend(steps[position].inputs)
    return needed


def trunk_cuts(steps, output_keys, head, by_tower=False):
    """Cut points of a backbone, whatever the head reads of its depths.

    What goes on in the backbone is one tensor there, though means of it go
    past the rest; `head` is that of `side_branches`, `by_tower` that of
    `cut_points`.
    """
    beside = side_branches(steps, head)
    return cut_points(steps, output_keys, is_mask, beside, by_tower)


def side_branches(steps, head):
    """Places of steps that take vectors from amid the backbone to the head.

    `head` has the identities of the weights of the head.
    """
    body = {i for i, step in enumerate(steps) if _has_weights(step, head)}
    going_on = set()
    for position in reversed(range(len(steps))):
        step = steps[position]
        if position in body or not going_on.isdisjoint(step.outputs):
            going_on.update(step.inputs)
    made, side = set(), []
    for position, step in enumerate(steps):
        known = all(
            key in going_on or key in made or key[0] == "input"
            for key in step.inputs
        )
        leaves = position not in body and going_on.isdisjoint(step.outputs)
        if known and leaves:
            side.append(position)
            made.update(step.outputs)
    return _that_collapse(steps, side)


def _has_weights(step, head):
    if not isinstance(step.operation, keras.layers.Layer):
        return False
    return any(id(weight) not in head for weight in step.operation.weights)


def _that_collapse(steps, side):
    """Those of side branches up to a vector: the rest may be a shortcut."""
    readers = {}
    for position, step in enumerate(steps):
        for key in step.inputs:
            readers.setdefault(key, []).append(position)
    ends = set()
    for position in reversed(side):
        step = steps[position]
        after = [i for key in step.outputs for i in readers.get(key, ())]
        named = re.match("head(_|$)", step.operation.name)
        if named or collapses(step) or (after and ends.issuperset(after)):
            ends.add(position)
    return ends
