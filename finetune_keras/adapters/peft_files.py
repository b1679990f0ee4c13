"""LoRA in the files of Hugging Face's PEFT, for BERT and its relatives."""

import math
import pathlib
import re
import warnings

import numpy as np

from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.targets import base_leaves, head_layers
from finetune_keras.data.facts import COUNT, NUMBER, check_facts
from finetune_keras.models.adapters_by_path import bases

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_START = "base_model.model."
# Where a layer of a block of KerasHub stands in BERT and RoBERTa, and in
# DistilBERT.
_MODULES = {
    "self_attention_layer/query": ("attention.self.query", "attention.q_lin"),
    "self_attention_layer/key": ("attention.self.key", "attention.k_lin"),
    "self_attention_layer/value": ("attention.self.value", "attention.v_lin"),
    "self_attention_layer/attention_output": (
        "attention.output.dense",
        "attention.out_lin",
    ),
    "feedforward_intermediate_dense": ("intermediate.dense", "ffn.lin1"),
    "feedforward_output_dense": ("output.dense", "ffn.lin2"),
}
_BLOCK = re.compile(r"(?:.*/)?transformer_layer_(\d+)/(.*)")
# The dense layers of Hugging Face's heads, and the activations between.
_HEADS = {
    "bert": (("classifier",), ()),
    "roberta": (("classifier.dense", "classifier.out_proj"), ("tanh",)),
    "distilbert": (("pre_classifier", "classifier"), ("relu",)),
}
# Options of PEFT that change what the factors mean.
_REFUSED = (
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "velora_config",
    "monteclora_config",
    "arrow_config",
    "kasa_config",
    "megatron_config",
)
_FACTORS = {
    "lora_A.weight": "lora_a",
    "lora_B.weight": "lora_b",
    "lora_magnitude_vector": "magnitude",
}


def is_peft_folder(path):
    """Tells whether a path is a folder that PEFT or we have written."""
    return (pathlib.Path(path) / CONFIG).is_file()


def to_peft(model, method, weights, head):
    """Turns LoRA into what PEFT keeps, `(config, tensors)`.

    The keys of weights are like `"layer/adapter/lora_a/kernel"`, those of the
    head like `"head/kernel"`.
    """
    if not isinstance(method, LoRA):
        raise ValueError(
            "Only LoRA is written for PEFT; leave `format` out for other "
            f"methods. Received: an adapter of {method!r}"
        )
    family = _family(model)
    tensors, targets = {}, []
    for key, array in weights.items():
        path, factor = re.fullmatch(r"(.*)/adapter/(\w+)/\w+", key).groups()
        module = _module(path, family)
        if module not in targets:
            targets.append(module)
        ending = next(k for k, v in _FACTORS.items() if v == factor)
        name = f"{_START}{family}.{module}.{ending}"
        tensors[name] = _to_rows(array, factor, method.rank)
    modules = _head_modules(model, family)
    if head and not modules:
        warnings.warn(
            "The head is not in the folder: it is not built like that of "
            f"Hugging Face's classifier for {family}. Keep it with "
            "`model.save` or the format of `save_adapters`.",
            stacklevel=3,
        )
    for module, path in modules.items():
        tensors[f"{_START}{module}.weight"] = head[f"{path}/kernel"].T
        tensors[f"{_START}{module}.bias"] = head[f"{path}/bias"]
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    return _config(method, targets, modules), tensors


def from_peft(model, folder, config, tensors):
    """Turns what PEFT keeps into LoRA: `(method, weights, head)` of `to_peft`.

    `folder` is for messages.
    """
    method = _method(config, folder)
    family = _family(model)
    modules = _head_modules(model, family)
    places = {_module(x, family): x for x in _block_layers(model)}
    layers = {path: layer for layer, path in bases(model).items()}
    weights, head, unknown = {}, {}, []
    for name, array in tensors.items():
        where = name.removeprefix(_START)
        module, factor = _split(where.removeprefix(f"{family}."))
        kind = {"weight": "kernel", "bias": "bias"}.get(where.split(".")[-1])
        if module in places and factor is not None:
            path = places[module]
            shapes = _shapes(method, layers[path])
            key = f"{path}/adapter/{factor}/kernel"
            weights[key] = _from_rows(array, factor, shapes, name)
        elif where.rpartition(".")[0] in modules and kind is not None:
            path = modules[where.rpartition(".")[0]]
            head[f"{path}/{kind}"] = array.T
        else:
            unknown.append(name)
    if unknown or not weights:
        raise ValueError(_unknown(unknown, family, modules, places, folder))
    factors = 3 if method.variant == "dora" else 2
    if len(weights) != factors * len({x.rsplit("/", 2)[0] for x in weights}):
        raise ValueError(
            f"The file is not whole: each layer needs {factors} factors, and "
            f"there are {list(tensors)}. Received: path={folder!r}"
        )
    return method, weights, head


def _family(model):
    """Tells BERT, RoBERTa and DistilBERT of KerasHub by their embeddings."""
    names = {layer.name for layer in bases(model)}
    blocks = any("self_attention_layer" in x for x in _block_layers(model))
    # ELECTRA has the layers of BERT, and other names on the other side.
    blocks = blocks and "electra" not in model.name
    if blocks and "segment_embedding" in names:
        return "bert"
    if blocks and "token_and_position_embedding" in names:
        return "distilbert"
    if blocks and "embeddings" in names:
        return "roberta"
    raise ValueError(
        "Files of PEFT can be read and written for models on KerasHub's "
        "`BertBackbone`, `RobertaBackbone` and `DistilBertBackbone`. "
        f"Received: model={model.name!r} of type {type(model).__name__}"
    )


def _block_layers(model):
    paths = base_leaves(model).values()
    matches = {path: _BLOCK.fullmatch(path) for path in paths}
    return [p for p, match in matches.items() if match and match[2] in _MODULES]


def _module(path, family):
    """The name in Hugging Face's model of a layer of KerasHub's."""
    match = _BLOCK.fullmatch(path)
    if not match or match[2] not in _MODULES:
        raise ValueError(
            f"The layer {path!r} has no place in PEFT's file. Those of the "
            f"blocks have: {list(_MODULES)}. Leave `format` out, or choose "
            "other `target_layers`."
        )
    encoder = "transformer" if family == "distilbert" else "encoder"
    module = _MODULES[match[2]][family == "distilbert"]
    return f"{encoder}.layer.{match[1]}.{module}"


def _head_modules(model, family):
    """Dict from Hugging Face's names to the paths of the head's layers.

    Empty where the head is another: those read the first token.
    """
    names, activations = _HEADS[family]
    head = head_layers(model)
    dense = {
        layer: path
        for layer, path in base_leaves(model).items()
        if layer in head and layer.weights
    }
    pooled = any("Pooling" in type(layer).__name__ for layer in bases(model))
    between = [x.activation.__name__ for x in dense if hasattr(x, "activation")]
    if pooled or len(dense) != len(names):
        return {}
    if tuple(between[:-1]) != activations or len(between) != len(names):
        return {}
    return dict(zip(names, dense.values(), strict=True))


def _split(where):
    for ending, factor in _FACTORS.items():
        if where.endswith(f".{ending}"):
            return where.removesuffix(f".{ending}"), factor
    return where, None


def _shapes(method, layer):
    """Dict from the name of each factor to its shape in Keras."""
    adapter = method.layer_for(layer, "adapter")
    shape_a, shape_b, _ = adapter.factor_shapes(method.rank)
    kernel = layer.kernel.shape
    axes = adapter.input_axes
    magnitude = [1 if i in axes else size for i, size in enumerate(kernel)]
    return {"lora_a": shape_a, "lora_b": shape_b, "magnitude": magnitude}


def _to_rows(array, factor, rank):
    """What PEFT keeps: a matrix from inputs to outputs, turned around."""
    if factor == "magnitude":
        return array.reshape(-1)
    shape = (-1, rank) if factor == "lora_a" else (rank, -1)
    return array.reshape(shape).T


def _from_rows(array, factor, shapes, name):
    shape = tuple(shapes[factor])
    # The rank is last in A, and first in B.
    rows = {"lora_a": shape[-1], "lora_b": math.prod(shape[1:])}
    rows = rows.get(factor, math.prod(shape))
    if array.size != math.prod(shape) or array.shape[:1] != (rows,):
        raise ValueError(
            "The model has other sizes than the one that the file was made "
            f"for: {name!r} has shape {array.shape}, and stands for {shape} "
            "here."
        )
    return np.ascontiguousarray(array.T).reshape(shape)


def _config(method, targets, modules):
    saved = sorted({module.split(".")[0] for module in modules})
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if saved else None,
        "base_model_name_or_path": None,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.variant == "rslora",
        "use_dora": method.variant == "dora",
        "target_modules": targets,
        "modules_to_save": saved or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _method(config, folder):
    """The `LoRA` that a config of PEFT tells of."""
    if config.get("peft_type") != "LORA":
        raise ValueError(
            "Of PEFT's methods only LoRA can be read. "
            f"Received: peft_type={config.get('peft_type')!r} in {folder!r}"
        )
    refused = [key for key in _REFUSED if config.get(key)]
    both = config.get("use_rslora") and config.get("use_dora")
    start = config.get("init_lora_weights")
    moved = ("pissa", "olora", "corda", "loftq", "lora_ga")
    if str(start).lower().startswith(moved):
        refused.append("init_lora_weights")
    if config.get("bias", "none") != "none":
        refused.append("bias")
    if both:
        refused += ["use_rslora", "use_dora"]
    if refused:
        found = {key: config[key] for key in refused}
        raise ValueError(
            "The file of PEFT uses options that change what its factors mean "
            "and that `LoRA` has not. Load it with PEFT, merge it, and convert "
            f"the merged model. Received: {found} in {folder!r}"
        )
    expected = {"r": COUNT, "lora_alpha": NUMBER}
    check_facts(config, expected, pathlib.Path(folder) / CONFIG)
    variants = {"use_rslora": "rslora", "use_dora": "dora"}
    variant = [v for key, v in variants.items() if config.get(key)]
    return LoRA(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout", 0.0),
        variant=variant[0] if variant else "lora",
    )


def _unknown(names, family, modules, places, folder):
    if not names:
        return f"There is no LoRA in the folder. Received: path={folder!r}"
    known = sorted({x.split(".", 3)[-1] for x in places})
    head = (
        f"the head is {list(modules)}"
        if modules
        else "its head is not built like that of Hugging Face, which reads "
        'the first token: `ft.replace_head(..., pooling="token")`'
    )
    return (
        f"{len(names)} tensors of the file have no place in the model, the "
        f"first is {names[0]!r}. In a {family} of KerasHub there are {known} "
        f"in {len(places)} layers, and {head}. Received: path={folder!r}"
    )
