"""Embeddings that know more ids than they were trained on."""

import keras
import numpy as np

from finetune_keras.arguments import check, check_model, integer
from finetune_keras.engine import graph
from finetune_keras.models.heads import rebuild
from finetune_keras.models.inline import opened, replay


@keras.saving.register_keras_serializable(package="finetune_keras")
class GrownEmbedding(keras.layers.Layer):
    """Looks ids up in the vectors of before, `old`, and in those of new ids.

    Made by `grow_vocabulary`. The new ids begin where the old ones end.

    Args:
        old: `keras.layers.Embedding` of the ids of before.
        new: `keras.layers.Embedding` of the new ids.
    """

    def __init__(self, old, new, **kwargs):
        # Ids are not to be rounded to half precision.
        super().__init__(autocast=False, **kwargs)
        self.old, self.new = old, new

    def build(self, input_shape):
        for layer in (self.old, self.new):
            if not layer.built:
                layer.build(input_shape)

    def call(self, inputs):
        ids = keras.ops.cast(inputs, "int32")
        count = self.old.input_dim
        known = ids < count
        old = self.old(keras.ops.where(known, ids, 0))
        new = self.new(keras.ops.where(known, 0, ids - count))
        return keras.ops.where(keras.ops.expand_dims(known, -1), old, new)

    def compute_mask(self, inputs, mask=None):
        return self.old.compute_mask(inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.old.output_dim)

    def get_config(self):
        config = super().get_config()
        config.pop("autocast", None)
        parts = {"old": self.old, "new": self.new}
        return config | {
            name: keras.saving.serialize_keras_object(layer)
            for name, layer in parts.items()
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("old", "new"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def grow_vocabulary(model, layer, count):
    """Gives an embedding of a model vectors for ids that are new.

    The vectors of before are kept to the bit, and so is what the model gives
    for the ids of before. Those of new ids start as the mean of all old ones,
    which a model takes for an average user or film. `"<layer>/old"` and
    `"<layer>/new"` select them: freeze the old ones and train the new.

    Args:
        model: A functional `keras.Model`.
        layer: String, the name of a `keras.layers.Embedding`, or of one that
            has grown before: then all that it knows is old.
        count: Integer, how many ids are new. They are `input_dim`, `input_dim
            + 1` and so on, of the layer as it was.

    Returns:
        A functional `keras.Model` that shares all other layers with `model`.

    Raises:
        ValueError: If `model` has no graph or no such layer, if the layer is
            no `Embedding` or makes scores of tokens too, as that of a language
            model does, or if `count` is less than 1.

    Example:

    ```python
    import keras, finetune_keras as ft

    film = keras.Input((), dtype="int32", name="film")
    x = keras.layers.Embedding(100, 8, name="films")(film)
    model = keras.Model(film, keras.layers.Dense(1)(x))
    model = ft.grow_vocabulary(model, "films", 20)
    ft.freeze(model)
    ft.unfreeze(model, "films/new")
    print(model.trainable_variables[0].shape)  # (20, 8)
    ```
    """
    check_model(model)
    check(count=(count, integer(1)))
    flat = opened(model)
    known = {x.name: x for x in flat.layers}
    old = known.get(layer)
    kinds = keras.layers.Embedding, GrownEmbedding
    _check_looks_up_alone(model, layer, kinds)
    if type(old) not in kinds:
        embeddings = [n for n, one in known.items() if type(one) in kinds]
        raise ValueError(
            "`layer` must be the name of a `keras.layers.Embedding` of the "
            f"model. It has {embeddings}. Received: layer={layer!r}"
        )
    grown = _grown(old, count)

    def call(operation, *args, **kwargs):
        operation = grown if operation is old else operation
        return operation(*args, **kwargs)

    inputs, outputs = replay(flat, call=call)
    new = keras.Model(inputs, outputs, name=model.name)
    return rebuild(new, graph.graph_of(new).output, whole=model)


def _check_looks_up_alone(model, name, kinds):
    """Refuses embeddings that do more, as those of language models do."""
    for layer in graph.all_layers(model):
        is_table = isinstance(layer, keras.layers.Embedding)
        if not is_table or layer.name != name or type(layer) in kinds:
            continue
        raise ValueError(
            f"{name!r} does more than to look up vectors: the embedding "
            "of a language model also makes its scores, and `generate` asks "
            "for it. Make the backbone of KerasHub again with a larger "
            "`vocabulary_size`, copy the weights of the old one, and give it "
            "a tokeniser with the new tokens; `TokenTuning` trains their "
            f"vectors alone. Received: a layer of type {type(layer).__name__}"
        )


def _grown(layer, count):
    parts = [layer]
    if isinstance(layer, GrownEmbedding):
        parts = [layer.old, layer.new]
    # As arrays of NumPy: on JAX training deletes what two weights share.
    vectors = [keras.ops.convert_to_numpy(part.embeddings) for part in parts]
    vectors = np.concatenate(vectors)
    mean = vectors.mean(axis=0, keepdims=True)
    config, count_of_old = parts[0].get_config(), len(vectors)
    old = _embedding(config, "old", count_of_old, vectors)
    new = np.tile(mean, (count, 1))
    # Of the new ids none is that of padding.
    new = _embedding({**config, "mask_zero": False}, "new", count, new)
    return GrownEmbedding(old, new, name=layer.name, dtype=layer.dtype_policy)


def _embedding(config, name, count, vectors):
    """An embedding like another one, of other ids."""
    config = {**config, "name": name, "input_dim": count}
    layer = keras.layers.Embedding.from_config(config)
    layer.build()
    layer.embeddings.assign(vectors)
    return layer
