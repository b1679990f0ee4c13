"""Loads a saved model in a fresh process and tells what is found there."""

import importlib.util
import json
import os
import pathlib
import re
import sys
import tempfile

import keras
import numpy as np

from finetune_keras.testing.arrays import predict
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.testing.weights import named_weights

_CODE = """
import sys
from finetune_keras.testing import fresh_process
fresh_process.load(sys.argv[1])
"""


def reload(model, inputs, imports):
    """Saves a model, loads and runs it in a fresh process.

    Args:
        model: A `keras.Model`.
        inputs: NumPy array, or list or dict of them.
        imports: List of modules that the process imports first: names, or
            paths of Python files.

    Returns:
        Dict of `outputs`, `weights` and `trainable`.

    Raises:
        RuntimeError: If the process fails; the message ends with its errors.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model.save(folder / "model.keras")
        arrays, names = _unpack(inputs)
        np.savez(folder / "inputs.npz", *arrays)
        job = {"imports": [str(name) for name in imports], "names": names}
        (folder / "job.json").write_text(json.dumps(job))
        _run(folder)
        loaded = json.loads((folder / "loaded.json").read_text())
        return {**loaded, "outputs": _read(folder / "outputs.npz")}


def _run(folder):
    paths = os.pathsep.join(path or "." for path in sys.path)
    process = FreshProcess(
        "-c", _CODE, folder, env={**os.environ, "PYTHONPATH": paths}
    )
    if process.wait():
        raise RuntimeError(process.stderr[-3000:])


def load(folder):
    """Runs in the fresh process: loads, predicts, writes down what it finds."""
    folder = pathlib.Path(folder)
    job = json.loads((folder / "job.json").read_text())
    for module in job["imports"]:
        _import(module)
    # The file is the test's own.
    model = keras.models.load_model(folder / "model.keras", safe_mode=False)
    inputs = _pack(_read(folder / "inputs.npz"), job["names"])
    np.savez(folder / "outputs.npz", *predict(model, inputs))
    (folder / "loaded.json").write_text(json.dumps(describe(model)))


def describe(model):
    """Lists the paths of the weights of a model, and of the trainable ones."""
    weights = named_weights(model)
    ids = {id(v) for v in model.trainable_variables}
    trainable = [path for path, v in weights.items() if id(v) in ids]
    return {"weights": list(weights), "trainable": trainable}


def without_numbers(path):
    """Path without the numbers that Keras counts inside composite layers."""
    outer, *inner = path.split("/")
    return "/".join([outer, *(re.sub(r"_\d+$", "", name) for name in inner)])


def _import(module):
    if not module.endswith(".py"):
        return importlib.import_module(module)
    name = pathlib.Path(module).stem
    spec = importlib.util.spec_from_file_location(name, module)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def _unpack(inputs):
    if isinstance(inputs, dict):
        return list(inputs.values()), list(inputs)
    if isinstance(inputs, (list, tuple)):
        return list(inputs), len(inputs)
    return [inputs], None


def _pack(arrays, names):
    if isinstance(names, list):
        return dict(zip(names, arrays, strict=True))
    return arrays[0] if names is None else arrays


def _read(path):
    with np.load(path) as archive:
        return [archive[name] for name in archive.files]
