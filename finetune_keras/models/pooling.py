"""From features to the one vector that a head reads."""

import keras

from finetune_keras.engine import graph
from finetune_keras.engine.private import get_keras_mask


def padding_mask(model):
    """Finds the input that tells the tokens of a text from its padding."""
    for tensor in graph.graph_of(model).inputs:
        if tensor.name == "padding_mask" and len(tensor.shape) == 2:
            return tensor
    return None


def pool(features, pooling, mask, name="head_pooling"):
    """Makes one vector of each example: `mask` tells tokens from padding."""
    if isinstance(features, dict):
        if pooling == "token" and "pooled_output" in features:
            return features["pooled_output"]
        features = features["sequence_output"]
    rank = len(features.shape)
    if rank == 2:
        return features
    if pooling == "flatten":
        return _flatten(features, name.replace("pooling", "flatten"))
    if pooling == "token":
        return _first_token(features)
    # That of an `Embedding(mask_zero=True)` goes along with the features.
    mask = get_keras_mask(features) if mask is None else mask
    word = {"avg": "Average", "max": "Max"}[pooling]
    layer = getattr(keras.layers, f"Global{word}Pooling{rank - 2}D")
    layer = layer(name=name)
    if mask is None or rank != 3:
        return layer(features)
    if pooling == "avg":
        return layer(features, mask=mask)
    # Keras's layer has no mask; this is low enough in half precision, too.
    real = keras.ops.cast(mask[:, :, None], "bool")
    return layer(keras.ops.where(real, features, -3e4))


def pool_depths(tensors, pooling, mask, name="head_pooling"):
    """Makes one vector of tensors of several depths, each pooled by itself."""
    if pooling == "flatten":
        raise ValueError(
            '`pooling="flatten"` would make vectors of millions of several '
            'depths. Pool them by "avg", "max" or, with transformers, '
            '"token". Received: pooling="flatten" with features of '
            f"{len(tensors)} depths"
        )
    maps = [x for x in tensors if len(x.shape) != 2]
    if pooling == "token" and maps and all(len(x.shape) > 3 for x in maps):
        _first_token(maps[-1])
    vectors = [
        vector
        for i, x in enumerate(tensors, start=1)
        for vector in _vectors(x, pooling, mask, f"{name}_{i}")
    ]
    if len(vectors) == 1:
        return vectors[0]
    return keras.layers.Concatenate(name=name.replace("pooling", "features"))(
        vectors
    )


def _vectors(x, pooling, mask, name):
    if len(x.shape) == 2:
        # By its name, layer groups tell that it goes to the head.
        return [keras.layers.Identity(name=name)(x)]
    if pooling != "token":
        return [pool(x, pooling, mask, name)]
    first = [_first_token(x)] if len(x.shape) == 3 else []
    return [*first, pool(x, "avg", mask, name)]


def _flatten(features, name):
    if None in features.shape[1:]:
        raise ValueError(
            '`pooling="flatten"` needs features of a fixed size. Give the '
            "backbone a full `input_shape`, or pool by average. "
            f"Received: features of shape {features.shape}"
        )
    return keras.layers.Flatten(name=name)(features)


def _first_token(features):
    if len(features.shape) != 3:
        raise ValueError(
            '`pooling="token"` takes the first token of a sequence, of shape '
            '(batch, time, features). For images use "avg", "max" or '
            f'"flatten". Received: features of shape {features.shape}'
        )
    return features[:, 0]
