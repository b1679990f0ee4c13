"""Where inside a model to look: maps of photos, embedded tokens of texts."""

import keras
import numpy as np

from finetune_keras.engine import graph
from finetune_keras.engine.calls import swapped_inputs, swapped_output
from finetune_keras.engine.packages import PIL

# Of photos that are looked at pixel by pixel, on a side.
_PATCHES = 20

# === Maps of photos ===


def map_taps(model):
    """The taps of the maps of features that the head of a model reads.

    They are found from the output downwards: those of several depths, and of
    several models, all count, each only for what it gives to the head. `None`
    where there are none, or the same layer reads those of several views.
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
    calls = [step.operation for step in steps]

    def taps(swap):
        change = swapped_inputs(lambda x: swap(x) if is_map(x) else x)
        return [(operation, change) for operation in readers]

    called_once = all(calls.count(reader) == 1 for reader in readers)
    return taps if readers and called_once else None


def has_kernels(model):
    """Tells whether there are weights of more than one dimension."""
    return any(len(x.shape) > 1 for x in model.variables)


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


def mean_colors(photos):
    """Photos of one color each, their mean."""
    axes = (2, 3) if _channels_first() else (1, 2)
    return 0 * photos + keras.ops.mean(photos, axis=axes, keepdims=True)


def in_patches(product):
    """Sums over patches: single pixels speak for and against at random."""
    for axis in (2, 3) if _channels_first() else (1, 2):
        size = product.shape[axis]
        count = min(_PATCHES, size)
        starts = np.arange(count) * size // count
        product = np.add.reduceat(product, starts, axis=axis)
    return product


def _stretched(maps, height, width):
    share = maps[0].size / (height * width)
    size, kind = (width, height), PIL.Image.Resampling.BILINEAR
    return share * np.stack(
        [np.asarray(PIL.Image.fromarray(x).resize(size, kind)) for x in maps]
    )


def _channels_first():
    return keras.config.image_data_format() == "channels_first"


def is_cut(model, height, width):
    """Tells whether layers do not show a photo of this size as a whole."""
    return any(_cuts(x, height, width) for x in graph.all_layers(model))


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
