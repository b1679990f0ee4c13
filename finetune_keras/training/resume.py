"""A run that survives being killed: its state after each epoch, on disk."""

import contextlib
import io
import json
import os
import pathlib
import warnings
import zipfile

import keras
import numpy as np

from finetune_keras.data.atomic import replacing
from finetune_keras.data.folder_lock import take_lock
from finetune_keras.engine.optimizer_values import as_array
from finetune_keras.engine.start_counts import (
    set_start_iterations,
    start_iterations,
)
from finetune_keras.training.described import differences

_STATE, _BEFORE = "state.npz", "state.before.npz"
_FORMAT = 2


class Checkpoint:
    """The folder of a run: its last two states, of which each is whole.

    A state is written under another name and then takes its place, so that
    a kill at any moment leaves the one before. Where the disk damages the last
    one, the run goes on from the one before it. The folder is locked while
    the run lives; the lock goes with the process.

    Args:
        folder: String, path of the folder. It is made where it is not there.
        run: Dict of plain data that says which run it is, see `facts_of`. A
            state of another run is refused.

    Raises:
        ValueError: If another run uses the folder.
    """

    def __init__(self, folder, run):
        self.folder = os.fspath(folder)
        self.run = json.loads(json.dumps(run))
        os.makedirs(self.folder, exist_ok=True)
        self.state, self.before = (
            os.path.join(self.folder, name) for name in (_STATE, _BEFORE)
        )
        try:
            self._lock = take_lock(os.path.join(self.folder, "run.lock"))
        except BlockingIOError as error:
            raise ValueError(
                "Another run is using this folder at this moment. Give each "
                "run a folder of its own. "
                f"Received: checkpoint_dir={self.folder!r}"
            ) from error
        # What a kill left behind while it was written.
        for left in pathlib.Path(self.folder).glob("state.*.new.npz"):
            left.unlink(missing_ok=True)

    def close(self):
        """Lets go of the folder."""
        self._lock.close()

    def load(self):
        """Returns `(facts, arrays)` of the last epoch, or `None` at first.

        Raises:
            ValueError: If the state is that of another run, or damaged.
        """
        paths = [p for p in (self.state, self.before) if os.path.exists(p)]
        if not paths:
            return None
        damaged = []
        for path in paths:
            try:
                facts, arrays = decode(path)
            except ValueError as error:
                damaged.append(str(error))
                continue
            if damaged:
                warnings.warn(
                    f"{damaged[0]} The run goes on from the state of the "
                    "epoch before.",
                    stacklevel=2,
                )
            self._check(facts, path)
            return facts, arrays
        raise ValueError(
            f"{' '.join(damaged)} The run cannot go on: delete the file, or "
            "pass another folder, to begin again. "
            f"Received: checkpoint_dir={self.folder!r}"
        )

    def _check(self, facts, path):
        if facts.get("format") != _FORMAT:
            raise ValueError(
                f"The state in {path!r} was written by another version of this "
                "library, which knew less of a run. Go on with that version, "
                "or give this run an empty folder. "
                f"Received: checkpoint_dir={self.folder!r}"
            )
        different = differences(facts.get("run"), self.run)
        if different:
            more = len(different) - 3
            listed = "; ".join(different[:3])
            raise ValueError(
                f"The folder holds the state of another run: {listed}"
                f"{f', and {more} more' if more > 0 else ''}. Go on with the "
                "same, or give this run an empty folder. "
                f"Received: checkpoint_dir={self.folder!r}"
            )

    def save(self, facts, arrays):
        """Replaces the state before the last, and leaves the last one."""
        facts = {**facts, "run": self.run, "format": _FORMAT}
        with replacing(self.state) as file:
            file.write(encode(facts, arrays))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.state, self.before)


def encode(facts, arrays):
    """Turns plain data and arrays into bytes, without pickle."""
    facts = {**facts, "arrays": sorted(arrays)}
    packed = {"facts": np.frombuffer(json.dumps(facts).encode(), "uint8")}
    buffer = io.BytesIO()
    np.savez(buffer, **packed, **arrays)
    return buffer.getbuffer()


def decode(file):
    """Returns the `(facts, arrays)` that `encode` was given, from a file.

    Raises:
        ValueError: If the file is damaged, or not one that `encode` made.
    """
    try:
        _check_size(file)
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(arrays.pop("facts").tobytes().decode())
        if sorted(facts.get("arrays", arrays)) != sorted(arrays):
            raise ValueError("it lacks arrays, or has others")
    except PermissionError:
        raise
    # Damage shows in whatever part of NumPy, zip or JSON meets it first.
    except Exception as error:
        raise ValueError(
            f"The state of a run in {str(file)!r} is damaged "
            f"({type(error).__name__}: {str(error)[:80]})."
        ) from None
    return facts, arrays


def _check_size(file):
    """Refuses what would take more memory than it takes on disk."""
    with zipfile.ZipFile(file) as stored:
        for member in stored.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed")
            with stored.open(member) as part:
                version = np.lib.format.read_magic(part)
                read = getattr(
                    np.lib.format, f"read_array_header_{version[0]}_0"
                )
                shape, _, dtype = read(part)
                size = dtype.itemsize * int(np.prod(shape, dtype=object))
                if part.tell() + size != member.file_size:
                    raise ValueError(f"{member.filename} is of another size")
    if hasattr(file, "seek"):
        file.seek(0)


def pack(name, variables):
    """Turns variables into arrays that NumPy can store without pickle.

    Args:
        name: String, which begins their keys.
        variables: Iterable of variables or arrays, or a dict of them.

    Returns:
        Dict of arrays, keyed by place, or by key.
    """
    arrays = {}
    pairs = getattr(variables, "items", lambda: enumerate(variables))()
    for key, variable in pairs:
        array = np.asarray(keras.ops.convert_to_numpy(variable))
        if array.dtype.name == "bfloat16":
            array = array.view("uint16")
        arrays[f"{name}{key}"] = array
    return arrays


def unpack(name, arrays, variables):
    """Assigns what `pack` returned."""
    for i, variable in enumerate(variables):
        variable.assign(as_array(arrays[f"{name}{i}"], variable.dtype))


def unpacked(name, arrays):
    """Returns the dict that `pack` was given."""
    return {
        key.removeprefix(name): array
        for key, array in arrays.items()
        if key.startswith(name)
    }


def seed_states(model):
    """Lists the states of the random layers of a model."""
    weights = {id(v) for v in model.weights}
    return [v for v in model.variables if id(v) not in weights]


def pack_training(model):
    """Returns `(facts, arrays)` of all state of a model and its optimizer."""
    arrays = {
        **pack("variable", model.variables),
        **pack("optimizer", model.optimizer.variables),
    }
    return {"starts": start_iterations(model.optimizer)}, arrays


def unpack_training(model, facts, arrays):
    """Restores it, in a model with the same flags."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    unpack("variable", arrays, model.variables)
    unpack("optimizer", arrays, model.optimizer.variables)
    set_start_iterations(model.optimizer, facts["starts"])
