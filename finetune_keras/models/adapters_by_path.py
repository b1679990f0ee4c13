"""Adapters in the layers of a model, by path, as its file keeps them.

What they do to a layer is a matter of the room `adapters`. A file names their
method, and the method, once it is read, puts them where the file says.
"""

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.layers import direct_layers
from finetune_keras.models.trainable_set import path_now, paths_now


class InnerAdapter(keras.layers.Layer):
    """A layer that lives in another one, its base, and changes its outputs.

    Attributes:
        method: The `AdapterMethod` that made it.
        number: Integer, when it was added: the order of optimizers and files.
    """

    number = 0


class AdapterMethod:
    """A way of adapting, with its arguments; a file may name it."""

    def place(self, model, paths, name):
        """Puts adapters of a name into the layers at these paths."""
        raise NotImplementedError

    def renamed(self, paths):
        """The same method, where the layers of a file have other paths now."""
        return self


def adapters_in(layer):
    """Lists the adapters that a layer holds itself."""
    return [x for x in direct_layers(layer) if isinstance(x, InnerAdapter)]


def bases(layer, path=""):
    """Dict from all layers at any depth, but those of adapters, to paths."""
    found = {}
    for child in graph.inner_layers(layer):
        if not isinstance(child, InnerAdapter):
            where = f"{path}/{child.name}".lstrip("/")
            for one, place in {child: where, **bases(child, where)}.items():
                found.setdefault(one, place)
    return found


def layers_at(model, paths):
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


def adapters_by_name(model):
    """Finds the adapters of a model, in the order in which they were added.

    Dict from name to a dict from the path of each layer to `(layer, adapter)`.
    """
    found = {}
    for layer, path in bases(model).items():
        for adapter in adapters_in(layer):
            name = adapter.name.removeprefix("adapter_")
            found.setdefault(name, {})[path] = (layer, adapter)
    return dict(sorted(found.items(), key=lambda item: number_of(item[1])))


def number_of(places):
    """The number of an adapter, from its layers in `adapters_by_name`."""
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


def place_described(model, described, saved, custom_objects):
    """Puts adapters of a file, see `describe_adapters`, into its model.

    `saved` are the paths of the leaf layers in the file.
    """
    for name, facts in described.items():
        method = read_method(facts["method"], custom_objects)
        renamed = paths_now(saved, graph.leaf_layers(model).values())
        paths = [path_now(path, renamed) for path in facts["layers"]]
        method = method.renamed(dict(zip(facts["layers"], paths, strict=True)))
        method.place(model, paths, name)


def without_inner_adapters(config):
    """Leaves the adapters of inner models to the outer one, which has all."""
    for layer in config.get("layers", ()):
        inner = layer.get("config")
        if isinstance(inner, dict) and "layers" in inner:
            inner.pop("adapters", None)
            without_inner_adapters(inner)
    return config


def read_method(config, custom_objects=None):
    """Makes the method that a file names; any other class is refused unmade."""
    config = config if isinstance(config, dict) else {}
    name = config.get("registered_name")
    found = None
    if isinstance(name, str):
        found = keras.saving.get_registered_object(name, custom_objects)
    if not (isinstance(found, type) and issubclass(found, AdapterMethod)):
        raise ValueError(
            "What adapts a model must be an adapter method, such as `ft.LoRA`; "
            "one of your own must be registered with `keras.saving` first. "
            f"Received, from a file: {name!r}"
        )
    names = ("module", "class_name", "config", "registered_name")
    config = {key: config.get(key) for key in names}
    try:
        return keras.saving.deserialize_keras_object(config, custom_objects)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"{name!r} does not take the arguments of the file: "
            f"{type(error).__name__}: {str(error)[:300]}"
        ) from error


def check_compiled(model):
    """Refuses to train adapters that the optimizer does not know."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    known = graph.optimized_ids(optimizer)
    new = [v.path for v in model.trainable_variables if id(v) not in known]
    if new and any(map(adapters_in, bases(model))):
        raise ValueError(
            "Adapters came into the model, or other weights train, since it "
            "was compiled, and its optimizer does not know them. Call "
            "`model.compile(...)` again before `fit`, or train it by "
            f"`ft.fine_tune`. Received: {len(new)} new weights, such as "
            f"{new[0]!r}"
        )
