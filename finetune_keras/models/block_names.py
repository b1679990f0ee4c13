"""Which block a layer belongs to, told by its name and its place."""

import os
import re
from collections import Counter

import keras

_BLOCK = re.compile(
    r".*?(?:block|layer|stage|stack|cell|unit|module|mixed|encoder|decoder)s?"
    r"_?\d+[a-z]?(?=[_/.-]|$)"
)
_PLACE = re.compile(r"(?:^|.*[_/])(?:stem|top|neck)(?=_(?!\d)|/|$)")
_NORM_WORDS = re.compile(r"_(bn|norm|batchnorm|relu|act|activation|pad)$", re.I)


def block_keys(steps, cuts, atoms):
    """Gives each weighted layer the key of the block that it belongs to.

    `cuts` are those of `graph.cut_points`, `atoms` the weighted layers with
    `path`, `first`, `layer` and `follows`. Those with equal keys are one block.
    """
    segments = _segments(len(steps), cuts)
    by_name = _keys_by_word(steps, segments)
    named = {
        a: _longest(by_name.get(a.first), _word(a.path, a.layer)) for a in atoms
    }
    rest = [a for a in atoms if named[a] is None]
    named.update(_keys_by_number(rest))
    named.update(_keys_by_family([a for a in rest if not named[a]], named))
    _fill_segments(steps, segments, atoms, named)
    return _attach(atoms, named)


def _segments(length, cuts):
    """Numbers the stretches between cuts, by position."""
    numbers, number = [], 0
    for position in range(length):
        numbers.append(number)
        number += position in cuts
    return numbers


def _word(path, layer):
    """Key by a word such as block or layer that a number follows."""
    path = os.path.dirname(path) if has_automatic_name(layer) else path
    for pattern in (_BLOCK, _PLACE):
        found = None
        for match in pattern.finditer(path):
            found = path[: match.end()]
        if found:
            return found
    return None


def has_automatic_name(layer):
    """Tells whether Keras, not a person, gave the layer its name."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__)
    name = re.sub(r"\W+", "", name).lower().replace("_", "")
    return re.fullmatch(name + r"(_\d+)?", _squash(layer.name)) is not None


def _squash(name):
    stem, number = re.fullmatch(r"(?s)(.*?)(_\d+)?", name).groups()
    return stem.replace("_", "") + (number or "")


def _longest(*keys):
    return max((key for key in keys if key), key=len, default=None)


def _keys_by_word(steps, segments):
    """Keys of steps, one number longer where a whole stretch shares it."""
    found = {}
    for position, step in enumerate(steps):
        if isinstance(step.operation, keras.layers.Layer):
            step_key = _word(step.path, step.operation)
            if step_key:
                found[position] = (step_key, _longer(step.path, step_key))
    keys = {}
    for position, (key, longer) in found.items():
        stretch = {
            found[other][1]
            for other in found
            if segments[other] == segments[position]
        }
        alone = segments.count(segments[position]) == 1
        keys[position] = longer if len(stretch) == 1 and not alone else key
    return _spread_longer(keys)


def _spread_longer(keys):
    """Lets single steps join the longer key that their neighbours have."""
    for position, key in keys.items():
        if keys.get(position - 1, "").startswith(key + "_"):
            keys[position] = keys[position - 1]
    return keys


def _longer(path, key):
    match = re.match(re.escape(key) + r"_\d+(?=_|$)", path)
    return match.group() if match else key


def _keys_by_number(atoms):
    """Keys by the first or the last number in names, whichever is local."""
    named = [a for a in atoms if not has_automatic_name(a.layer)]
    schemes = [
        {a: key(a.path) for a in named} for key in (_prefix_key, _suffix_key)
    ]
    best = max(schemes, key=_locality)
    sizes = _kernel_counts(best)
    return {
        a: best[a] if a in best and sizes[best[a]] > 1 else None for a in atoms
    }


def _keys_by_family(atoms, named):
    """Key `expanded_conv` for what comes before `expanded_conv_1`."""
    families = {re.sub(r"_?\d+$", "", key) for key in named.values() if key}
    keys = {
        a: _longest(*[f for f in families if a.path.startswith(f"{f}_")])
        for a in atoms
    }
    sizes = _kernel_counts(keys)
    return {a: key for a, key in keys.items() if sizes[key] > 1}


def _prefix_key(path):
    match = re.match(r"((?:.*/)?[^/]*?\d+[a-z]?)(?=_|$)", path)
    return match.group(1) if match else None


def _suffix_key(path):
    outer, _, name = _NORM_WORDS.sub("", path).rpartition("/")
    match = re.search(r"(?:^|_)((?:stem|reduce|reduction)?_?\d+)$", name)
    if not match:
        return None
    key = match.group(1).strip("_")
    return f"{outer}/block{key}" if key.isdigit() else f"{outer}/{key}"


def _locality(keys):
    """Counts the layers whose key stands close together in the model."""
    places = {}
    for place, key in enumerate(keys.values()):
        places.setdefault(key, []).append(place)
    sizes = _kernel_counts(keys)
    return sum(
        len(at)
        for key, at in places.items()
        if key and sizes[key] > 1 and at[-1] - at[0] < 3 * len(at)
    )


def _kernel_counts(keys):
    counts = Counter(k for a, k in keys.items() if k and not a.follows)
    counts[None] = 0
    return counts


def _fill_segments(steps, segments, atoms, named):
    """Gives nameless layers of a branching stretch the key of the stretch."""
    stretches = {}
    for atom in atoms:
        stretches.setdefault(segments[atom.first], []).append(atom)
    count = 0
    for number, members in stretches.items():
        keys = {named[a] for a in members} - {None}
        nameless = [a for a in members if named[a] is None]
        if not nameless or len(members) == 1 or len(keys) > 1:
            continue
        count += 1
        key = keys.pop() if keys else _join_name(steps, segments, number)
        for atom in nameless:
            named[atom] = key or f"block{count}"


def _join_name(steps, segments, number):
    """Name that a person gave to the operation that ends a stretch."""
    at = [i for i, segment in enumerate(segments) if segment == number]
    last = steps[at[-1]]
    if has_automatic_name(last.operation):
        return None
    return "join", last.path


def _attach(atoms, named):
    """Starts a block at each kernel left over; what scales it, follows."""
    keys = []
    for atom in atoms:
        key = named[atom]
        if key is None:
            joins = keys and atom.follows
            key = keys[-1] if joins else ("layer", atom.path)
        keys.append(key)
    return keys


def is_block_key(key):
    """Tells whether a key names a block, not a layer or a place."""
    return isinstance(key, str) and not _PLACE.fullmatch(key)


def group_name(key, atoms):
    """Turns the key of a block into the name that a person would say."""
    if isinstance(key, str):
        return key.split("/")[-1]
    if key[0] == "join":
        return key[1].split("/")[-1]
    names = [atom.path.split("/")[-1] for atom in atoms]
    common = os.path.commonprefix([name.split("_") for name in names])
    return "_".join(common) or names[0]


def unique_names(names):
    """Drops a prefix that all names share, and numbers the doubles."""
    tokens = [name.split("_") for name in names if name not in _FIXED]
    shared = len(os.path.commonprefix(tokens)) if len(tokens) > 2 else 0
    short = [
        name
        if name in _FIXED or not shared
        else "_".join(name.split("_")[shared:])
        for name in names
    ]
    if any(not re.match("[A-Za-z]", name) for name in short):
        short = names
    return _numbered(short)


_FIXED = ("stem", "embeddings", "head")


def _numbered(names):
    seen, unique = Counter(), []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique
