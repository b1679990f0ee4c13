"""The trainable set, kept by path where Keras's own file would lose it."""

import warnings

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.paths import without_numbers
from finetune_keras.models.pixel_guard import LooksAtPixels


@keras.saving.register_keras_serializable(package="finetune_keras")
class FineTuneModel(LooksAtPixels, keras.Model):
    """A functional model whose `.keras` file keeps what is frozen, by path.

    Keras saves the flag of a layer, but not those of the layers inside a
    composite one such as `MultiHeadAttention`: they all come back trainable,
    and those in int8 cannot be loaded. `freeze` turns a functional model with
    such layers into this class. In all else it is an ordinary functional
    model.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((4, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    ft.freeze(model, "attention")
    model.save("model.keras")
    print(len(keras.models.load_model("model.keras").trainable_variables))  # 2
    ```
    """

    keeps_trainable_set = True

    def get_config(self):
        leaves = graph.leaf_layers(self)
        frozen = [path for x, path in leaves.items() if not x.trainable]
        weights = graph.weights_by_path(self)
        fixed = [p for p, v in weights.items() if graph.is_fixed(self, v)]
        return {
            **self._built_by_call(super().get_config()),
            "frozen_layers": frozen,
            "frozen_variables": fixed,
            "leaf_layers": list(leaves.values()),
            "quantized_layers": quantized_layers(self),
        }

    def _built_by_call(self, config):
        """Has layers without a `build` built by their call, when loaded.

        Keras would mark them as built, and the layers inside have no weights
        (the relative embedding of KerasHub's DeBERTa is one).
        """
        late = {
            layer.name
            for layer in self.layers
            if type(layer).build is keras.layers.Layer.build
            and graph.inner_layers(layer)
        }
        for saved in config.get("layers", ()):
            if saved["name"] in late:
                saved.pop("build_config", None)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        frozen = config.pop("frozen_layers", ())
        fixed = config.pop("frozen_variables", ())
        saved = config.pop("leaf_layers", ())
        quantized = config.pop("quantized_layers", {})
        model = super().from_config(config, custom_objects=custom_objects)
        quantize_again(model, saved, quantized)
        set_flags(model, saved, frozen, fixed)
        return model


def set_flags(model, saved, frozen, fixed):
    """Freezes what a file says: leaf layers, and single variables.

    Args:
        model: The `keras.Model` made of the file.
        saved: List of the paths of all leaf layers in the file.
        frozen: List of those that were frozen.
        fixed: List of the paths of variables.
    """
    paths = paths_now(saved, graph.leaf_layers(model).values())
    frozen = {paths.get(path, path) for path in frozen}
    pairs = [path.rsplit("/", 1) for path in fixed]
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


def quantize_again(model, saved, quantized):
    """Quantises the layers inside composite ones, which come back unquantised.

    Keras writes how a layer is quantised into the layer's own config, which a
    composite layer does not write of those inside.

    Args:
        model: The `keras.Model` made of the file, built.
        saved: List of the paths of all leaf layers in the file.
        quantized: Dict, see `quantized_layers`.
    """
    leaves = graph.leaf_layers(model)
    paths = paths_now(saved, leaves.values()) if quantized else {}
    modes = {paths.get(path, path): mode for path, mode in quantized.items()}
    for layer, path in leaves.items():
        if path in modes and layer.quantization_mode is None:
            layer.quantize(modes[path])


def paths_now(saved, now):
    """Dict from the paths in a file to those of the model made of it.

    Layers inside a composite one that have no name of their own are counted
    anew by Keras in each process. Some of KerasHub add a number to their own
    name each time they are made. Layers whose names differ in more, or of
    which there is another number, have no place.
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


def keep_trainable_set(model, stacklevel=4):
    """Makes sure that the flags of a model survive its `.keras` file.

    Args:
        model: A `keras.Model`.
        stacklevel: Integer, how far the user's line is away, for the warning
            where they do not. Defaults to `4`.
    """
    if getattr(model, "keeps_trainable_set", False):
        return
    lost = _flags_that_keras_loses(model)
    if graph.is_plain_functional(model) and (lost or quantized_layers(model)):
        graph.change_class(model, FineTuneModel)
        return
    if not lost:
        return
    cure = "freeze them again after loading"
    if graph.graph_of(model) is model:
        # Opened, it keeps what it does before its graph.
        nested = any(map(graph.graph_of, model.layers))
        plain = "keras.Model(model.inputs, model.outputs)"
        cure += (
            ", or train the functional model "
            f"`{'ft.flatten(model)' if nested else plain}`, whose file keeps it"
        )
    warnings.warn(
        f"The file of {type(model).__name__} does not keep the frozen state of "
        f"layers such as {lost[0]!r}: loaded, they train. So {cure}.",
        stacklevel=stacklevel,
    )


def _flags_that_keras_loses(model, path=""):
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
            lost += _flags_that_keras_loses(child, name)
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
