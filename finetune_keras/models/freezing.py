"""Freeze and unfreeze, leaf by leaf, with a BatchNorm policy."""

import warnings

from finetune_keras.arguments import check, one_of
from finetune_keras.engine import backend, graph
from finetune_keras.engine.layers import own_flag
from finetune_keras.models.layer_groups import as_groups
from finetune_keras.models.model import keep_trainable_set
from finetune_keras.models.selection import is_batch_norm
from finetune_keras.plans.phase_checks import BATCH_NORM


def freeze(model, layers="all"):
    """Freezes layers: no training step moves their weights.

    A frozen `BatchNormalization` runs in inference mode and keeps its
    statistics. Flags are set on leaf layers, so that an inner model's own flag
    neither hides nor undoes them. They are saved with the model.

    Layers that the model holds beside its graph, such as a teacher, are frozen
    by `"all"` and by their name; every other selection leaves them as they are.

    After `compile`, Keras goes on training what it trained before until the
    model is compiled again, or until `retrace`, which keeps the optimizer's
    state; `trainable_summary` says so.

    Args:
        model: A `keras.Model`, built, or its `LayerGroups`.
        layers: Which layers, as in `select_layers`: `"all"`, `"backbone"`, a
            group, name, regular expression, class, callable, `Layer`, an
            integer (the head and the last n groups before it), or a list of
            these. Defaults to `"all"`.

    Raises:
        ValueError: If `layers` matches nothing, or `model` is not built yet.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    ft.freeze(model, "backbone")
    print([v.path for v in model.trainable_variables])
    ```
    """
    groups = as_groups(model)
    chosen = groups.select(layers)
    if isinstance(layers, str) and layers == "all" and groups.outside:
        chosen += groups.outside.layers
    _set_flags(groups, chosen, False)
    keep_trainable_set(groups.model, stacklevel=3)


def unfreeze(model, layers="all", batch_norm="frozen"):
    """Lets layers train again.

    Layers that the model holds beside its graph, such as a teacher, stay as
    they are unless they are named.

    Args:
        model: A `keras.Model`, built, or its `LayerGroups`.
        layers: Which layers, as in `select_layers`. Defaults to `"all"`.
        batch_norm: What becomes of the `BatchNormalization` layers among them.
            `"frozen"` keeps those of the backbone in inference mode, on
            pretrained statistics, which small batches would spoil; those of
            the head are new and train. `"train"` lets all of them train.
            `"synchronized"` does too, and from then on they take their
            statistics from the batches of all replicas of a `tf.distribute`
            strategy together. Defaults to `"frozen"`.

    Raises:
        ValueError: If `layers` matches nothing, or nothing but BatchNorm that
            stays frozen, if `model` is not built yet, or if `"synchronized"`
            is asked for on a backend other than TensorFlow.

    Example:

    ```python
    import keras, finetune_keras as ft

    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    ft.freeze(model)
    ft.unfreeze(model, ft.layer_groups(model)[-2:])
    print(ft.trainable_summary(model))
    ```
    """
    _check_batch_norm(batch_norm)
    groups = as_groups(model)
    chosen = groups.to_train(layers, batch_norm)
    trained = set(chosen)
    # Flags of what has no weights play no part.
    kept = [x for x in groups.select(layers) if x not in trained]
    norms = [x for x in kept if is_batch_norm(x)]
    _set_flags(groups, norms, False)
    _set_flags(groups, [x for x in kept if x not in norms] + chosen, True)
    if batch_norm == "synchronized":
        for layer in filter(is_batch_norm, chosen):
            layer.synchronized = True
    keep_trainable_set(groups.model, stacklevel=3)


def _check_batch_norm(batch_norm):
    check(batch_norm=(batch_norm, one_of(*BATCH_NORM)))
    if batch_norm == "synchronized" and not backend.on("tensorflow"):
        raise ValueError(
            "Only the TensorFlow backend synchronises the statistics of "
            'BatchNormalization. Pass `batch_norm="train"`. '
            f"Received: batch_norm={batch_norm!r}, backend={backend.name()!r}"
        )


def is_recompile_due(model):
    """Tells whether a model trains other weights than it should.

    No model does that is not compiled, or was not trained since.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return False
    return graph.optimized_ids(optimizer) != {
        id(variable) for variable in model.trainable_variables
    }


class TrainOnly:
    """Unfreezes what is asked for and freezes the rest, again and again.

    What a model holds beside its graph, such as a teacher, is as the user
    left it, except while it is named.
    """

    def __init__(self, groups):
        self.groups = groups
        outside = groups.outside
        beside = graph.layers_beside(groups.model)
        beside += outside.layers if outside else []
        self.layers = [(layer, own_flag(layer)) for layer in beside]
        variables = outside.variables if outside else []
        self.variables = [(v, v.trainable) for v in variables]

    def __call__(self, layers, batch_norm="frozen"):
        """Sets the flags; the arguments are those of `unfreeze`."""
        for layer, trainable in self.layers:
            graph.set_own_flag(layer, trainable)
        for variable, trainable in self.variables:
            variable.trainable = trainable
        with warnings.catch_warnings():
            # What a file cannot keep is told of the flags in the end.
            warnings.simplefilter("ignore")
            _set_flags(self.groups, list(self.groups.inside), False)
            unfreeze(self.groups, layers, batch_norm)


def _set_flags(groups, layers, trainable):
    model, leaves = groups.model, groups.leaves
    if not model.trainable:
        # What its flag has hidden so far is frozen, whenever it was built.
        for leaf in graph.leaf_layers(model):
            graph.set_own_flag(leaf, False)
    chosen = set(layers)
    beside = [
        layer
        for layer in graph.layers_beside(model)
        if not chosen.isdisjoint(graph.leaf_layers(layer))
    ]
    for container in [model, *graph.all_layers(model), *beside]:
        # A container's flag is no say of its own: it must hide nothing.
        if container not in leaves:
            graph.set_own_flag(container, True)
    for layer in layers:
        graph.set_own_flag(layer, trainable)
    if model in leaves:
        _let_show(model)


def _let_show(model):
    """Has a frozen weight of the model's own not hide all that is in it."""
    flags = [(v, v.trainable) for v in graph.own_variables(model)]
    graph.set_own_flag(model, True)
    for variable, flag in flags:
        variable.trainable = flag
