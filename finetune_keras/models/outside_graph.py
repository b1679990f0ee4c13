"""What a model does to its inputs before its graph sees them.

The tasks of KerasHub run their `preprocessor` in `fit`, `evaluate` and
`predict`: their graph alone neither scales nor resizes. It is part of the
model, so whoever cuts, opens or rebuilds a graph asks here.
"""

import importlib.util
import warnings

import keras
import numpy as np

from finetune_keras.engine.graph import graph_of
from finetune_keras.engine.nodes import pack_inputs, run_through
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.models.model import encoder_of, text_model
from finetune_keras.models.pixel_guard import guard_like
from finetune_keras.models.text_encoder import TextEncoder

# How a model is trained and judged, and how it predicts.
TRAINING = ("call", "fit", "evaluate", "train_step", "test_step")
_PREDICTING = ("predict", "predict_step")


def prepares_inputs(model):
    """Tells whether a model changes its data before its graph."""
    method = getattr(type(model), "preprocess_samples", None)
    if method is None:
        return False
    # KerasHub's own does nothing without a preprocessor.
    own = method.__module__.split(".")[0] != "keras_hub"
    return own or getattr(model, "preprocessor", None) is not None


def leaves_arrays_in_order(model):
    """Tells whether the `fit` of a model shuffles no arrays.

    That of KerasHub's tasks does not, with a preprocessor or without.
    """
    return hasattr(type(model), "preprocess_samples")


def prepared(model, data, batch_size):
    """Data as the graph of a model takes them, prepared anew in each pass.

    An iterable of batches with a `cardinality()`; `batch_size` is for arrays.
    """
    # As the model's own `fit` does it, to the bit.
    if not hasattr(data, "element_spec"):
        if importlib.util.find_spec("grain") is not None:
            return _Prepared(model, tuple(data), batch_size)
        data = tf.data.Dataset.from_tensor_slices(tuple(data))
        data = data.batch(batch_size)
    return data.map(model.preprocess_samples)


class _Prepared:
    """Arrays in batches, each prepared when its turn comes."""

    def __init__(self, model, data, batch_size):
        self.model = model
        self.data = data
        self.batch_size = batch_size

    def cardinality(self):
        size = len(keras.tree.flatten(self.data)[0])
        return -(-size // self.batch_size)

    def __iter__(self):
        for i in range(self.cardinality()):
            rows = slice(i * self.batch_size, (i + 1) * self.batch_size)
            batch = keras.tree.map_structure(
                lambda array, rows=rows: array[rows], self.data
            )
            batch = map(_with_lists_of_strings, batch)
            batch = self.model.preprocess_samples(*batch)
            yield keras.tree.map_structure(_as_array, batch)


def _with_lists_of_strings(part):
    """Arrays of strings as lists: preprocessors take no such arrays."""
    if isinstance(part, tuple):
        return tuple(map(_with_lists_of_strings, part))
    is_texts = isinstance(part, np.ndarray) and part.dtype.kind in "OSU"
    return part.astype("str").tolist() if is_texts else part


def _as_array(leaf):
    if keras.ops.is_tensor(leaf):
        return keras.ops.convert_to_numpy(leaf)
    return leaf if leaf is None else np.asarray(leaf)


def texts_as_arrays(data):
    """Lists of strings, which have no length to Keras, as arrays of them."""
    x, *labels = data
    parts = x if isinstance(x, tuple) else (x,)
    parts = [np.array(p) if _are_texts(p) else p for p in parts]
    return (tuple(parts) if isinstance(x, tuple) else parts[0], *labels)


def _are_texts(part):
    texts = isinstance(part, list) and len(part) > 0
    return texts and all(isinstance(text, (str, bytes)) for text in part)


# === In the graph ===


def with_preprocessing(model, new):
    """Puts what a model does before its graph into a new model of that graph.

    The preprocessor becomes the first layer, or the encoder where it
    tokenises. Where a tokeniser packs in a way that we do not know, `new` stays
    as it is. A preprocessor that cannot stand in a graph is an error.
    """
    _tell_what_is_lost(model)
    if not prepares_inputs(model):
        return new
    preprocessor = getattr(model, "preprocessor", None)
    if getattr(preprocessor, "tokenizer", None) is not None:
        # Without a tokeniser it refuses strings: nothing goes past silently.
        return _with_tokenizer(preprocessor, new)
    try:
        inputs, prepared = _call(preprocessor, graph_of(new))
    except Exception as error:
        raise ValueError(
            f"The model {model.name!r} runs a preprocessor before its graph, "
            "and a model made of the graph would go past it. This one cannot "
            f"become a layer: {type(error).__name__}: {error} Use the backbone "
            "alone, `model.backbone`, or set `model.preprocessor = None`, and "
            "prepare the data yourself. "
            f"Received: preprocessor={preprocessor!r}"
        ) from error
    whole = type(new)(inputs, _replay(new, prepared), name=new.name)
    return guard_like(new, whole)


def _call(preprocessor, graph):
    """Calls a preprocessor on a symbolic input, of any size if it resizes."""
    (old,) = graph.inputs
    free = (None,) * (len(old.shape) - 2)
    first = keras.config.image_data_format() == "channels_first"
    loose = (old.shape[1], *free) if first else (*free, old.shape[-1])
    try:
        return _call_on(preprocessor, loose, old)
    except Exception:  # JAX crops no image of unknown size
        return _call_on(preprocessor, old.shape[1:], old)


def _call_on(preprocessor, shape, old):
    inputs = keras.Input(shape, dtype=old.dtype)
    prepared = preprocessor(inputs)
    if not isinstance(prepared, keras.KerasTensor):
        raise TypeError(f"it gives {prepared!r}")
    if not _fits(prepared.shape, old.shape):
        raise ValueError(f"it gives {prepared.shape} for {old.shape}")
    return inputs, prepared


def _fits(shape, wanted):
    return len(shape) == len(wanted) and all(
        size in (given, None) for given, size in zip(shape, wanted, strict=True)
    )


def _replay(model, inputs):
    inputs = pack_inputs(model, [inputs])
    return run_through(
        model, inputs, lambda operation, *a, **k: operation(*a, **k)
    )


def _with_tokenizer(preprocessor, new):
    encoder = _encoder_like(preprocessor, {x.name for x in new.inputs})
    if encoder is None or encoder_of(new) is not None:
        return new
    return text_model(new.input, new.output, encoder, new.name)


def _encoder_like(preprocessor, names):
    """Our encoder, where it gives what the preprocessor gives."""
    text = TextEncoder.sample[0]
    try:
        length = preprocessor.sequence_length
        encoder = TextEncoder(preprocessor.tokenizer, length)
        wanted = keras.tree.map_structure(_as_array, preprocessor([text]))
        found, lengths = encoder.encode([text])
    except Exception:  # each kind of preprocessor has its own way to refuse
        return None
    same = isinstance(wanted, dict) and names <= set(wanted) & set(found)
    same = same and all(
        np.array_equal(wanted[name][:, : lengths[0]], found[name])
        for name in names
    )
    return encoder if same and wanted["padding_mask"].sum() == lengths else None


def _tell_what_is_lost(model):
    lost = own_methods(model, (*TRAINING, *_PREDICTING))
    if lost:
        warnings.warn(
            f"{type(model).__name__} has {lost} of its own. A model made of "
            "its graph does not: what they do to the data or to the loss is "
            "left behind.",
            stacklevel=4,
        )


def own_methods(model, names=TRAINING):
    """Lists methods of the user, by which a model is more than its graph."""
    ours = ("keras", "keras_hub", "finetune_keras")
    return [
        name
        for name in names
        if (getattr(model, name).__module__ or "").split(".")[0] not in ours
    ]
