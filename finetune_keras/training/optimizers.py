"""Layer-wise learning rates, weight-decay exclusions and L2-SP."""

import math

import keras

from finetune_keras.arguments import check, maybe, positive
from finetune_keras.engine import graph
from finetune_keras.engine.layers import decays_weight, rate_or_schedule
from finetune_keras.engine.layerwise import Layerwise, layerwise_class
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.engine.versions import get_optimizer, is_a
from finetune_keras.models.layer_groups import as_groups


def layerwise_optimizer(
    optimizer,
    model,
    decay=None,
    multipliers=None,
    l2_sp=None,
    exclude_norms_and_biases=True,
):
    """Gives the layers of a model different learning rates.

    The optimizer returned still has one `learning_rate`, driven by schedules
    and callbacks as ever; each variable is updated with its multiple of it.
    Weight decay and L2-SP are scaled alike. It clips, accumulates, averages,
    saves and loads as the optimizer that it was made from, and costs the same.

    Args:
        optimizer: A `keras.optimizers.Optimizer` or the name of one, before it
            is compiled into the model: no state is taken over.
        model: The `keras.Model` to be trained, built, or its `LayerGroups`.
            The settings are kept by
            `variable.path`: make the optimizer anew when layers are added.
        decay: Float in (0, 1]. Factor on the learning rate for each layer
            group, from the head down: 1 for the head, `decay` for the group
            below it, then `decay**2`. Defaults to `None`, no decay.
        multipliers: Dict from a group name, or anything else that
            `select_layers` takes, to a float >= 0, the factor on the learning
            rate of these layers. It replaces what `decay` says; of two entries
            for one layer the later holds. 0 leaves the layers unchanged, but
            `freeze` is faster. Defaults to `None`.
        l2_sp: Float > 0. Strength of the pull of the backbone's weights (all
            but the group `"head"`) towards the values they have when the
            optimizer is built: `alpha` of L2-SP. The pull takes the place of
            weight decay there; the optimizer's `weight_decay`, the paper's
            `beta`, remains for the head. It is decoupled from the gradient,
            `w -= learning_rate * alpha * (w - w0)`, as in AdamW, and needs one
            copy of the weights. Defaults to `None`, no pull.
        exclude_norms_and_biases: Boolean. Whether weight decay leaves out
            biases and the parameters of normalisation layers. Variables that
            were left out by `optimizer.exclude_from_weight_decay` stay out.
            Defaults to `True`.

    Returns:
        A `keras.optimizers.Optimizer` of the same kind.

    Raises:
        ValueError: If an argument is out of its range or matches no layer, if
            variables of one path would be treated differently, or if
            `optimizer` is a `MultiOptimizer`.

    Example:

    ```python
    import keras
    import finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    optimizer = ft.layerwise_optimizer(
        keras.optimizers.AdamW(1e-3), model, decay=0.8, multipliers={"stem": 0}
    )
    model.compile(optimizer, loss="categorical_crossentropy")
    ```

    Reference:

    - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)
    - [Clark et al., 2020](https://arxiv.org/abs/2003.10555)
    - [Li et al., 2018](https://arxiv.org/abs/1802.01483), L2-SP
    """
    optimizer = get_optimizer(optimizer)
    check_one_rate(optimizer)
    check(l2_sp=(l2_sp, maybe(positive), "the strength of a pull"))
    target = inner_optimizer(optimizer)
    groups = as_groups(model)
    model = groups.model
    pulls = _pulls(groups, l2_sp)
    config = {
        **_config(target),
        "multipliers": multipliers_by_path(groups, decay, multipliers or {}),
        "no_weight_decay": [
            v.path
            for v in model.weights
            if v.path in pulls
            or not decays_weight(target, v)
            or (exclude_norms_and_biases and _is_norm_or_bias(v))
        ],
        "l2_sp": pulls,
        "built_on": [v.path for v in model.trainable_variables],
    }
    layerwise = layerwise_class(_public_class(target)).from_config(config)
    layerwise.know(model.weights)
    if target is optimizer:
        return layerwise
    config = optimizer.get_config()
    return type(optimizer)(**{**config, "inner_optimizer": layerwise})


def _config(optimizer):
    config, rate = optimizer.get_config(), rate_or_schedule(optimizer)
    # Keras writes a function out, but does not read every one.
    return {**config, "learning_rate": rate} if callable(rate) else config


def _public_class(optimizer):
    cls = type(optimizer)
    public = getattr(keras.optimizers, cls.__name__, cls)
    return public if cls in (public, type(public.__new__(public))) else cls


def _pulls(groups, l2_sp):
    if l2_sp is None:
        return {}
    pulled = {
        id(variable): float(l2_sp)
        for layer in groups.select("backbone")
        for variable in graph.own_variables(layer)
    }
    by_path = values_by_path(
        groups.model, pulled, 0.0, "pulls towards their start"
    )
    return {path: strength for path, strength in by_path.items() if strength}


def multipliers_by_path(model, decay, multipliers):
    """Works out the multiplier of each weight of a model, by path.

    `decay` is a factor for each layer group, from the head down; `multipliers`
    a dict from a selection of layers to a float, which comes after it.
    """
    check_decay(decay)
    groups, by_variable = as_groups(model), {}
    if decay is not None:
        for distance, group in enumerate(reversed(groups)):
            for variable in group.variables:
                by_variable[id(variable)] = decay**distance
    for layers, multiplier in multipliers.items():
        _check_multiplier(layers, multiplier)
        for layer in groups.select(layers):
            for variable in graph.own_variables(layer):
                by_variable[id(variable)] = float(multiplier)
    return values_by_path(groups.model, by_variable, 1.0, "learning rates")


def values_by_path(model, by_variable, default, what):
    """Turns values by `id` into values by path, if paths tell them apart."""
    by_path = {}
    for variable in model.weights:
        value = by_variable.get(id(variable), default)
        if by_path.setdefault(variable.path, value) != value:
            raise ValueError(
                "Two variables have the same path and would have different "
                f"{what}; rename one of their layers. Received: path="
                f"{variable.path!r} with {by_path[variable.path]} and {value}"
            )
    return by_path


def check_decay(decay):
    """Refuses a decay out of its range."""
    if decay is not None and not 0 < decay <= 1:
        raise ValueError(
            "`decay` is a factor for each layer group and must be greater than "
            "0 and at most 1; freeze the layers that must not move. "
            f"Received: decay={decay!r}"
        )


def _check_multiplier(layers, multiplier):
    if not 0 <= multiplier < math.inf:
        raise ValueError(
            "A multiplier of the learning rate must be a finite float of at "
            f"least 0. Received: multipliers={{{layers!r}: {multiplier!r}}}"
        )


def _is_norm_or_bias(variable):
    # Biases of attention and scales over several axes have a rank above 1.
    return len(variable.shape) < 2 or variable.name in ("bias", "gamma", "beta")


def is_layerwise(optimizer):
    """Tells whether an optimizer has a rate for each layer."""
    return isinstance(inner_optimizer(optimizer), Layerwise)


def check_one_rate(optimizer):
    """Refuses an optimizer that has no single learning rate."""
    inner = inner_optimizer(optimizer)
    if is_a(inner, "optimizers.MultiOptimizer"):
        raise ValueError(
            "A `MultiOptimizer` has no single learning rate, and one learning "
            "rate is needed. Pass one of the optimizers that it is made of, "
            "for several learning rates in a `layerwise_optimizer`. "
            f"Received: optimizer={optimizer!r}"
        )
