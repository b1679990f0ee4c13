"""The file of a bundle: a `.keras` file with facts, read with suspicion."""

import json
import os
import warnings
import zipfile

import keras

from finetune_keras.arguments import Kind, maybe, one_of
from finetune_keras.data.facts import (
    COUNT,
    DICT,
    NUMBER,
    TEXT,
    TRUTH,
    DamagedFile,
    check_expansion,
    check_facts,
    damaged,
    dict_of,
    either,
    list_of,
    reading,
)
from finetune_keras.data.labels import check_classes
from finetune_keras.data.outputs import columns_of, gives_maps, is_detector
from finetune_keras.data.several import (
    Several,
    inputs_by_name,
    outputs_by_name,
)
from finetune_keras.data.table_columns import KINDS
from finetune_keras.data.table_layers import input_name
from finetune_keras.data.task import Task
from finetune_keras.models.outside_graph import prepares_inputs
from finetune_keras.results.raw_inputs import reads_texts

MEMBER, FORMAT = "finetune_keras.json", 1
_KIND = Kind(f"one of {list(KINDS)}", lambda v: v in list(KINDS))
_FACTS = {
    "classes": maybe(list_of(TEXT)),
    "image_size": maybe(either(COUNT, list_of(COUNT, 2))),
    "crop_to_aspect_ratio": TRUTH,
    "sampling_rate": maybe(COUNT),
    "seconds": maybe(NUMBER),
    "features": maybe(either(TEXT, list_of(TEXT))),
    "kinds": maybe(dict_of(_KIND)),
    "data": maybe(DICT),
    "outputs": maybe(DICT),
    "plan": maybe(DICT),
    "environment": DICT,
}
_OF_BEFORE = {
    "from_logits": False,
    "sampling_rate": None,
    "seconds": None,
    "kinds": None,
    "outputs": None,
}
_MOST_PIXELS = 2**14


def read_bundle(path, safe_mode=True):
    """`(model, facts)` of a bundle, or an error that tells what can be done."""
    facts = _read_facts(path)
    model = _load(path, safe_mode)
    _check_fit(model, facts, path)
    return model, facts


def _read_facts(path):
    if str(path).endswith((".h5", ".hdf5")) and os.path.exists(path):
        raise DamagedFile(
            "A bundle is a `.keras` file. Load a model of HDF5 by "
            "`model = keras.models.load_model(path)`, and make it a bundle: "
            '`ft.save_bundle(model, "model.keras", classes=[...])`. '
            f"Received: path={str(path)!r}"
        )
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
    # Bundles from before there were such facts hold probabilities, no sounds.
    facts = {**_OF_BEFORE, **facts}
    kinds = Task.kinds().items()
    kinds = one_of(*(name for name, kind in kinds if kind.is_bundled))
    check_facts(facts, {**_FACTS, "task": kinds, "from_logits": TRUTH}, path)
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
        check_predicts(model, facts["task"], facts["kinds"])
        task_of(model, facts)
    except (TypeError, ValueError) as error:
        raise damaged(path, str(error)) from error
    size = facts["image_size"]
    if size is not None and not is_size_of(size, model):
        raise damaged(
            path,
            f"'image_size' is {size}, and the model takes inputs of shape "
            f"{tuple(model.inputs[0].shape)}",
        )


def is_size_of(size, model):
    """Tells whether images of a size are what a model takes."""
    shape = model.inputs[0].shape
    first = keras.config.image_data_format() == "channels_first"
    sides = shape[2:4] if first else shape[1:3]
    if prepares_inputs(model):
        sides = None, None
    pair = size if isinstance(size, (list, tuple)) else [size, size]
    return len(shape) == 4 and all(
        0 < one <= _MOST_PIXELS and whole in (None, one)
        for one, whole in zip(pair, sides, strict=True)
    )


def task_of(model, facts):
    """The task of a bundle, as its file says."""
    if facts["task"] == Several.name:
        return _task_of_each(model, facts)
    kind, classes = Task.kinds()[facts["task"]], facts["classes"]
    task = kind(classes, columns_of(model), facts["from_logits"])
    if task == "detection":
        task.ask(model)
    if classes is not None:
        check_classes(classes)
    if classes is not None or (task.is_judged and task.has_chances):
        task.classes = task.names()
    return task


def _task_of_each(model, facts):
    task = Several(facts["outputs"] or {})
    names = list(outputs_by_name(model))
    if set(task.parts) != set(names):
        raise ValueError(
            f"The bundle knows the outputs {list(task.parts)}, and the model "
            f"has {names}"
        )
    for part in task.parts.values():
        if part.classes is not None:
            part.names()
    return task


def check_predicts(model, told=None, kinds=None):
    """Raises where a bundle could not predict from raw input.

    It has no graph, or values for each pixel or step. `told` is its task,
    where it does not tell it itself; `kinds` are those of the columns of a
    table.
    """
    inputs = getattr(model, "inputs", None)
    outputs = getattr(model, "outputs", None)
    if is_detector(model):
        return
    if not inputs or not outputs:
        _refuse(model, "it has no graph that tells its input and output")
    columns = {input_name(name) for name in kinds or ()}
    if kinds and not columns >= set(inputs_by_name(model)):
        _refuse(
            model,
            f"its inputs are {list(inputs_by_name(model))}, and those of the "
            f"table {sorted(columns)}",
        )
    if len(inputs) > 1 and not reads_texts(model):
        if len(inputs_by_name(model)) < len(inputs):
            _refuse(model, f"it has {len(inputs)} inputs, two of one name")
    task = Task.of(model, None if told == Several.name else told)
    task = None if task == Several.name else task
    for shape in (output.shape for output in outputs):
        if len(shape) not in (1, 2) and not _is_whole(model, task):
            _refuse(
                model, f"it has outputs of shape {tuple(shape)} for an input"
            )


def _is_whole(model, task):
    """Tells outputs of more axes that a bundle makes something of."""
    if task is None or task.is_judged:
        return task is not None and task.is_dense and gives_maps(model)
    return task.is_bundled


def _refuse(model, reason):
    raise ValueError(
        "A bundle predicts one thing for each raw input, a class, labels, "
        f"numbers or a mask, and this model does not: {reason}. Keep it with "
        "`model.save(path)`, and read its inputs and outputs in your own "
        f"code. Received: model={model.name!r} of type {type(model).__name__}"
    )
