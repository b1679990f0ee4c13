"""What all methods have in common: arguments that can be kept and compared."""

import inspect

from finetune_keras.adapters.adapted import attach
from finetune_keras.models.adapters_by_path import (
    AdapterMethod,
    adapters_by_name,
    layers_at,
    number_of,
)


class Method(AdapterMethod):
    """A way of adapting, with its arguments.

    A subclass is registered with `keras.saving`, keeps its arguments as
    attributes, and defines `supports`, `default_layers` and `layer_for`.
    """

    # Whether it goes into `MultiHeadAttention` as a whole, not into leaves.
    goes_into_attention = False

    def supports(self, layer):
        """Tells whether a leaf layer, built, can have this adapter."""
        raise NotImplementedError

    def find_layers(self, model):
        """The only layers that it can go into, with paths, or `None`."""
        return None

    def default_layers(self, leaves):
        """Picks among the backbone's supported layers where none are named."""
        return list(leaves)

    def layer_for(self, layer, name):
        """Makes the adapter of a layer, an `AdapterLayer` of this name."""
        raise NotImplementedError

    def layers_for(self, layers, name):
        """Makes the adapters of several layers, in their order."""
        return [self.layer_for(layer, name) for layer in layers]

    def make(self, model, paths, name):
        """Makes the adapters of the layers at these paths, and leaves both."""
        return self.layers_for(layers_at(model, paths), f"adapter_{name}")

    def place(self, model, paths, name):
        paths = list(paths)
        numbers = map(number_of, adapters_by_name(model).values())
        number = 1 + max(numbers, default=0)
        layers = layers_at(model, paths)
        adapters = self.make(model, paths, name)
        for layer, adapter, path in zip(layers, adapters, paths, strict=True):
            adapter.number = number
            attach(layer, adapter, path)

    def get_config(self):
        """Its arguments, which are attributes of the same names."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __eq__(self, other):
        same = type(self) is type(other)
        return same and self.get_config() == other.get_config()

    def __hash__(self):
        return hash((type(self), repr(self)))

    def __repr__(self):
        pairs = [f"{k}={v!r}" for k, v in self.get_config().items()]
        return f"{type(self).__name__}({', '.join(pairs)})"
