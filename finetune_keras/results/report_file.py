"""The file of a report: JSON with packed arrays, read with suspicion."""

import base64
import json
import math
import os
import pathlib
import re
import zlib

import numpy as np

from finetune_keras.arguments import maybe, one_of
from finetune_keras.data import previews
from finetune_keras.data.facts import (
    COUNT,
    DICT,
    NUMBER,
    TEXT,
    DamagedFile,
    check_expansion,
    check_facts,
    damaged,
    dict_of,
    either,
    list_of,
    object_of,
    reading,
)
from finetune_keras.data.task import Task
from finetune_keras.results.formulas import NUM_BINS
from finetune_keras.results.mask_outcomes import MaskOutcomes
from finetune_keras.results.outcomes import Outcomes
from finetune_keras.results.written import Written
from finetune_keras.text.generation import TextGeneration

FORMAT = "finetune_keras report 1"
_METRICS = dict_of(maybe(NUMBER))
_INTERVALS = dict_of(maybe(list_of(NUMBER, 2)))
_OUTCOME = either(TEXT, NUMBER, list_of(TEXT), list_of(NUMBER))
_SLICE = object_of(n=COUNT, metrics=_METRICS, intervals=_INTERVALS)
_WORST = object_of(
    index=COUNT,
    loss=NUMBER,
    true=_OUTCOME,
    predicted=_OUTCOME,
    probability=maybe(either(NUMBER, dict_of(NUMBER))),
)
_PACKED = maybe(object_of(dtype=TEXT, shape=list_of(COUNT), data=TEXT))
_FACTS = {
    "model": TEXT,
    "task": one_of(*(k for k, v in Task.kinds().items() if v.main_metric)),
    "classes": list_of(TEXT),
    "examples": COUNT,
    "label_digest": TEXT,
    "metrics": _METRICS,
    "intervals": _INTERVALS,
    "per_class": dict_of(_METRICS),
    "confusion": maybe(list_of(list_of(NUMBER))),
    "slices": dict_of(dict_of(_SLICE)),
    "worst": list_of(_WORST),
    "inputs": list_of(object_of(image=maybe(TEXT), text=TEXT)),
    "notes": list_of(TEXT),
    "calibration": maybe(DICT),
    "settings": DICT,
    "threshold": maybe(either(NUMBER, list_of(NUMBER))),
    "arrays": dict_of(_PACKED),
}


def pack_arrays(predictions):
    """Returns the arrays of `Outcomes` as JSON has them."""
    names = predictions.arrays
    return {name: _pack(getattr(predictions, name)) for name in names}


def read_report(source):
    """`(record, outcomes, inputs)` of the path or text of a report."""
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    name = previews.shorten(source, 80) if is_text else os.fspath(source)
    with reading(name):
        text = source if is_text else pathlib.Path(source).read_text("utf-8")
        record = _parse(text, name)
        check_facts(record, _FACTS, name)
        arrays = record["arrays"]
        size = sum(map(_size, filter(None, arrays.values())))
        check_expansion(size, len(text), name)
        classes = record["classes"]
        task = Task.kinds()[record["task"]](classes, len(classes))
        kind = MaskOutcomes if task.is_dense else Outcomes
        kind = Written if task == TextGeneration.name else kind
        lacking = set(kind.arrays) - set(arrays)
        if lacking:
            raise damaged(name, f"it lacks the arrays {sorted(lacking)}")
        arrays = {key: _unpack(arrays[key]) for key in kind.arrays}
        if kind is Written:
            predictions = Written.read(list(record["metrics"])[1:], **arrays)
        else:
            predictions = kind(
                task=task, threshold=record["threshold"], **arrays
            )
        wrong = _what_does_not_fit(record, predictions)
        if wrong:
            raise damaged(name, wrong)
        inputs = [previews.unpack(packed) for packed in record["inputs"]]
    return record, predictions, inputs


def _parse(text, name):
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise DamagedFile(
            "This is no report, or one of a newer finetune_keras. Pass a file "
            f"that `report.to_json(path)` wrote, of format {FORMAT!r}. "
            f"Received: source={name!r} of format {found!r}"
        )
    return record


def _pack(array):
    if array is None:
        return None
    array = array.astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(array.tobytes())).decode()
    return {"dtype": array.dtype.str, "shape": array.shape, "data": data}


def _size(packed):
    if not re.fullmatch(r"[<|][biuf][1248]", packed["dtype"]):
        raise ValueError(f"an array has dtype {packed['dtype']!r}")
    return math.prod(packed["shape"]) * int(packed["dtype"][2])


def _unpack(packed):
    if packed is None:
        return None
    size = _size(packed)
    stream = zlib.decompressobj()
    # One byte more shows that there is too much, and no more is unpacked.
    data = stream.decompress(base64.b64decode(packed["data"]), size + 1)
    if len(data) != size:
        raise ValueError(f"an array has not the {size:,} bytes of its shape")
    array = np.frombuffer(data, np.dtype(packed["dtype"]))
    return array.reshape(packed["shape"])


def _what_does_not_fit(record, predictions):
    """What of a report contradicts the rest of it, or `None`."""
    rows, width = record["examples"], len(record["classes"])
    if predictions.task.is_dense:
        wrong = _what_of_masks_does_not_fit(predictions, rows, width)
    else:
        wrong = _what_of_outputs_does_not_fit(record, predictions, rows, width)
    return wrong or _what_of_the_rest_does_not_fit(
        record, predictions, rows, width
    )


def _what_of_masks_does_not_fit(predictions, rows, width):
    counts, sums = predictions.counts, predictions.sums
    if counts is None or counts.shape != (rows, width, width):
        return "its counts are not of its pictures and classes"
    if sums is None or sums.shape != (rows, 2 + 3 * NUM_BINS):
        return "its sums are not of its pictures"
    return None


def _what_of_outputs_does_not_fit(record, predictions, rows, width):
    y, outputs = predictions.y_true, predictions.outputs
    if y is None or outputs is None or outputs.dtype.kind != "f":
        return "it has no labels and outputs"
    return predictions.task.misfit(y, outputs, rows)


def _what_of_the_rest_does_not_fit(record, predictions, rows, width):
    flat = predictions.task.is_flat
    has_table = flat or predictions.task.is_dense
    for name in ("sample_weight", "keys"):
        array = getattr(predictions, name)
        if array is not None and array.shape != (rows,):
            return f"{name!r} has shape {array.shape}, not {(rows,)}"
    if predictions.label_digest != record["label_digest"]:
        return "its labels are not those that it was written with"
    threshold, confusion = record["threshold"], record["confusion"]
    if isinstance(threshold, list) and len(threshold) != width:
        return f"'threshold' has {len(threshold)} values for {width} labels"
    if (
        has_table != (confusion is not None)
        or has_table
        and ([len(row) for row in confusion] != [width] * width)
    ):
        return "'confusion' is no matrix of its classes"
    if flat and record["metrics"].get("ece") is None:
        return "'metrics' lacks 'ece'"
    if len(record["worst"]) != len(record["inputs"]):
        return "'worst' and 'inputs' are not equally long"
    return None
