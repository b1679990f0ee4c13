"""The names of the parts of a model, tower by tower.

A tower is what is made of some inputs alone, such as the images of two inputs
that are compared, before another one begins.
"""

import re
from collections import Counter

from finetune_keras.engine import graph
from finetune_keras.models.block_names import group_name
from finetune_keras.models.levels import level_names


def named_parts(steps, parts, starts):
    """Names parts, and puts together what stands before the first block.

    `parts` are pairs of a key and atoms, `starts` the places of blocks among
    them. Returns pairs of a name, or `None`, and atoms.
    """
    runs = _runs(steps, parts, starts)
    words = _words(parts, runs, starts)
    done = []
    for run, word in zip(runs, words, strict=True):
        first = next((i for i in run if i in starts), None)
        if first is None:
            first = run[0] + _count_embeddings(parts, run)
        front = [atom for i in run if i < first for atom in parts[i][1]]
        if front:
            done.append((word, _front_name(front), None, front))
        done += [(word, None, *parts[i]) for i in run if i >= first]
    levels = level_names([key for _, _, key, _ in done])
    found = [
        (word, name or levels.get(key) or group_name(key, atoms))
        for word, name, key, atoms in done
    ]
    names = _apart(found, len(set(words) - {None}) > 1)
    return [(x, part[-1]) for x, part in zip(names, done, strict=True)]


def _count_embeddings(parts, run):
    """How many embeddings stand before everything else; 0 if one is named."""
    count = 0
    while count < len(run) and all(map(is_embedding, parts[run[count]][1])):
        count += 1
    is_named = count == 1 and group_name(*parts[run[0]]) is not None
    return 0 if is_named else count


def _front_name(atoms):
    convolves = any("Conv" in type(atom.layer).__name__ for atom in atoms)
    embeds = any(map(is_embedding, atoms))
    return "embeddings" if embeds and not convolves else "stem"


def is_embedding(atom):
    """Tells whether a layer looks vectors up."""
    return "Embedding" in type(atom.layer).__name__


def _runs(steps, parts, starts):
    """Lists of places of parts, one for each tower with what comes after."""
    read = graph.inputs_of(steps)
    runs, before = [], None
    for i, (_, atoms) in enumerate(parts):
        inputs = set().union(*(read[atom.first] for atom in atoms))
        ends = before is None or not inputs >= before
        if ends and (not runs or not set(starts).isdisjoint(runs[-1])):
            runs.append([])
        runs[-1].append(i)
        before = inputs
    return runs


def _words(parts, runs, starts):
    """What each tower is called: the words that no other one has."""
    texts = []
    for run in runs:
        first = next((i for i in run if i in starts), None)
        key, atoms = parts[run[0] if first is None else first]
        named = key[0] in ("join", "pair")
        text = key if isinstance(key, str) else named and key[1]
        text = re.split("[/_~]+", text or atoms[0].given)
        texts.append(None if first is None else text)
    named = [set(text) for text in texts if text]
    shared = set.intersection(*named) if named else set()
    return [
        "_".join(
            word
            for word in dict.fromkeys(text or ())
            if word not in shared and re.fullmatch("[A-Za-z]+", word)
        )
        or None
        for text in texts
    ]


def _apart(found, several):
    """Names with the word of their tower, where they need one.

    What comes again and again in one tower has no name of its own.
    """
    again = Counter(found)
    found = [(x, None if again[x, name] > 1 else name) for x, name in found]
    counts = Counter(name for _, name in found)
    names = []
    for word, name in found:
        front = name in ("stem", "embeddings") and several
        double = name is not None and counts[name] > 1
        if word and (front or double) and word not in name:
            name = f"{word}_{name}"
        names.append(name)
    return names
