"""Runs exported models, to check them against the model itself."""

import warnings

import numpy as np

from finetune_keras.engine.graph import graph_of
from finetune_keras.engine.packages import onnxruntime
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.models.model import encoder_of


def sample(model, format):
    """Makes a batch of one that a model takes."""
    if len(model.inputs) > 1 and format != "tf_saved_model":
        raise ValueError(
            "A model with several inputs is exported as a SavedModel. "
            f"Received: format={format!r}, model={model.name!r} with inputs "
            f"{[tensor.name for tensor in model.inputs]}"
        )
    if encoder_of(model) is not None:
        return model.arrays(model.encoder.sample)
    inputs = graph_of(model).input
    if isinstance(inputs, dict):
        return {name: _example(tensor) for name, tensor in inputs.items()}
    return _example(model.inputs[0])


def _example(tensor):
    """A batch of one for an input."""
    shape = [1, *(size or 8 for size in tensor.shape[1:])]
    if tensor.dtype == "string":
        return tf.constant(np.full(shape, "a sample text"))
    values = np.random.default_rng(0).integers(0, 200, shape)
    return values.astype(tensor.dtype)


def run_saved_model(path, x):
    """Runs a SavedModel."""
    exported = tf.saved_model.load(path)
    if isinstance(x, dict):
        x = {name: tf.convert_to_tensor(array) for name, array in x.items()}
    else:
        x = tf.convert_to_tensor(x)
    return np.asarray(exported.serve(x))


def run_onnx(path, x):
    """Runs an ONNX file."""
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return session.run(None, {name: np.asarray(x)})[0]


def run_litert(path, x):
    """Runs a LiteRT file."""
    with warnings.catch_warnings():
        # It says that another package will take its place.
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter")
        interpreter = tf.lite.Interpreter(path)
    where = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(where, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(where, x)
    interpreter.invoke()
    where = interpreter.get_output_details()[0]["index"]
    return interpreter.get_tensor(where)


RUNNERS = {
    "tf_saved_model": run_saved_model,
    "onnx": run_onnx,
    "litert": run_litert,
}
