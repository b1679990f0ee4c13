"""The levels of a model that goes down and up again, as a U-Net does."""

import math
import re

from finetune_keras.engine import graph
from finetune_keras.models.head_finder import enlarges


def level_keys(steps, segments, atoms, named):
    """Keys of the nameless layers of a model that goes down and up again.

    Triples of `"level"`, `"down"`, `"middle"` or `"up"`, and a level or a
    stretch. `segments` has the number of the stretch of each step, `named` the
    keys that names tell. Empty for any other model.
    """
    if not any(enlarges(step.operation) for step in steps):
        return {}
    scales = _scales(steps)
    sizes = [scales[step.outputs[0]] for step in steps]
    at = [a.first for a in atoms if _is_map(steps[a.first])]
    # What only scales what a named layer before it gives goes with that.
    tied = {
        b
        for a, b in zip(atoms, atoms[1:], strict=False)
        if b.follows and named[a] is not None
    }
    low = min((sizes[i] for i in at), default=0)
    lowest = [i for i in at if sizes[i] == low]
    if not lowest or low == 0 or max(sizes[lowest[-1] :]) == low:
        return {}
    keys = {}
    for number in dict.fromkeys(segments[i] for i in at):
        places = [i for i, n in enumerate(segments) if n == number]
        start = scales[steps[places[0]].inputs[0]]
        ends = [sizes[i] for i in places if _is_map(steps[i])]
        members = [
            a
            for a in atoms
            if segments[a.first] == number
            and a not in tied
            and _may_have_level(a, steps, named)
        ]
        whole = len(members) > 1 and min(ends) >= min(start, ends[-1])
        for atom in members:
            level = sizes[atom.first]
            side = _side(atom.first, level == low, lowest)
            if whole and ends[-1] != start:
                side = "down" if ends[-1] < start else "up"
            keys[atom] = "level", side, f"stretch {number}" if whole else level
    if any(sizes[a.first] == low for a in atoms if named[a] is not None):
        keys = _without_lone_middle(keys)
    return {
        atom: key
        for atom, key in keys.items()
        if key[1] != "down" or not atom.given
    }


def _without_lone_middle(keys):
    """Keys by which one kernel behind an encoder is of the way up."""
    middle = [a for a, key in keys.items() if key[1] == "middle"]
    up = [key for key in keys.values() if key[1] == "up"]
    if up and sum(not atom.follows for atom in middle) == 1:
        keys = {**keys, **dict.fromkeys(middle, up[0])}
    return keys


def _may_have_level(atom, steps, named):
    return (
        named[atom] is None
        and _is_map(steps[atom.first])
        and not graph.inner_layers(atom.layer)
    )


def _side(place, is_low, lowest):
    if is_low:
        return "middle"
    return "down" if place < lowest[0] else "up"


def _is_map(step):
    return len(step.tensors[0].shape) > 2


def _scales(steps):
    """Dict from each tensor to the logarithm of its size, that of inputs 0."""
    scales = {}
    for step in steps:
        for key in step.inputs:
            scales.setdefault(key, 0.0)
        read = [scales[key] for key in step.inputs]
        scale = max(read, default=0.0) + _growth(step)
        scales.update((key, scale) for key in step.outputs)
    return scales


def _growth(step):
    """By how much a step enlarges a map, as a logarithm; halving is -1."""
    shape = step.tensors[0].shape
    if not step.input_shapes or len(step.input_shapes[0]) < 3 or len(shape) < 3:
        return 0.0
    before, after = _sides(step, step.input_shapes[0]), _sides(step, shape)
    if None not in (*before, *after):
        return round(math.log2(math.prod(after) / math.prod(before)) / 2, 1)
    operation = step.operation
    if re.search("Conv|Pooling", type(operation).__name__):
        strides = getattr(operation, "strides", 1)
        sign = 1 if "Transpose" in type(operation).__name__ else -1
        return sign * math.log2(_first(strides))
    if "UpSampling" in type(operation).__name__:
        return math.log2(_first(operation.size))
    return 0.0


def _sides(step, shape):
    first = getattr(step.operation, "data_format", None) == "channels_first"
    return shape[2:] if first else shape[1:-1]


def _first(value):
    return value[0] if isinstance(value, (list, tuple)) else value


def level_names(keys):
    """Dict from the keys of levels to names, in the order of the model."""
    sides = {}
    for key in dict.fromkeys(keys):
        if isinstance(key, tuple) and key[0] == "level":
            sides.setdefault(key[1], []).append(key)
    names = {}
    for side, found in sides.items():
        for i, key in enumerate(found, start=1):
            names[key] = f"{side}{i}"
        if len(found) == 1:
            names[found[0]] = "decoder" if side == "up" else side
    return names


def is_stem_of_levels(parts, place):
    """Tells a single layer that stands before levels that are blocks."""
    if place or len(parts) < 2:
        return False
    after = parts[1][0]
    return after[0] == "level" and isinstance(after[2], str)
