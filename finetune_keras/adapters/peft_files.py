"""LoRA in the files of Hugging Face's PEFT, for models that both sides have."""

import contextlib
import math
import pathlib
import re
import warnings

import numpy as np

from finetune_keras.adapters.file_base import array_of
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.peft_names import family_of
from finetune_keras.adapters.targets import base_leaves, head_layers
from finetune_keras.data.facts import COUNT, NUMBER, check_facts, dict_of
from finetune_keras.models.adapters_by_path import bases

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_START = "base_model.model."
# The dense layers of Hugging Face's heads, and the activations between.
_HEADS = {
    "bert": (("classifier",), ()),
    "roberta": (("classifier.dense", "classifier.out_proj"), ("tanh",)),
    "distilbert": (("pre_classifier", "classifier"), ("relu",)),
}
# Options of PEFT that change what the factors mean.
_REFUSED = (
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


def to_peft(model, adapters, head):
    """Turns LoRA into what PEFT keeps, `(config, tensors)`.

    `adapters` is a dict from the paths of layers to their `LoRALayer`s, the
    keys of the head are like `"head/kernel"`.
    """
    method = next(iter(adapters.values())).method
    if not isinstance(method, LoRA):
        raise ValueError(
            "Only LoRA is written for PEFT; leave `format` out for other "
            f"methods. Received: an adapter of {method!r}"
        )
    family = family_of(model)
    places = {}
    for path, adapter in adapters.items():
        module, (count, part) = family.module(path), family.parts(path)
        there = places.setdefault(module, [None] * count)
        there[part] = adapter
    tensors, patterns = {}, {}
    for module, there in places.items():
        rows, patterns[module] = _joined(there, module)
        for ending, array in rows.items():
            tensors[f"{_START}{family.start}.{module}.{ending}"] = array
    modules = _head_modules(model, family)
    if head and not modules:
        warnings.warn(
            "The head is not in the folder: it is not built like that of "
            f"Hugging Face's classifier for {family.name}. Keep it with "
            "`model.save` or the format of `save_adapters`.",
            stacklevel=3,
        )
    for module, path in modules.items():
        tensors[f"{_START}{module}.weight"] = head[f"{path}/kernel"].T
        tensors[f"{_START}{module}.bias"] = head[f"{path}/bias"]
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    kind = "CAUSAL_LM" if family.writes_text and not head else None
    kind = "SEQ_CLS" if modules else kind
    return _config(method, patterns, modules, kind), tensors


def _joined(adapters, module):
    """Dict from PEFT's endings to arrays of one layer there, and rank, alpha.

    Where several layers here are one there, `None` for those without an
    adapter, each keeps its ranks, and changes its own outputs alone.
    """
    there = [x for x in adapters if x is not None]
    method = there[0].method
    if len(adapters) > 1 and method.variant == "dora":
        raise ValueError(
            f"{module!r} of PEFT is {len(adapters)} layers here, and DoRA "
            "cannot join them. Use another variant, or leave `format` out. "
            f"Received: an adapter of {method!r}"
        )
    factors = [_matrices(x) for x in there]
    a = np.concatenate([a for a, _ in factors])
    b = np.zeros((len(adapters), len(factors[0][1]), len(a)), "float32")
    place = 0
    for (_, columns), adapter in zip(factors, there, strict=True):
        end = place + columns.shape[1]
        # One scale holds for all of it there.
        columns = columns * np.float32(adapter.scale / there[0].scale)
        b[adapters.index(adapter), :, place:end] = columns
        place = end
    rows = {"lora_A.weight": a, "lora_B.weight": b.reshape(-1, len(a))}
    if method.variant == "dora":
        magnitude = array_of(there[0].magnitude.kernel)
        rows["lora_magnitude_vector"] = magnitude.reshape(-1)
    alpha = method.alpha * there[0].scale / method.scale_of(len(a))
    return rows, (len(a), alpha)


def _matrices(adapter):
    """What PEFT keeps: matrices from inputs to outputs, turned around."""
    a, b = map(array_of, adapter.method.factors(adapter))
    rank = a.shape[-1]
    return a.reshape(-1, rank).T, b.reshape(rank, -1).T


def from_peft(model, folder, config, tensors):
    """Turns what PEFT keeps into LoRA: `(method, weights, head)`.

    The keys of weights are like `"layer/adapter/lora_a/kernel"`, those of the
    head like `"head/kernel"`. `folder` is for messages.
    """
    method = _method(config, folder)
    family = family_of(model)
    modules = _head_modules(model, family)
    places = {}
    for path in base_leaves(model).values():
        if family.place(path):
            places.setdefault(family.module(path), []).append(path)
    found, head, unknown = {}, {}, []
    for name, array in tensors.items():
        where = name.removeprefix(_START)
        module, factor = _split(where.removeprefix(f"{family.start}."))
        kind = {"weight": "kernel", "bias": "bias"}.get(where.split(".")[-1])
        if module in places and factor is not None:
            found.setdefault(module, {})[factor] = (name, array)
        elif where.rpartition(".")[0] in modules and kind is not None:
            path = modules[where.rpartition(".")[0]]
            head[f"{path}/{kind}"] = array.T
        else:
            unknown.append(name)
    if unknown or not found:
        raise ValueError(_unknown(unknown, family, modules, places, folder))
    if any(len(factors) != len(method.parts) for factors in found.values()):
        raise ValueError(
            f"The file is not whole: each layer needs {len(method.parts)} "
            f"factors, and there are {list(tensors)}. Received: path={folder!r}"
        )
    ranks = {
        path: _by_pattern(config, "rank_pattern", module, method.rank)
        for module in found
        for path in places[module]
    }
    if {*ranks.values()} != {method.rank}:
        method = LoRA(**{**method.get_config(), "rank": ranks})
    adapters = dict(zip(ranks, method.make(model, ranks, "peft"), strict=True))
    weights = {}
    for module, factors in found.items():
        alpha = _by_pattern(config, "alpha_pattern", module, method.alpha)
        for path in places[module]:
            here = _here(adapters[path], factors, family.parts(path))
            # One alpha holds for all layers here.
            here["lora_b"] = here["lora_b"] * np.float32(alpha / method.alpha)
            for factor, array in here.items():
                weights[f"{path}/adapter/{factor}/kernel"] = array
    return method, weights, head


def _by_pattern(config, patterns, module, default):
    """What PEFT's config says of a layer there."""
    for one, value in (config.get(patterns) or {}).items():
        with contextlib.suppress(re.error):
            if re.fullmatch(rf"(.*\.)?({one})", module):
                return value
    return default


def _here(adapter, factors, parts):
    """Dict from the names of factors to their arrays here."""
    shape_a, shape_b, _ = adapter.factor_shapes(adapter.rank)
    kernel, axes = adapter.kernel_of_base().shape, adapter.input_axes
    magnitude = [1 if i in axes else size for i, size in enumerate(kernel)]
    shapes = {"lora_a": shape_a, "lora_b": shape_b, "magnitude": magnitude}
    # The rank is last in A, and first in B.
    rows = {"lora_a": shape_a[-1], "lora_b": math.prod(shape_b[1:])}
    count, place = parts
    found = {}
    for factor, (name, array) in factors.items():
        shape, many = tuple(shapes[factor]), 1 if factor == "lora_a" else count
        needs = many * rows.get(factor, math.prod(shape))
        size = many * math.prod(shape)
        if array.size != size or array.shape[:1] != (needs,):
            raise ValueError(
                "The model has other sizes than the one that the file was made "
                f"for: {name!r} has shape {array.shape}, and stands for "
                f"{shape} here."
            )
        part = np.split(array, many)[place if many > 1 else 0]
        found[factor] = np.ascontiguousarray(part.T).reshape(shape)
    return found


def _head_modules(model, family):
    """Dict from Hugging Face's names to the paths of the head's layers.

    Empty where the head is another: those read the first token.
    """
    names, activations = _HEADS.get(family.name, ((), ()))
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


def _config(method, patterns, modules, kind):
    """PEFT's config; `patterns` are rank and alpha of each layer there."""
    saved = sorted({module.split(".")[0] for module in modules})
    rank, alpha = next(iter(patterns.values()))
    ranks = {k: r for k, (r, _) in patterns.items() if r != rank}
    alphas = {k: a for k, (_, a) in patterns.items() if a != alpha}
    return {
        "peft_type": "LORA",
        "task_type": kind,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "lora_dropout": method.dropout,
        "use_rslora": method.variant == "rslora",
        "use_dora": method.variant == "dora",
        "target_modules": list(patterns),
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
    more = {"rank_pattern": dict_of(COUNT), "alpha_pattern": dict_of(NUMBER)}
    expected |= {key: kind for key, kind in more.items() if config.get(key)}
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
    known = sorted({*family.modules.values()})
    head = (
        f"the head is {list(modules)}"
        if modules
        else "its head is not built like that of Hugging Face, which reads "
        'the first token: `ft.replace_head(..., pooling="token")`'
    )
    return (
        f"{len(names)} tensors of the file have no place in the model, the "
        f"first is {names[0]!r}. In a {family.name} of KerasHub there are "
        f"{known} in {len(places)} layers, and {head}. Received: "
        f"path={folder!r}"
    )
