"""Adapters folded into the weights beside which they stand."""

from keras import ops

from finetune_keras.adapters.adapter import adapters_of, remove_adapters
from finetune_keras.adapters.lora_layers import LoRALayer
from finetune_keras.engine.layers import make_float


def merge_adapters(model):
    """Folds what the adapters do into the weights, and takes them out.

    The outputs stay what they are, up to rounding, at the cost of the model
    without adapters. Adapters that are switched off are lost; weighted ones
    are merged with their weight. A quantised layer with LoRA is one in floats
    afterwards, which loses nothing of either: `quantize` the model again if
    it is to be small. The layers stay frozen: `unfreeze` them to
    go on in full. Compile the model again before training or saving it. A
    layer that reads the weights of another one, as tied embeddings do, reads
    the merged ones from then on.

    Args:
        model: A `keras.Model` with adapters.

    Returns:
        `model` itself, of an ordinary class again.

    Raises:
        ValueError: If the model has no adapters, or one of them cannot be
            merged. Then nothing has changed.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(4, name="body"),
        keras.layers.Dense(2, name="head"),
    ])
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    print(len(ft.merge_adapters(model).weights))  # 4
    ```
    """
    places = [
        (layer, adapter, path, name)
        for name, found in adapters_of(model).items()
        for path, (layer, adapter) in found.items()
        if float(ops.convert_to_numpy(adapter.switch.value)) != 0
    ]
    for place in places:
        _check(*place)
    for layer, adapter, _, _ in places:
        if layer.dtype_policy.quantization_mode is not None:
            make_float(layer, adapter.dtype_policy)
    total = {}
    for _, adapter, _, _ in places:
        for variable, change in _changes_of(adapter):
            _, before = total.get(id(variable), (variable, 0.0))
            total[id(variable)] = (variable, before + change)
    for variable, change in total.values():
        variable.assign(ops.cast(variable, _exact(variable)) + change)
    return remove_adapters(model)


def _exact(variable):
    return "float64" if variable.dtype == "float64" else "float32"


def _check(layer, adapter, path, name):
    method, why = type(adapter.method).__name__, None
    quantized = layer.dtype_policy.quantization_mode is not None
    if quantized and not isinstance(adapter, LoRALayer):
        why = f"the kernel is quantised, and {method} reads it"
    elif adapter.weight_changes() is None:
        why = f"what {method} does is no change of weights"
    if why:
        raise ValueError(
            f"The adapter {name!r} of the layer {path!r} cannot be merged: "
            f"{why}. Keep the adapters, or take them out with "
            "`remove_adapters`. Nothing has changed."
        )


def _changes_of(adapter):
    return [
        (v, ops.cast(adapter.switch, _exact(v)) * ops.cast(change, _exact(v)))
        for v, change in adapter.weight_changes()
    ]
