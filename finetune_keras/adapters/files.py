"""Adapters in a file of their own: by layer path, with their head."""

import json
import pathlib

import keras

from finetune_keras.adapters.adapter import place_adapters, train_adapter
from finetune_keras.adapters.file_base import (
    array_of,
    check_base,
    check_classes,
    check_head,
    fingerprints,
    head_of,
    renamed,
)
from finetune_keras.adapters.heads import head_with
from finetune_keras.adapters.peft_files import (
    CONFIG,
    WEIGHTS,
    from_peft,
    is_peft_folder,
    to_peft,
)
from finetune_keras.adapters.stored import (
    FORMAT,
    check_weights,
    naming,
    read_file,
    read_folder,
)
from finetune_keras.adapters.targets import base_leaves, check_places
from finetune_keras.arguments import check, one_of
from finetune_keras.data.atomic import replacing, write_text
from finetune_keras.engine import graph
from finetune_keras.engine.packages import require, safetensors
from finetune_keras.models.adapters_by_path import (
    adapters_by_name,
    describe_adapters,
    read_method,
)
from finetune_keras.models.model import encoder_of


def save_adapters(model, path, name=None, format=None):
    """Writes an adapter and the head into a small safetensors file.

    Weights are kept by the path of their layer. With them go the method with
    its arguments, the names of the classes where the model knows them, and a
    fingerprint of each weight of the base, by which `load_adapters` knows
    whether it fits.

    LoRA in KerasHub's BERT, RoBERTa, DistilBERT, Llama (Mistral and Qwen
    too), Gemma or GPT-2 can also be written for Hugging Face's PEFT, as a
    folder that `PeftModel.from_pretrained` reads. That of `"pissa"` is
    written as a plain LoRA of twice the rank, which does the same; in GPT-2,
    where query, key and value are one layer there, their ranks add up. The
    head of a classifier goes with it, without its softmax, if it is that of
    Hugging Face, `ft.replace_head(..., pooling="token")`; for RoBERTa
    with `hidden_units=(n,), activation="tanh"`, for DistilBERT with
    `"relu"`. Otherwise there is a warning.

    Args:
        model: A `keras.Model` with adapters.
        path: String or `pathlib.Path`, such as `"law.adapter.safetensors"`;
            a folder for `"peft"`.
        name: Name of the adapter. Defaults to `None`, the only one.
        format: `None` for our own file, or `"peft"`. Defaults to `None`.

    Raises:
        ValueError: If the model has no such adapter, or several and `name` is
            not given, or it cannot be written in this format.
        ImportError: If safetensors is not installed.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    ft.save_adapters(model, "law.adapter.safetensors")
    ```
    """
    check(format=(format, one_of(None, "peft")))
    require(safetensors)
    name = _pick(adapters_by_name(model), name, model)
    if format == "peft":
        _write_peft(model, path, name)
        return
    described = describe_adapters(model)[name]
    tensors = {f"adapter:{k}": v for k, v in _weights_of(model, name).items()}
    head = {f"head:{k}": v for k, v in head_with(model, name).items()}
    facts = {
        "name": name,
        "classes": getattr(encoder_of(model), "classes", None),
        **described,
        "base": fingerprints(model),
        "leaf_layers": list(base_leaves(model).values()),
    }
    data = safetensors.numpy.save(
        {key: array_of(variable) for key, variable in tensors.items()} | head,
        metadata={"format": FORMAT, "facts": json.dumps(facts)},
    )
    with replacing(path) as file:
        file.write(data)


def load_adapters(model, path, name=None):
    """Puts an adapter and a head from a file into a model.

    The model must have the base that the adapter was trained on, with a head
    of the same shape and, where both know them, classes. The adapter is added
    as by `add_adapters`, which freezes all else but the head; one of this name
    and method that is there already is overwritten, switched on and trained.

    A folder of Hugging Face's PEFT with a LoRA for one of the models that
    `save_adapters` names can be read into KerasHub's. It does not tell its
    base, so that only the sizes are checked; where it has no head the model
    keeps its own.

    Args:
        model: A `keras.Model`, built.
        path: String or `pathlib.Path` of a file from `save_adapters`, or of
            a folder of PEFT.
        name: String, the name to give the adapter. Defaults to `None`, its
            name in the file.

    Returns:
        `model` itself.

    Raises:
        ValueError: If the file is of another kind, or the base, the head or
            the order of its classes is not that of the file. The message
            tells what differs, and the model is unchanged.
        ImportError: If safetensors is not installed.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    model.save("base.keras")
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    ft.save_adapters(model, "law.adapter.safetensors")

    other = keras.models.load_model("base.keras")
    ft.load_adapters(other, "law.adapter.safetensors", name="law")
    ```
    """
    with naming(path):
        name, method, layers, tensors = _checked(model, path, name)
    if name in adapters_by_name(model):
        train_adapter(model, name)
    else:
        place_adapters(model, method, layers, name)
    _assign(_weights_of(model, name), tensors["adapter"])
    if tensors["head"]:
        _assign(head_of(model), tensors["head"])
    return model


def _checked(model, path, name):
    """Reads a file, and raises where the model cannot have what it holds."""
    folder = is_peft_folder(path)
    facts, tensors = _read_peft(model, path) if folder else read_file(path)
    old = facts["layers"]
    if "leaf_layers" in facts:
        facts, tensors = renamed(model, facts, tensors)
    name = facts["name"] if name is None else name
    layers = facts["layers"]
    method = read_method(facts["method"])
    method = method.renamed(dict(zip(old, layers, strict=True)))
    if not folder:
        check_base(model, facts["base"], path)
        check_classes(model, facts.get("classes"), path)
    if not folder or tensors["head"]:
        check_head(model, tensors["head"], path)
    if name in adapters_by_name(model):
        _check_same(model, name, method, layers)
        weights = _weights_of(model, name)
    else:
        check_places(model, method, layers)
        weights = _weights_to_be(model, method, layers)
    check_weights(weights, tensors["adapter"], path)
    return name, method, layers, tensors


def _write_peft(model, path, name):
    places = adapters_by_name(model)[name]
    adapters = {where: adapter for where, (_, adapter) in places.items()}
    config, tensors = to_peft(model, adapters, head_with(model, name))
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, json.dumps(config, indent=2))
    with replacing(folder / WEIGHTS) as file:
        file.write(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def _read_peft(model, path):
    config, tensors = read_folder(path)
    method, weights, head = from_peft(model, str(path), config, tensors)
    layers = dict.fromkeys(key.split("/adapter/")[0] for key in weights)
    facts = {
        "name": "default",
        "method": keras.saving.serialize_keras_object(method),
        "layers": list(layers),
    }
    return facts, {"adapter": weights, "head": head}


def _weights_of(model, name):
    """Dict from path to weight of an adapter, but for its switch."""
    places = adapters_by_name(model)[name]
    return _weights_at({path: adapter for path, (_, adapter) in places.items()})


def _weights_to_be(model, method, layers):
    """The same of an adapter that is not in the model yet."""
    adapters = method.make(model, layers, "to_be")
    for adapter in adapters:
        adapter.build(None)
    return _weights_at(dict(zip(layers, adapters, strict=True)))


def _weights_at(places):
    weights = {}
    for path, adapter in places.items():
        for leaf, inner in graph.leaf_layers(adapter, "adapter").items():
            for variable in graph.own_variables(leaf):
                if variable is not adapter.switch:
                    key = f"{path}/{inner}/{variable.name}"
                    weights[key] = variable
    return weights


def _check_same(model, name, method, layers):
    there = describe_adapters(model)[name]
    same = there["method"] == keras.saving.serialize_keras_object(method)
    if not same or sorted(there["layers"]) != sorted(layers):
        raise ValueError(
            f"The model has another adapter {name!r} already: {there}. Give "
            "the loaded one another `name`, or take that one out with "
            f"`remove_adapters`. Received: name={name!r}"
        )


def _pick(found, name, model):
    if name in found:
        return name
    if name is None and len(found) == 1:
        return next(iter(found))
    raise ValueError(
        f"Say which adapter of the model to save: it has {list(found)}. "
        f"Received: name={name!r}, model={model.name!r}"
    )


def _assign(variables, arrays):
    for key, variable in variables.items():
        variable.assign(arrays[key])
