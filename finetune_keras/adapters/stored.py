"""What files of adapters hold, read with suspicion."""

import contextlib
import json
import pathlib

from finetune_keras.adapters.peft_files import CONFIG, WEIGHTS
from finetune_keras.arguments import Kind, maybe
from finetune_keras.data.facts import (
    COUNT,
    DICT,
    TEXT,
    DamagedFile,
    check_facts,
    damaged,
    dict_of,
    list_of,
    reading,
)
from finetune_keras.engine.packages import safetensors

FORMAT = "finetune_keras.adapters.1"
_SHAPE = list_of(COUNT)
_FINGERPRINT = Kind(
    "a shape and a digest",
    lambda v: (
        isinstance(v, list)
        and len(v) == 2
        and _SHAPE.holds(v[0])
        and TEXT.holds(v[1])
    ),
)
_FACTS = {
    "name": TEXT,
    "method": DICT,
    "layers": list_of(TEXT),
    "base": dict_of(_FINGERPRINT),
}
_NEWER = {"leaf_layers": list_of(TEXT), "classes": maybe(list_of(TEXT))}


def read_file(path):
    """Reads a file of `save_adapters`, or says what is wrong with it.

    Returns a dict of plain data, and a dict with `"adapter"` and `"head"`, each
    a dict from paths to arrays.
    """
    if pathlib.Path(path).is_dir():
        raise ValueError(
            f"The folder is none of PEFT: it has no {CONFIG!r}. Pass that "
            "folder, or a file of `save_adapters`. "
            f"Received: path={str(path)!r}"
        )
    metadata, arrays = _read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise DamagedFile(
            "This is no file of `save_adapters`, or one of a newer "
            f"finetune_keras: its format is {metadata.get('format')!r}, "
            f"expected {FORMAT!r}. Received: path={str(path)!r}"
        )
    with reading(path):
        facts = json.loads(metadata.get("facts", ""))
    check_facts(facts, _FACTS, path)
    # Older files lack some.
    newer = {name: kind for name, kind in _NEWER.items() if name in facts}
    check_facts(facts, newer, path)
    layers = facts["layers"]
    if not layers or len(set(layers)) < len(layers):
        raise damaged(path, f"its 'layers' are {layers}")
    tensors = {"adapter": {}, "head": {}}
    for key, array in arrays.items():
        kind, _, where = key.partition(":")
        if kind not in tensors:
            raise damaged(path, f"it holds {key!r}")
        tensors[kind][where] = array
    return facts, tensors


def read_folder(path):
    """Reads a folder of PEFT: its config, and its arrays by name."""
    folder = pathlib.Path(path)
    with reading(folder / CONFIG):
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    check_facts(config, {}, folder / CONFIG)
    return config, _read_tensors(folder / WEIGHTS)[1]


def _read_tensors(path):
    """Returns `(metadata, arrays)` of a safetensors file."""
    errors = (safetensors.SafetensorError, TypeError)
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            arrays = {
                key: file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118 - not a dict
            }
            return file.metadata() or {}, arrays
    except errors as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def check_weights(expected, arrays, path):
    """Raises where a file has other weights than an adapter needs."""
    needs = {key: tuple(v.shape) for key, v in expected.items()}
    has = {key: tuple(array.shape) for key, array in arrays.items()}
    for key in dict.fromkeys([*needs, *has]):
        if needs.get(key) != has.get(key):
            raise damaged(
                path,
                f"the weight {key!r} has shape {has.get(key)} in the file, "
                f"and {needs.get(key)} in an adapter of its method",
            )


@contextlib.contextmanager
def naming(path):
    """Adds the file to an error about what it holds."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{error} Received: path={str(path)!r}") from error
