"""Where inside a model to look: maps of photos, embedded tokens of texts."""

import keras
import numpy as np

from finetune_keras.engine import graph
from finetune_keras.engine.calls import swapped_inputs, swapped_output

# === Maps of photos ===


def map_taps(model):
    """The taps of the maps of features that the head of a model reads.

    They are found from the output downwards: those of several depths, and of
    several models, all count, each only for what it gives to the head. `None`
    where there are none.
    """
    steps, _, (output,) = graph.walk(model)
    made = {key: step for step in steps for key in step.outputs}
    maps, left, seen = _maps(steps), [output], set()
    readers = {}
    while left:
        key = left.pop()
        if key in seen or key not in made:
            continue
        seen.add(key)
        step = made[key]
        read = [x for x in step.inputs if x in maps]
        if any(maps[x] for x in read):
            readers[id(step)] = step.operation
        left += [x for x in step.inputs if x not in maps]
    readers = list(readers.values())
    _check_called_once(model, steps, readers)

    def taps(swap):
        change = swapped_inputs(lambda x: swap(x) if is_map(x) else x)
        return [(operation, change) for operation in readers]

    return taps if readers else None


def _maps(steps):
    """Dict from the keys of maps to whether a kernel stands below them."""
    found, below = {}, set()
    for step in steps:
        weights = getattr(step.operation, "variables", ())
        kernel = any(len(x.shape) > 1 for x in weights)
        if kernel or any(key in below for key in step.inputs):
            below.update(step.outputs)
        for key, tensor in zip(step.outputs, step.tensors, strict=True):
            if is_map(tensor):
                found[key] = key in below
    return found


def is_map(x):
    """Tells a tensor with more than one place in height or width."""
    shape = getattr(x, "shape", ())
    if len(shape) != 4 or "float" not in str(x.dtype):
        return False
    return tuple(shape[2:] if _channels_first() else shape[1:3]) != (1, 1)


def heat_maps(products, height, width):
    """What each pixel adds: `(batch, height, width)`, of `taps` of maps.

    The sum over a photo stays that over the maps.
    """
    axis = 1 if _channels_first() else -1
    maps = [product.sum(axis=axis) for product in products]
    total = sum(_stretched(x, height, width) for x in maps)
    return np.maximum(total, 0)


def _stretched(maps, height, width):
    from PIL import Image

    share = maps[0].size / (height * width)
    size, kind = (width, height), Image.Resampling.BILINEAR
    return share * np.stack(
        [np.asarray(Image.fromarray(x).resize(size, kind)) for x in maps]
    )


def _channels_first():
    return keras.config.image_data_format() == "channels_first"


def _check_called_once(model, steps, readers):
    calls = [step.operation for step in steps]
    for operation in readers:
        if calls.count(operation) > 1:
            raise ValueError(
                "The model looks at several views of a photo, by the same "
                "layers, and what it sees in them cannot be laid over one "
                "another. Explain the model that views were added to, as it "
                "was before `test_time_augmentation`. "
                f"Received: model={model.name!r}, which calls "
                f"{operation.name!r} {calls.count(operation)} times"
            )


def cutting_layers(model, height, width):
    """Names of layers that do not show a photo of this size as a whole."""
    layers = graph.all_layers(model)
    return [x.name for x in layers if _cuts(x, height, width)]


def _cuts(layer, height, width):
    if isinstance(layer, keras.layers.CenterCrop):
        return (layer.height, layer.width) != (height, width)
    if not isinstance(layer, keras.layers.Resizing):
        return False
    cuts = layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio
    return cuts and layer.height * width != layer.width * height


# === Tokens of texts ===


def token_taps(model):
    """The taps of what the tokens of texts are embedded as, or `None`."""
    steps, inputs, _ = graph.walk(model)
    names = [tensor.name for tensor in graph.graph_of(model).inputs]
    if "token_ids" not in names:
        return None
    key = inputs[names.index("token_ids")]
    for step in steps:
        if key in step.inputs:
            operation = step.operation
            for layer in [operation, *graph.all_layers(operation)]:
                if isinstance(layer, keras.layers.Embedding):
                    return lambda swap, x=layer: [(x, swapped_output(swap))]
    return None
