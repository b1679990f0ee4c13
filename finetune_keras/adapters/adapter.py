"""Add, switch and remove adapters, of any method."""

import contextlib
import math
import numbers
import re
import warnings

from keras import ops

from finetune_keras.adapters.adapted import detach
from finetune_keras.adapters.heads import switch_head
from finetune_keras.adapters.method import Method
from finetune_keras.adapters.quantized import check_gradients
from finetune_keras.adapters.targets import (
    base_leaves,
    find_targets,
    head_layers,
)
from finetune_keras.arguments import check_model
from finetune_keras.engine.fit_state import strategy_scope
from finetune_keras.engine.traces import forget_traces
from finetune_keras.models.adapters_by_path import adapters_by_name, adapters_in
from finetune_keras.models.freezing import freeze, unfreeze
from finetune_keras.models.model import give_class_back, keep_adapters


def add_adapters(model, method, target_layers=None, name="default"):
    """Puts adapters into a model, and freezes all else but the head.

    The model is changed in place: its layers stay the same objects with the
    same weights, and those chosen get a small trained layer inside, named
    `adapter_` and `name`. Other models that share these layers get it too,
    and forget what they have traced, KerasHub's `generate` with it. A
    functional model becomes a `FineTuneModel`, which behaves the same and
    keeps the adapters in its `.keras` file, and a sequential one has a class
    like it; other models warn that their file will not.

    Afterwards the new adapters and the head train, and all else is frozen.
    Earlier adapters are kept with their heads, switched off and frozen, see
    `set_adapter`.
    Compile the model again before training it.

    Args:
        model: A `keras.Model`, built.
        method: What to put in, such as `LoRA(rank=8)`.
        target_layers: Which layers, as in `select_layers`: names, regular
            expressions on the path, classes, a callable, or a list. Of these,
            the ones that the method supports; of the head, which trains in
            full otherwise, only what is named itself, or all that is left.
            Defaults to `None`, the choice of the method.
        name: String of letters, digits and `_`. Defaults to `"default"`.

    Returns:
        `model` itself.

    Raises:
        ValueError: If no layer is left to put it in, or `name` is taken or
            malformed.

    Example:

    ```python
    import keras, finetune_keras as ft

    mobilenet = keras.applications.MobileNet(alpha=0.25, weights=None)
    ft.add_adapters(mobilenet, ft.LoRA(rank=4), target_layers=r"conv_pw_1\\d")
    print(len(mobilenet.trainable_variables))
    ```
    """
    check_model(model)
    if not isinstance(method, Method):
        raise TypeError(
            "`method` must be an object such as `ft.LoRA(rank=8)`. "
            f"Received: method={method!r}"
        )
    check_gradients(model)
    targets = find_targets(model, method, target_layers)
    return place_adapters(model, method, targets.values(), name)


def place_adapters(model, method, paths, name):
    """Does what `add_adapters` does, in the layers at these paths."""
    check_name(model, name)
    with strategy_scope(model):
        method.place(model, paths, name)
    keep_adapters(model)
    train_adapter(model, name)
    forget_traces(model)
    return model


def train_adapter(model, name):
    """Switches to an adapter, and lets it and the head train, nothing else."""
    places = adapters_by_name(model)[name].values()
    # What stands in the head beside its own layers is an earlier adapter.
    own = base_leaves(model)
    head = [x for x in head_layers(model) if x in own and not adapters_in(x)]
    with warnings.catch_warnings():
        # `keep_adapters` has told already what a file cannot keep.
        warnings.simplefilter("ignore")
        freeze(model)
        unfreeze(model, [*(adapter for _, adapter in places), *head])
    set_adapter(model, name)


def set_adapter(model, name):
    """Switches to one adapter, or to a weighted sum of several.

    The head that was trained with an adapter comes with it. Switch and head
    are weights of the model, so it takes effect at once, also in a `predict`
    that was compiled before. What trains does not change.

    Args:
        model: A `keras.Model` with adapters.
        name: Name of the adapter, or dict from names to floats, the weights
            with which they are added up, such as `{"french": 1, "law": 0.5}`;
            the head is that of the first. All others are switched off.

    Raises:
        ValueError: If the model has no adapter of this name, or a weight is no
            finite number.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(4, name="body"),
        keras.layers.Dense(2, name="head"),
    ])
    ft.add_adapters(model, ft.LoRA(rank=2), "body", name="french")
    ft.add_adapters(model, ft.LoRA(rank=2), "body", name="law")
    ft.set_adapter(model, "french")
    ft.set_adapter(model, {"french": 0.5, "law": 0.5})
    ```
    """
    found = adapters_of(model)
    weights = name if isinstance(name, dict) else {str(name): 1.0}
    check_weights("name", weights)
    for one in weights:
        require_adapter(found, one)
    for one, places in found.items():
        for _, adapter in places.values():
            adapter.switch.assign(weights.get(one, 0.0))
    on = [one for one, weight in weights.items() if weight]
    if on:
        switch_head(model, on[0])


@contextlib.contextmanager
def disable_adapters(model):
    """Switches all adapters off for a while: the base's own outputs.

    It takes effect in a `predict` that was compiled before. The head is not
    touched.

    Args:
        model: A `keras.Model` with adapters.

    Raises:
        ValueError: If the model has no adapters.

    Example:

    ```python
    import keras, numpy as np, finetune_keras as ft

    model = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(4, name="body"),
        keras.layers.Dense(2, name="head"),
    ])
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    with ft.disable_adapters(model):
        reference = model.predict(np.ones((1, 4)), verbose=0)
    ```
    """
    switches = [
        adapter.switch
        for places in adapters_of(model).values()
        for _, adapter in places.values()
    ]
    before = [float(ops.convert_to_numpy(x.value)) for x in switches]
    try:
        for switch in switches:
            switch.assign(0.0)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.assign(value)


def remove_adapters(model, name=None):
    """Takes adapters out of a model, with what they have learnt.

    The head keeps what it has learnt, and the layers stay frozen.

    Args:
        model: A `keras.Model` with adapters.
        name: Name of the adapter, or `None` for all of them. Defaults to
            `None`.

    Returns:
        `model` itself, of an ordinary class again if no adapter is left.

    Raises:
        ValueError: If the model has no adapter, or none of this name.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(4, name="body"),
        keras.layers.Dense(2, name="head"),
    ])
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    print(len(ft.remove_adapters(model).weights))  # 4
    ```
    """
    found = adapters_of(model)
    if name is not None:
        require_adapter(found, name)
    for one, places in found.items():
        if name in (None, one):
            for layer, adapter in places.values():
                detach(layer, adapter)
    give_class_back(model)
    forget_traces(model)
    return model


def check_name(model, name):
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ValueError(
            "`name` becomes part of the layers' names: use letters, digits "
            f"and `_`. Received: name={name!r}"
        )
    if name in adapters_by_name(model):
        raise ValueError(
            f"The model has an adapter {name!r} already. Give the new one "
            "another `name`, or take that one out with `remove_adapters`. "
            f"Received: name={name!r}"
        )


def adapters_of(model):
    found = adapters_by_name(model)
    if not found:
        raise ValueError(
            "The model has no adapters. Add some first: `add_adapters(model, "
            f"LoRA())`. Received: model={model.name!r}"
        )
    return found


def require_adapter(found, name):
    if name not in found:
        raise ValueError(
            f"The model has no adapter {name!r}, but {list(found)}. "
            f"Received: name={name!r}"
        )


def check_weights(argument, weights):
    """Raises where a dict does not go from names to finite numbers."""
    received = f"Received: {argument}={weights!r}"
    for value in weights.values():
        if not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise ValueError(
                f"The weights of adapters must be finite numbers. {received}"
            )
    if not weights or not all(isinstance(one, str) for one in weights):
        raise ValueError(
            f"`{argument}` must be the name of an adapter, or a dict from "
            f"names to weights. {received}"
        )
