"""From what people have, files and texts and tables, to what a model takes."""

import os
import pathlib

import keras
import numpy as np

from finetune_keras.data.audio import load_audio, samples_of
from finetune_keras.data.images import load_image, open_image
from finetune_keras.data.several import inputs_by_name
from finetune_keras.data.table_columns import read_column
from finetune_keras.data.table_layers import input_name
from finetune_keras.engine.nodes import pack_inputs
from finetune_keras.models.model import encoder_of
from finetune_keras.text.sound_tokens import as_sounds, hears

# How the data of the training were read, where nothing tells it.
NO_FACTS = dict.fromkeys(
    (
        "image_size",
        "crop_to_aspect_ratio",
        "sampling_rate",
        "seconds",
        "features",
        "kinds",
    )
)
_FILE = (str, bytes, bytearray, os.PathLike)


def read_inputs(inputs, model, facts):
    """Reads raw inputs as the data of the training were read: an array.

    `facts` hold what `NO_FACTS` has the names of.
    """
    if facts["kinds"]:
        return read_rows(inputs, facts["kinds"])
    if len(model.inputs) > 1 and not reads_texts(model):
        return _by_name(inputs, model, facts)
    # Dicts in a list may be a chat.
    if _are_rows(inputs) and (
        facts["features"] or not isinstance(inputs, (list, tuple))
    ):
        return _table(inputs, model, facts)
    if encoder_of(model) is not None:
        return [inputs] if isinstance(inputs, (str, bytes)) else inputs
    if hears(model):
        return as_sounds(inputs)
    tensor = model.inputs[0]
    preprocessor = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tensor.dtype == "string" or tokenizer is not None:
        return _texts(inputs)
    if facts["sampling_rate"]:
        if _are_files(inputs):
            return _sounds(inputs, facts, tensor)
        _check_waves(inputs)
    if facts["image_size"] or (len(tensor.shape) == 4 and _is_raw(inputs)):
        size = facts["image_size"] or tensor.shape[1:3]
        return _images(inputs, size, facts["crop_to_aspect_ratio"], tensor)
    return _array(inputs, tensor)


def reads_texts(model):
    """Tells models that make their inputs of raw texts themselves."""
    preprocessor = getattr(model, "preprocessor", None)
    return encoder_of(model) is not None or hasattr(preprocessor, "tokenizer")


def _by_name(inputs, model, facts):
    """Each of several inputs for itself, in the structure of the model."""
    tensors = inputs_by_name(model)
    names = list(tensors)
    if isinstance(inputs, (list, tuple)) and len(inputs) == len(names):
        inputs = dict(zip(names, inputs, strict=True))
    if not hasattr(inputs, "keys"):
        raise ValueError(
            f"The model takes the inputs {names}: pass a dict of them, or a "
            f"table with such columns. Received: {type(inputs).__name__}"
        )
    missing = [name for name in names if name not in inputs]
    if missing:
        raise ValueError(
            f"The inputs {missing} are missing. Received: {list(inputs)}"
        )
    read = [
        _one_input(inputs[name], tensor, facts)
        for name, tensor in tensors.items()
    ]
    sizes = [len(array) for array in read]
    if len(set(sizes)) > 1:
        raise ValueError(
            "All inputs must have as many examples. Received: "
            f"{dict(zip(names, sizes, strict=True))}"
        )
    return pack_inputs(model, read)


def _one_input(values, tensor, facts):
    rank = len(tensor.shape)
    if tensor.dtype == "string":
        return _texts(values if isinstance(values, str) else list(values))
    if rank == 4 and _is_raw(values):
        size = facts["image_size"] or tensor.shape[1:3]
        return _images(values, size, facts["crop_to_aspect_ratio"], tensor)
    values = np.asarray(values)
    if rank == 2 and tensor.shape[1] == 1 and values.ndim < 2:
        # A column of a table.
        values = values.reshape(-1, 1)
    return _array(values, tensor)


def _table(table, model, facts):
    names = facts["features"]
    if isinstance(names, str):
        names = [names]
    if not names:
        raise ValueError(
            "The bundle does not know the columns of its inputs: it was saved "
            "without `data` from a table. Pass an array. "
            f"Received: inputs of type {type(table).__name__}"
        )
    columns = _columns_of(table, names)
    tensor = model.inputs[0]
    of_files = len(tensor.shape) == 4
    if of_files or tensor.dtype == "string" or reads_texts(model):
        texts = tuple(columns.values())
        texts = texts[0] if len(texts) == 1 else texts
        return read_inputs(texts, model, {**facts, "features": None})
    numbers = [_whole(name, column) for name, column in columns.items()]
    return _array(np.concatenate(numbers, axis=1), tensor)


def _whole(name, column):
    """Numbers (n, 1) of a column of a model that knows no missing ones."""
    read = np.asarray(column).reshape(-1, 1)
    if read.dtype.kind not in "biuf":
        read = read_column(name, _objects(column), "number")
    if np.isnan(read).any():
        raise ValueError(
            "The model was trained without missing values, and column "
            f"{name!r} lacks some. Fill them in. Received: missing values at "
            f"{np.flatnonzero(np.isnan(read))[:10].tolist()}"
        )
    return read


def read_rows(rows, kinds):
    """Reads rows of a table of several kinds: a dict of (n, 1).

    A frame, a dict of columns or of the values of one row, or a list of rows.
    """
    if not _are_rows(rows):
        raise ValueError(
            "The model takes rows of a table: a `pandas.DataFrame`, a dict of "
            "columns, a row as a dict, or a list of these. "
            f"Received: inputs of type {type(rows).__name__}"
        )
    return {
        input_name(name): _tensor(
            read_column(name, _objects(column), kinds[name])
        )
        for name, column in _columns_of(rows, kinds).items()
    }


def _are_rows(inputs):
    """Tells a table, a dict of columns or one row, or a list of rows."""
    if isinstance(inputs, (list, tuple)) and len(inputs):
        return all(isinstance(row, dict) for row in inputs)
    return hasattr(inputs, "columns") or isinstance(inputs, dict)


def _columns_of(rows, names):
    """Dict from names to lists of the values of that column."""
    if isinstance(rows, (list, tuple)):
        lacking = [n for n in names if any(n not in row for row in rows)]
        columns = {n: [row.get(n) for row in rows] for n in names}
    else:
        lacking = [name for name in names if name not in rows]
        columns = {n: _listed(rows[n]) for n in names if n in rows}
    lengths = {len(column) for column in columns.values()}
    if lacking:
        raise ValueError(
            "The table lacks columns that the model was trained on, or some "
            f"rows of it do: {lacking}. Received: no column {lacking} of "
            f"{list(names)}"
        )
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "The columns must be of one length, and not empty. "
            f"Received: lengths {lengths}"
        )
    return columns


def _tensor(column):
    """Strings as a tensor, since Keras takes no array of them."""
    if column.dtype != object:
        return column
    return keras.ops.convert_to_tensor(column, dtype="string")


def _listed(value):
    """The values of a column; a single value is a row of its own."""
    one = isinstance(value, (str, bytes)) or not hasattr(value, "__len__")
    return [value] if one or np.ndim(value) == 0 else list(value)


def _objects(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _texts(inputs):
    texts = [inputs] if isinstance(inputs, (str, bytes)) else list(inputs)
    bad = [text for text in texts if not isinstance(text, (str, bytes))]
    if bad or not texts:
        raise ValueError(
            "The model takes strings: pass one, or a list of them that is not "
            f"empty. Received: inputs with {bad[:3]!r}"
        )
    return _tensor(np.array(texts, object))


def _images(inputs, size, crop, tensor):
    pixels = [
        load_image(image, tuple(size) if np.ndim(size) else size, crop)
        for image in listed(inputs)
    ]
    return as_model_takes(pixels, tensor)


def listed(inputs):
    """Raw images as a list or an array of them."""
    inputs = [inputs] if _is_one_image(inputs) else inputs
    if not len(inputs):
        raise ValueError("There is no image. Received: inputs=[]")
    return inputs


def as_model_takes(pixels, tensor):
    """RGB pixels of images as a batch, gray where the model takes gray."""
    pixels = np.stack(pixels).astype("float32")
    if tensor.shape[-1] == 1:
        # As Pillow does.
        pixels = pixels @ np.array([[0.299], [0.587], [0.114]], "float32")
    return pixels


def pictures_of(inputs):
    """Images of Pillow as they are, upright."""
    inputs = [inputs] if _is_one_image(inputs) else inputs
    return [open_image(one) for one in inputs]


def _are_files(inputs):
    one = isinstance(inputs, _FILE)
    return one or isinstance(next(iter(inputs), None), _FILE)


def _sounds(inputs, facts, tensor):
    inputs = [inputs] if isinstance(inputs, _FILE) else inputs
    rate, seconds = facts["sampling_rate"], facts["seconds"]
    samples = tensor.shape[1] or samples_of(rate, seconds)
    sounds = [load_audio(one, rate, samples) for one in inputs]
    return _array(np.stack(sounds), tensor)


def _check_waves(inputs):
    if np.asarray(inputs).dtype.kind in "iu":
        raise ValueError(
            "The model was trained on waves from -1 to 1, and integers are "
            "samples as files have them. Pass the files, or divide by the "
            "largest value, 32768 for int16. Received: an array of dtype "
            f"{np.asarray(inputs).dtype}"
        )


def file_names(inputs):
    """Names of files, with as much of their folders as tells them apart.

    `None` where the inputs are no paths.
    """
    paths = [inputs] if _is_one_image(inputs) else inputs
    if not all(isinstance(path, (str, os.PathLike)) for path in paths):
        return None
    parts = [pathlib.Path(path).parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _is_raw(inputs):
    """Tells images from an array that has the right shape already."""
    return not (isinstance(inputs, np.ndarray) and inputs.ndim == 4)


def _is_one_image(inputs):
    one = isinstance(inputs, _FILE)
    one = one or hasattr(inputs, "convert")
    return one or (isinstance(inputs, np.ndarray) and inputs.ndim in (2, 3))


def _array(inputs, tensor):
    array = np.asarray(inputs)
    if array.ndim == len(tensor.shape) - 1:
        array = array[None]
    fits = array.ndim == len(tensor.shape) and all(
        wanted in (None, size)
        for wanted, size in zip(tensor.shape[1:], array.shape[1:], strict=True)
    )
    if not fits or array.dtype.kind in "OSU":
        raise ValueError(
            f"The model takes arrays of shape {tensor.shape}. Received: an "
            f"array of shape {array.shape} and dtype {array.dtype}"
        )
    with np.errstate(over="ignore"):
        cast = array.astype(tensor.dtype)
    if array.dtype.kind == "f" and (~np.isfinite(cast)).sum() > (
        (~np.isfinite(array)).sum()
    ):
        raise ValueError(
            f"The inputs have values that are too large for {tensor.dtype}. "
            "Scale them as for the training. "
            f"Received: values from {np.nanmin(array)} to {np.nanmax(array)}"
        )
    return cast
