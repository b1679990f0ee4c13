"""Models whose `.keras` file keeps their adapters as adapters."""

import functools
import warnings

import keras

from finetune_keras.adapters.adapted import attach, base_classes
from finetune_keras.adapters.layer import adapters_in, bases
from finetune_keras.adapters.method import read_method
from finetune_keras.engine import graph
from finetune_keras.models.text_model import TextModel
from finetune_keras.models.trainable_set import (
    FineTuneModel,
    paths_now,
    quantize_again,
    quantized_layers,
    set_flags,
)


class _KeepsAdapters:
    """What the two classes below share: adapters in the config, by path."""

    # Flags are kept by path as well, whatever layer they are in.
    keeps_trainable_set = True

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        check_compiled(self)
        return super().fit(*args, **kwargs)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args, **kwargs):
        check_compiled(self)
        return super().train_on_batch(*args, **kwargs)

    def get_config(self):
        leaves = graph.leaf_layers(self)
        frozen = [path for x, path in leaves.items() if not x.trainable]
        weights = graph.weights_by_path(self)
        fixed = [p for p, v in weights.items() if graph.is_fixed(self, v)]
        with base_classes(bases(self)):
            config = _without_inner_adapters(super().get_config())
        return {
            **config,
            "adapters": describe_adapters(self),
            "frozen_layers": frozen,
            "frozen_variables": fixed,
            "leaf_layers": list(leaves.values()),
            "quantized_layers": quantized_layers(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        adapters = config.pop("adapters", {})
        frozen = config.pop("frozen_layers", ())
        fixed = config.pop("frozen_variables", ())
        saved = config.pop("leaf_layers", ())
        quantized = config.pop("quantized_layers", {})
        model = super().from_config(config, custom_objects=custom_objects)
        quantize_again(model, saved, quantized)
        for name, facts in adapters.items():
            method = read_method(facts["method"], custom_objects)
            paths = paths_now(saved, graph.leaf_layers(model).values())
            layers = [path_now(path, paths) for path in facts["layers"]]
            attach_adapters(model, method, layers, name)
        set_flags(model, saved, frozen, fixed)
        return model


def check_compiled(model):
    """Refuses to train adapters that the optimizer does not know."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    known = graph.optimized_ids(optimizer)
    new = [v.path for v in model.trainable_variables if id(v) not in known]
    if new:
        raise ValueError(
            "Adapters came into the model, or other weights train, since it "
            "was compiled, and its optimizer does not know them. Call "
            "`model.compile(...)` again before `fit`, or train it by "
            f"`ft.fine_tune`. Received: {len(new)} new weights, such as "
            f"{new[0]!r}"
        )


def _without_inner_adapters(config):
    """Leaves the adapters of inner models to the outer one, which has all."""
    for layer in config.get("layers", ()):
        inner = layer.get("config")
        if isinstance(inner, dict) and "layers" in inner:
            if "adapters" in inner:
                inner["adapters"] = {}
            _without_inner_adapters(inner)
    return config


@keras.saving.register_keras_serializable(package="finetune_keras")
class AdapterModel(_KeepsAdapters, FineTuneModel):
    """A functional model whose `.keras` file keeps its adapters.

    `add_adapters` turns a functional model into this class, and
    `merge_adapters` and `remove_adapters` turn it back.

    Example:

    ```python
    import keras
    from finetune_keras.adapters.adapter import add_adapters
    from finetune_keras.adapters.lora import LoRA

    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    add_adapters(model, LoRA(rank=2), target_layers="body")
    model.save("model.keras")
    loaded = keras.models.load_model("model.keras")
    print(len(loaded.trainable_variables))  # 4: A, B, and the head's two
    ```
    """


@keras.saving.register_keras_serializable(package="finetune_keras")
class AdapterTextModel(_KeepsAdapters, TextModel):
    """A `TextModel` whose `.keras` file keeps its adapters.

    `add_adapters` turns a `TextModel` into this class, and `merge_adapters`
    and `remove_adapters` turn it back.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    tokenizer = keras_hub.tokenizers.BertTokenizer(words)
    model = ft.text_classifier(bert, ["neg", "pos"], tokenizer=tokenizer)
    ft.add_adapters(model, ft.LoRA(rank=2))
    print(model.predict(["good"], verbose=0).shape)  # (1, 2)
    ```
    """


@keras.saving.register_keras_serializable(package="finetune_keras")
class AdapterSequential(_KeepsAdapters, keras.Sequential):
    """A sequential model whose `.keras` file keeps its adapters.

    Example:

    ```python
    import keras
    from finetune_keras.adapters.adapter import add_adapters
    from finetune_keras.adapters.lora import LoRA

    model = keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(4, name="body"),
        keras.layers.Dense(2, name="head"),
    ])
    add_adapters(model, LoRA(rank=2), target_layers="body")
    print(type(model).__name__)
    ```
    """


def adapters_by_name(model):
    """Finds the adapters of a model.

    Returns:
        Dict from the name of an adapter to a dict from the path of each layer
        that holds it to `(layer, adapter)`.
    """
    found = {}
    for layer, path in bases(model).items():
        for adapter in adapters_in(layer):
            name = adapter.name.removeprefix("adapter_")
            found.setdefault(name, {})[path] = (layer, adapter)
    return dict(sorted(found.items(), key=lambda item: _number(item[1])))


def _number(places):
    """When an adapter was added: the order of optimizers and of files."""
    return max(adapter.number for _, adapter in places.values())


def describe_adapters(model):
    """Dict from the name of an adapter to its method and its layers."""
    described = {}
    for name, places in adapters_by_name(model).items():
        _, adapter = next(iter(places.values()))
        described[name] = {
            "method": keras.saving.serialize_keras_object(adapter.method),
            "layers": list(places),
        }
    return described


def attach_adapters(model, method, paths, name):
    """Puts adapters into the layers at these paths; returns the adapters."""
    paths = list(paths)
    layers = _layers_at(model, paths)
    numbers = map(_number, adapters_by_name(model).values())
    number = 1 + max(numbers, default=0)
    adapters = make_adapters(model, method, paths, name)
    for layer, adapter, path in zip(layers, adapters, paths, strict=True):
        adapter.number = number
        attach(layer, adapter, path)
        # Who makes another model of these layers may ask for it.
        adapter.keep_in = keep_adapters
    return adapters


def make_adapters(model, method, paths, name):
    """Makes the adapters of the layers at these paths, and leaves both be."""
    return method.layers_for(_layers_at(model, paths), f"adapter_{name}")


def _layers_at(model, paths):
    """The layers at these paths, of which each must be the only one."""
    found = {}
    for layer, path in bases(model).items():
        found.setdefault(path, []).append(layer)
    for path in paths:
        if len(found.get(path, ())) != 1:
            raise ValueError(
                f"{len(found.get(path, ()))} layers of the model have the path "
                f"{path!r}, and adapters are kept by path. Give each layer a "
                f"name of its own. Received: model={model.name!r}"
            )
    return [found[path][0] for path in paths]


def path_now(path, paths):
    """The path of a layer now, by those of the leaves, see `paths_now`."""
    depth = path.count("/") + 1
    for old, new in paths.items():
        if old == path or old.startswith(path + "/"):
            return "/".join(new.split("/")[:depth])
    return path


def keep_adapters(model):
    """Makes sure that the adapters of a model survive its `.keras` file."""
    if isinstance(model, _KeepsAdapters):
        return
    if type(model) is keras.Sequential:
        model.__class__ = AdapterSequential
    elif isinstance(model, TextModel):
        graph.change_class(model, AdapterTextModel)
    elif graph.is_plain_functional(model) or isinstance(model, FineTuneModel):
        model.class_without_adapters = type(model)
        graph.change_class(model, AdapterModel)
    else:
        warnings.warn(
            f"{type(model).__name__} does not write adapters into its `.keras` "
            "file: keep them with `save_adapters`, or add them to a functional "
            "model, such as `ft.replace_head` or `ft.flatten` makes.",
            stacklevel=4,
        )


def drop_class(model):
    """Gives a model without adapters its ordinary class back."""
    if isinstance(model, AdapterSequential):
        model.__class__ = keras.Sequential
    elif isinstance(model, AdapterTextModel):
        model.__class__ = TextModel
    elif isinstance(model, AdapterModel):
        kind = vars(model).get("class_without_adapters")
        # A loaded model does not know what it was before.
        model.__class__ = kind or type(keras.Model(model.inputs, model.outputs))
