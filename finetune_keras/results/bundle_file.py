"""The file of a bundle: a `.keras` file with facts, read with suspicion."""

import json
import os
import warnings
import zipfile

import keras

from finetune_keras.data.facts import (
    COUNT,
    DICT,
    TEXT,
    TRUTH,
    DamagedFile,
    check_expansion,
    check_facts,
    damaged,
    either,
    list_of,
    maybe,
    one_of,
    reading,
)
from finetune_keras.results.predicts import check_predicts, classes_of

MEMBER, FORMAT = "finetune_keras.json", 1
_TASKS = ("classification", "multi_label", "regression", "tags", "answers")
_FACTS = {
    "classes": maybe(list_of(TEXT)),
    "task": one_of(*_TASKS),
    "image_size": maybe(either(COUNT, list_of(COUNT, 2))),
    "crop_to_aspect_ratio": TRUTH,
    "features": maybe(either(TEXT, list_of(TEXT))),
    "data": maybe(DICT),
    "plan": maybe(DICT),
    "environment": DICT,
}
_MOST_PIXELS = 2**14


def read_bundle(path, safe_mode=True):
    """Reads a bundle.

    Args:
        path: String or `pathlib.Path`.
        safe_mode: Boolean, as for `keras.models.load_model`. Defaults to
            `True`.

    Returns:
        `(model, facts)`.

    Raises:
        ValueError: With the file, what is wrong, and what can be done.
    """
    facts = _read_facts(path)
    model = _load(path, safe_mode)
    _check_fit(model, facts, path)
    return model, facts


def _read_facts(path):
    with reading(path):
        facts = json.loads(_member(path))
    number = facts.get("format") if isinstance(facts, dict) else None
    if type(number) is int and number > FORMAT:
        raise ValueError(
            f"The bundle has format {number}, and this finetune_keras reads "
            f"up to {FORMAT}. Install a newer one, or save the bundle with "
            f"this one. Received: path={str(path)!r}"
        )
    if type(number) is not int or number != FORMAT:
        raise damaged(path, f"its format must be {FORMAT}, is {number!r}")
    # Bundles from before there was such a fact hold probabilities.
    facts = {"from_logits": False, **facts}
    check_facts(facts, {**_FACTS, "from_logits": TRUTH}, path)
    return facts


def _member(path):
    with zipfile.ZipFile(path) as file:
        size = sum(part.file_size for part in file.infolist())
        check_expansion(size, os.path.getsize(path), path)
        if MEMBER in file.namelist():
            return file.read(MEMBER)
    raise DamagedFile(
        "The file is no bundle. A plain Keras file is loaded by "
        "`keras.models.load_model`; `save_bundle` adds what it takes to "
        f"predict from raw input. Received: path={str(path)!r}"
    )


def _load(path, safe_mode):
    try:
        return keras.models.load_model(path, safe_mode=safe_mode)
    except Exception as error:
        model = _load_to_predict(path, safe_mode, error)
        if model is not None:
            return model
        # What is refused for safety says itself how to trust the file.
        if "safe_mode=False" in str(error):
            raise
        raise ValueError(
            "The model in the file cannot be loaded. It is damaged, or holds "
            "classes that must be imported first, such as those of KerasHub "
            f"or registered ones of your own. Received: path={str(path)!r}. "
            f"{type(error).__name__}: {error}"
        ) from error


def _load_to_predict(path, safe_mode, reason):
    """The model without what it trains with, or `None` if it is at fault."""
    try:
        model = keras.models.load_model(
            path, compile=False, safe_mode=safe_mode
        )
    except Exception:  # the first error says why
        return None
    warnings.warn(
        "The bundle predicts, and its model cannot train or be evaluated "
        "before `bundle.model.compile(...)`: the file names a loss, a metric "
        "or an optimizer that cannot be read here, such as a function of your "
        "own. Import it first, registered by "
        "`keras.saving.register_keras_serializable`. Received: "
        f"path={str(path)!r}. {type(reason).__name__}: {str(reason)[:300]}",
        stacklevel=5,
    )
    return model


def _check_fit(model, facts, path):
    """Raises where the facts are not those of the model."""
    try:
        check_predicts(model)
        classes_of(model, None, facts["classes"])
    except (TypeError, ValueError) as error:
        raise damaged(path, str(error)) from error
    shape, size = tuple(model.inputs[0].shape), facts["image_size"]
    if size is not None and not _is_size_of(size, shape):
        raise damaged(
            path,
            f"'image_size' is {size}, and the model takes inputs of shape "
            f"{shape}",
        )


def _is_size_of(size, shape):
    first = keras.config.image_data_format() == "channels_first"
    sides = shape[2:4] if first else shape[1:3]
    pair = size if isinstance(size, list) else [size, size]
    return len(shape) == 4 and all(
        0 < one <= _MOST_PIXELS and whole in (None, one)
        for one, whole in zip(pair, sides, strict=True)
    )
