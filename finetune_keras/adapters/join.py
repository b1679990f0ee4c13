"""Several adapters joined into one: a sum, TIES, or DARE."""

import math

import numpy as np
from keras import ops

from finetune_keras.adapters.adapter import (
    adapters_of,
    check_name,
    check_weights,
    place_adapters,
    require_adapter,
    set_adapter,
)
from finetune_keras.adapters.lora import LoRA
from finetune_keras.adapters.lora_layers import LoRALayer
from finetune_keras.adapters.low_rank import factors_of, fill_factors
from finetune_keras.arguments import (
    Kind,
    check,
    integer,
    is_number,
    maybe,
    one_of,
)
from finetune_keras.models.adapters_by_path import adapters_by_name


def join_adapters(
    model,
    weights,
    method="linear",
    name="joined",
    density=0.5,
    rank=None,
    seed=0,
):
    """Joins several adapters into a new one, which is a LoRA.

    What each adapter adds to a kernel is multiplied by its weight, and all
    are joined there, kernel by kernel. The new adapter is that change, or
    what comes nearest to it in its rank: of `"linear"` it is the sum to
    rounding, as `set_adapter` computes it, at the cost of one adapter; of the
    other two, whose change has a higher rank, more `rank` comes nearer. It is
    switched on and trains, as after `add_adapters`, with the head of the
    first; the others stay as they are.

    Args:
        model: A `keras.Model` with adapters of `LoRA` or `VeRA`.
        weights: Dict from names of adapters to floats, as in `set_adapter`.
        method: One of
            - `"linear"`, the sum;
            - `"ties"`, which keeps of each change the share `density` that is
              largest, and averages in each place those that have the sign of
              their sum;
            - `"dare"`, the sum of what is left where all but the share
              `density` of each change, chosen at random, is dropped and the
              rest scaled up by what was lost.

            Defaults to `"linear"`.
        name: String, the name of the new adapter. Defaults to `"joined"`.
        density: Float above 0, at most 1, for `"ties"` and `"dare"`.
            Defaults to `0.5`.
        rank: Integer, the rank of the new adapter. Defaults to `None`, in each
            layer the sum of those that are joined.
        seed: Integer of at least 0, for `"dare"`. Defaults to `0`.

    Returns:
        `model` itself.

    Raises:
        ValueError: If an adapter is not there or of another method, the name
            is taken, or an argument is out of range.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(4, name="body"),
        keras.layers.Dense(2, name="head"),
    ])
    ft.add_adapters(model, ft.LoRA(rank=1), "body", name="french")
    ft.add_adapters(model, ft.LoRA(rank=1), "body", name="law")
    ft.join_adapters(model, {"french": 1.0, "law": 0.5}, method="ties")
    ```

    Reference:
        - [Yadav et al., 2023](https://arxiv.org/abs/2306.01708) (TIES)
        - [Yu et al., 2023](https://arxiv.org/abs/2311.03099) (DARE)
    """
    check(
        method=(method, one_of(*_METHODS)),
        density=(density, _DENSITY),
        rank=(rank, maybe(integer(1))),
        seed=(seed, integer(0)),
    )
    places = _places(model, weights)
    check_name(model, name)
    rng = np.random.default_rng(seed)
    changes, ranks = {}, {}
    for path, adapters in places.items():
        parts = [_change_of(adapter) for adapter in adapters.values()]
        by = [weights[one] for one in adapters]
        changes[path] = _METHODS[method](parts, by, density, rng)
        most = min(changes[path].shape[-2:])
        own = sum(_rank_of(adapter) for adapter in adapters.values())
        ranks[path] = rank or min(own, most)
    set_adapter(model, next(iter(weights)))
    place_adapters(model, LoRA(rank=ranks), list(places), name)
    for path, (_, adapter) in adapters_by_name(model)[name].items():
        found = factors_of(changes[path] / adapter.scale, adapter.rank)
        fill_factors(adapter, *found)
    return model


def _places(model, weights):
    """Dict from paths to dicts from names to the adapters there."""
    found = adapters_of(model)
    if not isinstance(weights, dict):
        raise ValueError(
            "`weights` must be a dict from the names of adapters to floats. "
            f"Received: weights={weights!r}"
        )
    check_weights("weights", weights)
    places = {}
    for name in weights:
        require_adapter(found, name)
        for path, (_, adapter) in found[name].items():
            _check_kind(name, adapter)
            places.setdefault(path, {})[name] = adapter
    return places


def _check_kind(name, adapter):
    low = isinstance(adapter, LoRALayer) and adapter.method.variant != "dora"
    if not low:
        raise ValueError(
            'Adapters of `LoRA` but "dora", and of `VeRA`, can be joined: '
            "what others do has no low rank. `set_adapter` adds up all kinds. "
            f"Received: the adapter {name!r} of {adapter.method!r}"
        )


def _change_of(adapter):
    change = ops.convert_to_numpy(adapter.kernel_change())
    return adapter.matrix(change.astype("float32"))


def _rank_of(adapter):
    shape_a = adapter.method.factors(adapter)[0].shape
    return shape_a[-1]


# === Methods ===

_DENSITY = Kind(
    "a share of more than 0, at most 1", lambda v: is_number(v) and 0 < v <= 1
)


def _linear(changes, weights, density, rng):
    return sum(w * change for w, change in zip(weights, changes, strict=True))


def _ties(changes, weights, density, rng):
    kept = [_largest(change, density) for change in changes]
    kept = np.stack([w * x for w, x in zip(weights, kept, strict=True)])
    agree = (np.sign(kept) == np.sign(kept.sum(0))) & (kept != 0)
    return (kept * agree).sum(0) / np.maximum(agree.sum(0), 1)


def _largest(change, density):
    """A change with zeros in place of all but its largest values."""
    count = math.ceil(density * change.size)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")
    kept = np.zeros_like(change)
    kept.flat[order[:count]] = change.flat[order[:count]]
    return kept


def _dare(changes, weights, density, rng):
    kept = [x * (rng.random(x.shape) < density) / density for x in changes]
    return _linear([x.astype("float32") for x in kept], weights, density, rng)


_METHODS = {"linear": _linear, "ties": _ties, "dare": _dare}
