"""What all methods have in common: arguments that can be kept and compared."""

import keras


class Method:
    """A way of adapting, with its arguments.

    A subclass is registered with `keras.saving` and defines `supports`,
    `default_layers`, `layer_for`, and `get_config` where it has arguments.
    """

    # Whether it goes into `MultiHeadAttention` as a whole, not into leaves.
    goes_into_attention = False

    def supports(self, layer):
        """Tells whether a layer can have this adapter.

        Args:
            layer: A leaf layer, built.

        Returns:
            Boolean.
        """
        raise NotImplementedError

    def find_layers(self, model):
        """Finds the only layers of a model that it can go into.

        Args:
            model: A `keras.Model`, built.

        Returns:
            Dict from layers to paths, or `None` where the user may choose.
        """
        return None

    def default_layers(self, leaves):
        """Picks the layers that get the adapter where none are named.

        Args:
            leaves: Dict from the layers of the backbone that the method
                supports to their paths.

        Returns:
            List of layers.
        """
        return list(leaves)

    def layer_for(self, layer, name):
        """Makes the adapter of a layer.

        Args:
            layer: A leaf layer, built.
            name: String, the name of the adapter's own layer.

        Returns:
            An `AdapterLayer`.
        """
        raise NotImplementedError

    def layers_for(self, layers, name):
        """Makes the adapters of several layers, in their order."""
        return [self.layer_for(layer, name) for layer in layers]

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __eq__(self, other):
        same = type(self) is type(other)
        return same and self.get_config() == other.get_config()

    def __hash__(self):
        return hash((type(self), *self.get_config().values()))

    def __repr__(self):
        pairs = [f"{k}={v!r}" for k, v in self.get_config().items()]
        return f"{type(self).__name__}({', '.join(pairs)})"


def read_method(config, custom_objects=None):
    """Makes the method that a file names, and nothing but a method.

    Args:
        config: Dict, what `keras.saving.serialize_keras_object` made of one.
        custom_objects: Dict, as for Keras. Defaults to `None`.

    Returns:
        A `Method`.

    Raises:
        ValueError: If it names another class, which is not made then.
    """
    config = config if isinstance(config, dict) else {}
    name = config.get("registered_name")
    found = None
    if isinstance(name, str):
        found = keras.saving.get_registered_object(name, custom_objects)
    if not (isinstance(found, type) and issubclass(found, Method)):
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
