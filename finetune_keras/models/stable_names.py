"""Names of layers without the numbers that Keras counts up."""

import functools
import re
from collections import Counter

import keras

from finetune_keras.engine import graph
from finetune_keras.models.subclassed import attribute_names


def has_automatic_name(layer):
    """Tells whether Keras, not a person, gave the layer its name."""
    pattern = _automatic_names(type(layer).__name__)
    return pattern.fullmatch(layer.name) is not None


@functools.cache
def _automatic_names(name):
    """Pattern of the names that Keras gives to layers of a class."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
    return re.compile(name + r"(_[1-9]\d*)?")


class StablePaths:
    """Paths of the layers of a model as they are in each process.

    Keras counts layers without a name of their own over all models. Here such
    a layer is called by the attribute that holds it, or by its class, with a
    `~` more for each such before it.
    """

    def __init__(self, model, steps):
        self._automatic, self._held = set(), {}
        for layer in [model, *graph.all_layers(model)]:
            if has_automatic_name(layer):
                self._automatic.add(layer.name)
            self._hold(layer)
        self._new, self._counts = {}, Counter()
        for step in steps:
            self.of(step.path)

    def _hold(self, layer):
        children = graph.inner_layers(layer)
        if not children or type(layer).__module__.startswith("keras."):
            return
        # Held, and called in the graph of another model that holds `layer`.
        held = {**vars(layer), **vars(layer).get("_modules", {})}.values()
        held = [x for x in held if isinstance(x, keras.layers.Layer)]
        for child in held:
            if graph.graph_of(child):
                self._hold(child)
        names = attribute_names(layer)
        for child in [*held, *children]:
            name = names[id(child)]
            if has_automatic_name(child) and name != child.name:
                self._held.setdefault(child.name, name)

    def of(self, path):
        """The stable path, such as `"encoder/block_1/dense~~"`."""
        return "/".join(map(self._name, path.split("/")))

    def given(self, path):
        """That part of it that a person named, may be empty."""
        parts = path.split("/")
        while parts and self._is_nameless(parts[-1]):
            parts.pop()
        return self.of("/".join(parts)) if parts else ""

    def _is_nameless(self, name):
        return name in self._automatic and name not in self._held

    def _name(self, name):
        if name not in self._automatic:
            return name
        if name not in self._new:
            kind = re.sub(r"\d", "", re.sub(r"_\d+$", "", name))
            kind = self._held.get(name, kind)
            self._new[name] = kind + "~" * self._counts[kind]
            self._counts[kind] += 1
        return self._new[name]
