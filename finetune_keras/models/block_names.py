"""Which block a layer belongs to, told by its name and its place."""

import itertools
import os
import re
from collections import Counter

import keras

from finetune_keras.models.levels import level_keys
from finetune_keras.models.stable_names import has_automatic_name

_BLOCK = re.compile(
    r".*?(?:block|layer|stage|stack|cell|unit|module|mixed|encoder|decoder)s?"
    r"_?\d+[a-z]?(?=[_/.-]|$)"
)
_PLACE = re.compile(r"(?:^|.*[_/])(?:stem|top|neck)(?=_(?!\d)|/|$)")
_NORM_WORDS = re.compile(r"_(bn|norm|batchnorm|relu|act|activation|pad)$", re.I)


def block_keys(steps, cuts, atoms, paths):
    """Gives each weighted layer the key of the block that it belongs to.

    `cuts` are those of `graph.cut_points`, `atoms` the weighted layers with
    `words`, `given`, `first`, `layer` and `follows`, `paths` the
    `StablePaths`. Those with equal keys are one block.
    """
    segments = _segments(len(steps), cuts)
    by_name = _keys_by_word([paths.of(s.path) for s in steps], steps, segments)
    named = {a: _longest(by_name.get(a.first), _word(a.words)) for a in atoms}
    rest = [a for a in atoms if named[a] is None]
    named.update(_keys_by_number(rest))
    named.update(_keys_by_family([a for a in rest if not named[a]], named))
    named.update(level_keys(steps, segments, atoms, named))
    _fill_segments(steps, segments, atoms, named)
    return _attach(atoms, named)


def _segments(length, cuts):
    """Numbers the stretches between cuts, by position."""
    numbers, number = [], 0
    for position in range(length):
        numbers.append(number)
        number += position in cuts
    return numbers


def _word(path):
    """Key by a word such as block or layer that a number follows."""
    for pattern in (_BLOCK, _PLACE):
        found = None
        for match in pattern.finditer(path):
            found = path[: match.end()]
        if found:
            return found
    return None


def _longest(*keys):
    return max((key for key in keys if key), key=len, default=None)


def _keys_by_word(paths, steps, segments):
    """Keys of steps, one number longer where a whole stretch shares it."""
    found = {}
    for position, (step, path) in enumerate(zip(steps, paths, strict=True)):
        if isinstance(step.operation, keras.layers.Layer):
            step_key = _word(path)
            if step_key:
                found[position] = (step_key, _longer(path, step_key))
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
    named = [a for a in atoms if a.given]
    schemes = [
        {a: key(a.given) for a in named} for key in (_prefix_key, _suffix_key)
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
        a: _longest(*[f for f in families if a.words.startswith(f"{f}_")])
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
    before = None
    for number, members in stretches.items():
        keys = {named[a] for a in members} - {None}
        nameless = [a for a in members if named[a] is None]
        if keys or all(a.is_module for a in members):
            nameless = [a for a in nameless if not a.is_module]
        if not nameless or len(members) == 1 or len(keys) > 1:
            before = None if keys else before
            continue
        key = keys.pop() if keys else _join_name(steps, segments, number)
        key = key or (_BLOCK_KEY, number)
        if before and before[0] and _is_mixer(members):
            # The second half of a block of a transformer.
            key = before[1]
        for atom in nameless:
            named[atom] = key
        is_first = key == (_BLOCK_KEY, number)
        before = is_first and _attends(members), key


_BLOCK_KEY = "block"


def _attends(atoms):
    return any("Attention" in type(a.layer).__name__ for a in atoms)


def _is_mixer(atoms):
    """Tells whether atoms are the feed-forward half of a transformer block."""
    kinds = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv1D)
    return all(
        isinstance(leaf, kinds)
        or not any(len(v.shape) > 1 for v in leaf.weights)
        for atom in atoms
        for leaf in atom.leaves
    )


def _join_name(steps, segments, number):
    """Name that a person gave to the operation that ends a stretch."""
    at = [i for i, segment in enumerate(segments) if segment == number]
    last = steps[at[-1]]
    if has_automatic_name(last.operation):
        return None
    return "join", last.path


def _attach(atoms, named):
    """Starts a block at each kernel left over; what scales it, follows.

    Where names say so it goes before, as in DenseNet's transitions.
    """
    keys = []
    for atom, after in zip(atoms, [*atoms[1:], None], strict=True):
        key = named[atom]
        if key is None:
            if keys and keys[-1] == ("pair", _pair(atom)):
                key = keys[-1]
            elif atom.follows and _leads(atom, after, named):
                key = "pair", _pair(atom)
            else:
                joins = keys and atom.follows
                key = keys[-1] if joins else ("layer", atom.words)
        keys.append(key)
    return keys


def _leads(atom, after, named):
    """Tells whether what scales is called as the kernel that comes next."""
    return (
        after is not None
        and named[after] is None
        and not after.follows
        and _pair(atom) is not None
        and _pair(atom) == _pair(after)
    )


def _pair(atom):
    stem, _, last = atom.given.rpartition("_")
    numbered = re.search(r"\d$", stem)
    return stem if numbered and not last.isdecimal() else None


def is_block_key(key):
    """Tells whether a key names a block, not a layer or a place."""
    if isinstance(key, str):
        return not _PLACE.fullmatch(key)
    return key[0] in (_BLOCK_KEY, "join")


def family_of(key):
    """What the keys of equal blocks share: all but the number at the end."""
    return re.sub(r"\d+[a-z]?$", "", key) if isinstance(key, str) else key[0]


def group_name(key, atoms):
    """Turns the key of a block into the name that a person would say.

    `None` where all names are automatic.
    """
    if isinstance(key, str):
        return _last(key)
    if key[0] in ("join", "pair", "level"):
        return None if key[0] == "level" else _last(key[1])
    names = [_last(x.words) for x in atoms if x.given == x.words]
    if names and names[0] == _last(atoms[0].words):
        common = os.path.commonprefix([name.split("_") for name in names])
        return "_".join(common) or names[0]
    return _own_kind(atoms)


def _last(path):
    return path.split("/")[-1].rstrip("~")


def _own_kind(atoms):
    """The class of a composite layer, if it is no layer of Keras's."""
    modules = [_last(atom.words) for atom in atoms if atom.is_module]
    return modules[0] if len(modules) == 1 else None


def unique_names(names):
    """Numbers what has no name, drops a prefix that all share, and so on.

    Doubles are numbered as well.
    """
    names = _with_numbers(names)
    tokens = [name.split("_") for name in names if not _is_fixed(name)]
    shared = len(os.path.commonprefix(tokens)) if len(tokens) > 2 else 0
    short = [
        name
        if _is_fixed(name) or not shared
        else "_".join(name.split("_")[shared:])
        for name in names
    ]
    if any(not re.match("[A-Za-z]", name) for name in short):
        short = names
    return _numbered(short)


def _with_numbers(names):
    """`"block1"` and so on for `None`."""
    free = (f"block{i}" for i in itertools.count(1))
    free = (name for name in free if name not in names)
    return [next(free) if name is None else name for name in names]


def _is_fixed(name):
    return re.fullmatch("(.*_)?(stem|embeddings|head)", name) is not None


def _numbered(names):
    seen, unique = Counter(), []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique
