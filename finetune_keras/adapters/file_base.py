"""Whether the base of an adapter in a file is the one at hand."""

import hashlib

import keras
import numpy as np

from finetune_keras.adapters.targets import base_leaves, head_layers
from finetune_keras.engine import graph
from finetune_keras.models.model import encoder_of
from finetune_keras.models.trainable_set import path_now, paths_now


def renamed(model, facts, tensors):
    """Gives what a file holds the paths of the model.

    Keras numbers layers without a name of their own, anew in each process.
    """
    paths = paths_now(facts["leaf_layers"], base_leaves(model).values())

    def of_weight(key):
        path, _, name = key.rpartition("/")
        return f"{paths.get(path, path)}/{name}"

    def of_adapter(key):
        path = next((p for p in old if key.startswith(f"{p}/adapter/")), None)
        if path is None:
            raise ValueError(
                f"The file holds a weight {key!r} of no layer that it names."
            )
        return path_now(path, paths) + key[len(path) :]

    old = facts["layers"]
    base = {of_weight(key): v for key, v in facts["base"].items()}
    head = {of_weight(key): v for key, v in tensors["head"].items()}
    adapter = {of_adapter(key): v for key, v in tensors["adapter"].items()}
    layers = [path_now(path, paths) for path in old]
    facts = {**facts, "base": base, "layers": layers}
    return facts, {"adapter": adapter, "head": head}


def head_of(model):
    """Dict from the path of each weight of the head to the variable."""
    head = head_layers(model)
    return {
        f"{path}/{variable.name}": variable
        for layer, path in base_leaves(model).items()
        if layer in head
        for variable in graph.own_variables(layer)
    }


def fingerprints(model):
    """Dict from the path of each weight of the base to shape and digest."""
    head = head_layers(model)
    return {
        f"{path}/{variable.name}": [list(variable.shape), _digest(variable)]
        for layer, path in base_leaves(model).items()
        if layer not in head
        for variable in graph.own_variables(layer)
    }


def _digest(variable):
    values = array_of(variable)
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


def array_of(variable):
    """The values of a variable, as a file can hold them."""
    values = np.array(keras.ops.convert_to_numpy(variable))
    # NumPy has no bfloat16 of its own; in float32 it loses nothing.
    if values.dtype.kind not in "fiub":
        values = values.astype("float32")
    return np.ascontiguousarray(values)


def check_base(model, expected, path):
    """Raises, with the reason, where the base has other fingerprints."""
    found = fingerprints(model)
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    both = [key for key in expected if key in found]
    shapes = [key for key in both if expected[key][0] != found[key][0]]
    values = [key for key in both if expected[key][1] != found[key][1]]
    if missing or extra:
        which = "has no" if missing else "has in addition"
        one = (missing or extra)[0]
        reason = f"the model {which} weight {one!r}"
    elif shapes:
        one = shapes[0]
        reason = (
            f"{one!r} has shape {tuple(found[one][0])}, and "
            f"{tuple(expected[one][0])} in the file"
        )
    elif values:
        reason = (
            f"{len(values)} of {len(both)} weights have other values, the "
            f"first is {values[0]!r}"
        )
    else:
        return
    raise ValueError(
        f"The adapter was trained on another base: {reason}. Load it into the "
        "model that it was trained on, with the same pretrained weights, not "
        f"fine-tuned or merged since. Received: path={str(path)!r}, "
        f"model={model.name!r}"
    )


def check_head(model, tensors, path):
    """Raises where the head has other weights than the file."""
    found = {key: tuple(v.shape) for key, v in head_of(model).items()}
    expected = {key: tuple(array.shape) for key, array in tensors.items()}
    if found != expected:
        raise ValueError(
            "The model has another head than the file. Give it one with the "
            "same layers and number of classes, for instance with "
            f"`ft.replace_head`. The file has {expected}, the model {found}. "
            f"Received: path={str(path)!r}"
        )


def check_classes(model, expected, path):
    """Raises where the outputs of the head have other names in the file."""
    found = getattr(encoder_of(model), "classes", None)
    if None not in (found, expected) and found != expected:
        raise ValueError(
            "The head of the file answers with other classes than the model, "
            "or in another order: its outputs would get wrong names. Make the "
            f"model with `classes={expected}`. Received: path={str(path)!r}, "
            f"a model of the classes {found}"
        )
