"""The folder of a search: whose it is, and who is using it."""

import contextlib
import glob
import os
import shutil

import numpy as np

from finetune_keras.data.facts import read_json
from finetune_keras.data.folder_lock import take_lock
from finetune_keras.search.oracles import write_json
from finetune_keras.search.shared_data import describe

FACTS, OVER = "search.json", "over.json"
# Whether and how it prints or stores changes no result.
_NO_FACTS = ("cache", "callbacks", "verbose")


@contextlib.contextmanager
def in_use(folder):
    """Makes a folder, and locks it against a second process of its name."""
    if glob.escape(str(folder)) != str(folder):
        raise ValueError(
            "KerasTuner takes *, ? and [ in the path of a folder for a "
            "pattern, and would not find the trials again. Choose another "
            f"path. Received: directory={str(folder)!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    name = os.environ.get("KERASTUNER_TUNER_ID", "tuner0")
    try:
        lock = take_lock(folder / f"{name}.lock")
    except BlockingIOError as error:
        raise ValueError(
            f"Another search, {name!r}, is using this folder at this "
            "moment. Give each a folder of its own; processes of one "
            "search have a `KERASTUNER_TUNER_ID` each. "
            f"Received: directory={str(folder)!r}"
        ) from error
    with lock:
        yield


def facts_of(hypermodel, settings, options, data, declared):
    """Returns what tells a search from others, as JSON has it.

    `declared` is what `build` and the others declare, `options` are those for
    `fine_tune`.
    """
    names = ("algorithm", "seed", "executions_per_trial", "max_epochs")
    facts = {name: settings[name] for name in names}
    facts["objective"] = hypermodel.objective
    facts["space"] = hypermodel.space.to_dict()
    facts["parts of `build`"] = declared
    facts["train"], facts["validation"] = map(describe, data)
    for name, value in options.items():
        if name not in _NO_FACTS:
            facts[name] = value
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    known = (str, bool, int, float, type(None))
    return value if isinstance(value, known) else repr(type(value))


def claim(folder, facts):
    """Makes a folder that of a search, or goes on with the same one."""
    path = folder / FACTS
    if not path.exists():
        write_json(path, facts)
        return
    old = read_json(path, {})
    names = dict.fromkeys([*facts, *old])
    different = [n for n in names if old.get(n) != facts.get(n)]
    if different:
        raise ValueError(
            "The folder holds another search: "
            f"{' and '.join(different)} differ. Go on with the same, give "
            "this one a folder of its own, or pass `overwrite=True`. "
            f"Received: directory={str(folder)!r}"
        )


def empty(folder):
    """Deletes a search, and nothing else that may be in its folder."""
    for path in folder.glob("trial_*"):
        shutil.rmtree(path)
    for name in (FACTS, OVER, "oracle.json", "tuner0.json"):
        (folder / name).unlink(missing_ok=True)
