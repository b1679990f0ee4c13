"""The trainable set by path, which Keras's own file would lose."""

import warnings

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.paths import without_numbers

# What the file of a model of ours holds of it.
FLAGS = ("frozen_layers", "frozen_variables", "leaf_layers", "quantized_layers")


def describe_flags(model):
    """Dict of `FLAGS`: what is frozen in a model, and what is quantised."""
    leaves = graph.leaf_layers(model)
    weights = graph.weights_by_path(model)
    return {
        "frozen_layers": [p for x, p in leaves.items() if not x.trainable],
        "frozen_variables": [
            path for path, v in weights.items() if graph.is_fixed(model, v)
        ],
        "leaf_layers": list(leaves.values()),
        "quantized_layers": quantized_layers(model),
    }


def built_by_call(model, config):
    """Has layers without a `build` built by their call, when loaded.

    Keras would mark them as built, and the layers inside have no weights
    (the relative embedding of KerasHub's DeBERTa is one).
    """
    late = {
        layer.name
        for layer in model.layers
        if type(layer).build is keras.layers.Layer.build
        and graph.inner_layers(layer)
    }
    for saved in config.get("layers", ()):
        if saved.get("name") in late:
            saved.pop("build_config", None)
    return config


def set_flags(model, flags):
    """Freezes what a file says: leaf layers, and single variables."""
    leaves = graph.leaf_layers(model).values()
    paths = paths_now(flags["leaf_layers"], leaves)
    frozen = {paths.get(path, path) for path in flags["frozen_layers"]}
    pairs = [path.rsplit("/", 1) for path in flags["frozen_variables"]]
    fixed = {f"{paths.get(path, path)}/{name}" for path, name in pairs}
    _warn_of_lost(model, {*frozen, *fixed})
    for layer, path in graph.leaf_layers(model).items():
        if path in frozen:
            graph.set_own_flag(layer, False)
    for path, variable in graph.weights_by_path(model).items():
        if path in fixed:
            variable.trainable = False


def _warn_of_lost(model, paths):
    known = {*graph.leaf_layers(model).values(), *graph.weights_by_path(model)}
    lost = sorted(paths - known)
    if lost:
        warnings.warn(
            f"What the file says is frozen has other names in the model made "
            f"of it, and trains: {lost[:3]}. Freeze it again by `ft.freeze`. "
            f"Received: {len(lost)} such paths in model={model.name!r}",
            stacklevel=4,
        )


def quantized_layers(model):
    """Dict from the paths of quantised leaf layers to their modes."""
    modes = {
        path: getattr(layer, "quantization_mode", None)
        for layer, path in graph.leaf_layers(model).items()
    }
    return {path: mode for path, mode in modes.items() if mode}


def quantize_again(model, flags):
    """Quantises the layers inside composite ones, which come back unquantised.

    Keras writes how a layer is quantised into the layer's own config, which a
    composite layer does not write of those inside.
    """
    quantized = dict(flags["quantized_layers"])
    leaves = graph.leaf_layers(model) if quantized else {}
    paths = paths_now(flags["leaf_layers"], leaves.values())
    modes = {paths.get(path, path): mode for path, mode in quantized.items()}
    for layer, path in leaves.items():
        if path in modes and layer.quantization_mode is None:
            layer.quantize(modes[path])


def paths_now(saved, now):
    """Dict from the paths in a file to those of the model made of it.

    Layers inside a composite one that have no name of their own are counted
    anew by Keras in each process; some of KerasHub add a number to their own
    name. Layers whose names differ in more, or of which there is another
    number, have no place.
    """
    paths = {}
    for number in (r"_\d+$", r"(_\d+)+(?=_|$)"):
        places, found = {}, set(paths.values())
        left = (
            [path for path in saved if path not in paths],
            [path for path in now if path not in found],
        )
        for which, side in enumerate(left):
            for path in side:
                stem = without_numbers(path, number)
                places.setdefault(stem, ([], []))[which].append(path)
        for old, new in places.values():
            if len(old) == len(new):
                paths.update(zip(old, new, strict=True))
    return paths


def path_now(path, paths):
    """The path of a layer now, by those of the leaves, see `paths_now`."""
    depth = path.count("/") + 1
    for old, new in paths.items():
        if old == path or old.startswith(path + "/"):
            return "/".join(new.split("/")[:depth])
    return path


def flags_that_keras_loses(model, path=""):
    """Paths of frozen leaves inside what Keras saves as a whole."""
    if not path and not graph.lists_layers(model):
        # The file holds the arguments of the constructor, which makes the
        # layers anew.
        leaves = graph.leaf_layers(model).items()
        return [where for x, where in leaves if _is_frozen(x)]
    lost = []
    for child in graph.inner_layers(model):
        name = f"{path}/{child.name}".lstrip("/")
        if graph.saves_inner_flags(child):
            lost += flags_that_keras_loses(child, name)
        elif graph.inner_layers(child):
            leaves = graph.leaf_layers(child, name).items()
            lost += [where for x, where in leaves if _is_frozen(x)]
        elif child.trainable:
            variables = child.weights
            lost += [v.path for v in variables if graph.is_fixed(child, v)]
    return lost


def _is_frozen(layer):
    variables = graph.own_variables(layer)
    return any(graph.is_fixed(layer, v) for v in variables) or (
        bool(variables) and not layer.trainable
    )
