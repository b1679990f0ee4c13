"""A run that survives being killed: its state after each epoch, on disk."""

import fcntl
import hashlib
import io
import json
import os
import pathlib

import keras
import numpy as np

from finetune_keras.data.atomic import open_lock, replacing
from finetune_keras.training.start_counts import (
    set_start_iterations,
    start_iterations,
)

_STATE = "state.npz"


class Checkpoint:
    """The folder of a run: one state, replaced after each epoch.

    The state is written beside the old one and then takes its place, so that
    a kill at any moment leaves one of them whole. The folder is locked while
    the run lives; the lock goes with the process.

    Args:
        folder: String, path of the folder. It is made where it is not there.
        run: Dict of plain data that says which run it is: its plan, model and
            data. A state of another run is refused.

    Raises:
        ValueError: If another run uses the folder, or left its state there.
    """

    def __init__(self, folder, run):
        self.folder = os.fspath(folder)
        self.run = json.loads(json.dumps(run))
        os.makedirs(self.folder, exist_ok=True)
        self._lock = open_lock(os.path.join(self.folder, "run.lock"))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
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
        """Returns `(facts, arrays)` of the last epoch, or `None` at first."""
        path = os.path.join(self.folder, _STATE)
        if not os.path.exists(path):
            return None
        facts, arrays = decode(path)
        different = [k for k in self.run if facts["run"].get(k) != self.run[k]]
        if different:
            raise ValueError(
                "The folder holds the state of another run: its "
                f"{' and '.join(different)} differ. Go on with the same, or "
                "give this run an empty folder. "
                f"Received: checkpoint_dir={self.folder!r}"
            )
        return facts, arrays

    def save(self, facts, arrays):
        """Replaces the state, or leaves the old one whole."""
        data = encode({**facts, "run": self.run}, arrays)
        path = os.path.join(self.folder, _STATE)
        with replacing(path) as file:
            file.write(data)


def encode(facts, arrays):
    """Turns plain data and arrays into bytes, without pickle."""
    packed = {"facts": np.frombuffer(json.dumps(facts).encode(), "uint8")}
    buffer = io.BytesIO()
    np.savez(buffer, **packed, **arrays)
    return buffer.getbuffer()


def decode(file):
    """Returns the `(facts, arrays)` that `encode` was given, from a file."""
    with np.load(file, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(arrays.pop("facts").tobytes().decode()), arrays


def describe_model(model):
    """Returns a digest of the names and shapes of a model's weights."""
    parts = [f"{v.name}{tuple(v.shape)}" for v in model.weights]
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()


def describe_data(inputs):
    """Returns what is known of data without reading all of it."""
    if inputs is None:
        return None
    if inputs.is_arrays:
        x, *labels = inputs.data
        size = len(keras.tree.flatten(x)[0])
        rows = np.linspace(0, size - 1, 16).astype(int)
        found = _digest(labels, [_pick(part, rows) for part in _parts(x)])
        return [size, inputs.batch_size, found]
    if inputs.is_buckets:
        labels = [part[1] for part in inputs.data.parts]
        return [inputs.data.sizes, inputs.batch_size, _digest(labels)]
    if inputs.is_dataset:
        return [int(inputs.data.cardinality()), str(inputs.data.element_spec)]
    return [type(inputs.data).__name__]


def _parts(data):
    return [part for part in keras.tree.flatten(data) if part is not None]


def _pick(part, rows):
    part = getattr(part, "iloc", part)
    return np.stack([np.asarray(part[int(row)]) for row in rows])


def _digest(*data):
    found = hashlib.blake2b(digest_size=8)
    for part in map(np.asarray, _parts(data)):
        # The bytes of an array of objects are places in memory.
        words = part.dtype.kind in "OU"
        found.update(str(part.tolist()).encode() if words else part.tobytes())
    return found.hexdigest()


def pack(name, variables):
    """Turns variables into arrays that NumPy can store without pickle."""
    arrays = {}
    for i, variable in enumerate(variables):
        array = np.asarray(keras.ops.convert_to_numpy(variable))
        if array.dtype.name == "bfloat16":
            array = array.view("uint16")
        arrays[f"{name}{i}"] = array
    return arrays


def unpack(name, arrays, variables):
    """Assigns what `pack` returned."""
    for i, variable in enumerate(variables):
        variable.assign(as_array(arrays[f"{name}{i}"], variable.dtype))


def as_array(array, dtype):
    """Gives an array that `pack` made its own dtype back."""
    if dtype == "bfloat16":
        import ml_dtypes

        return array.view(ml_dtypes.bfloat16)
    return array


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
