"""Layer-wise learning rates, weight-decay exclusions and L2-SP."""

import contextlib
import functools
import math

import keras
from keras import ops

from finetune_keras.models import graph
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.selection import select_layers


class Layerwise:
    """What `layerwise_class` puts on top of a Keras optimizer.

    Everything is kept by `variable.path`, so that it is saved with the model. A
    variable that is not named has multiplier 1, weight decay and no pull.

    Args:
        *args: Arguments of the optimizer.
        multipliers: Dict from a variable's path to a float, the factor on the
            learning rate. At 0 the variable is left as it is, as if it were
            frozen. Defaults to `None`.
        no_weight_decay: List of paths of variables without weight decay.
            Defaults to `None`.
        l2_sp: Dict from a variable's path to a float, the strength of the pull
            towards its starting value. Defaults to `None`.
        built_on: List of paths, one for each variable that the optimizer is
            built on. Written by `get_config`. Defaults to `None`.
        **kwargs: Arguments of the optimizer.
    """

    def __init__(
        self,
        *args,
        multipliers=None,
        no_weight_decay=None,
        l2_sp=None,
        built_on=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.multipliers = dict(multipliers or {})
        self.no_weight_decay = frozenset(no_weight_decay or ())
        self.l2_sp = dict(l2_sp or {})
        self.built_on = tuple(built_on or ())
        self._paths = {}
        self._rate_factor = 1.0

    def learning_rate_multiplier(self, variable):
        """Returns the factor on the learning rate of a variable, a float."""
        return self.multipliers.get(self._path(variable), 1.0)

    def set_multipliers(self, model, decay=None, multipliers=None):
        """Replaces all multipliers, as `layerwise_optimizer` sets them.

        A train step that was traced before must be traced anew: see
        `training.retrace`.

        Args:
            model: The `keras.Model` that the optimizer trains.
            decay: Float in (0, 1] or `None`. Factor for each layer group, from
                the head down. Defaults to `None`.
            multipliers: Dict from a selection of layers to a float, or `None`.
                Defaults to `None`.
        """
        _check_decay(decay)
        paths = {self._path(v): v.path for v in model.weights}
        self.multipliers = _multipliers(model, decay, multipliers or {})
        self.no_weight_decay = frozenset(
            paths.get(path, path) for path in self.no_weight_decay
        )
        self.l2_sp = {paths.get(p, p): x for p, x in self.l2_sp.items()}
        self.built_on = tuple(paths.get(p, p) for p in self.built_on)
        self._paths = {k: paths.get(p, p) for k, p in self._paths.items()}

    def build(self, variables):
        if self.built:
            return
        self.built_on = _recognise(variables, self.multipliers, self.built_on)
        keys = [self._var_key(variable) for variable in variables]
        self._paths = dict(zip(keys, self.built_on, strict=True))
        super().build(variables)
        if self.l2_sp:
            self._anchors = [self._add_anchor(v) for v in variables]

    def _path(self, variable):
        key = self._var_key(variable)
        if key in self._paths:
            return self._paths[key]
        return _recognise([variable], self.multipliers)[0]

    def _add_anchor(self, variable):
        if not self.l2_sp.get(self._path(variable)):
            return None
        # `fit` on TensorFlow builds inside the function that it traces.
        with _out_of_traced_function():
            return self.add_variable_from_reference(
                variable,
                name="anchor",
                initializer=lambda shape, dtype: ops.copy(variable),
            )

    def apply(self, grads, trainable_variables=None):
        variables = trainable_variables
        if variables is None:
            variables = self._trainable_variables
        if variables and not self.built:
            self.build(list(variables))
        if 0 not in self.multipliers.values():
            return super().apply(grads, trainable_variables)
        pairs = [
            (grad, variable)
            for grad, variable in zip(grads, variables, strict=True)
            if self.learning_rate_multiplier(variable) != 0
        ]
        # Left out before clipping: what stands still has no gradient.
        return super().apply([g for g, _ in pairs], [v for _, v in pairs])

    def update_step(self, gradient, variable, learning_rate):
        multiplier = self.learning_rate_multiplier(variable)
        learning_rate = _scale(learning_rate, multiplier)
        self._pull(variable, learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def _pull(self, variable, learning_rate):
        strength = self.l2_sp and self.l2_sp.get(self._path(variable))
        if strength:
            anchor = self._anchors[self._get_variable_index(variable)]
            share = ops.cast(learning_rate * strength, variable.dtype)
            distance = ops.subtract(variable, anchor)
            self.assign_sub(variable, ops.multiply(distance, share))

    def _apply_weight_decay(self, variables):
        variables = [
            v
            for v in variables
            if self._path(v) not in self.no_weight_decay
            and self._use_weight_decay(v)
        ]
        for multiplier, group in self._by_multiplier(variables):
            self._rate_factor = multiplier
            try:
                super()._apply_weight_decay(group)
            finally:
                self._rate_factor = 1.0

    def _get_current_learning_rate(self):
        # Weight decay asks for the learning rate instead of receiving it.
        return _scale(super()._get_current_learning_rate(), self._rate_factor)

    def _by_multiplier(self, variables):
        groups = {}
        for variable in variables:
            multiplier = self.learning_rate_multiplier(variable)
            groups.setdefault(multiplier, []).append(variable)
        return groups.items()

    def _update_model_variables_moving_average(self, trainable_variables):
        super()._update_model_variables_moving_average(trainable_variables)
        if not self.use_ema:
            return
        averages = self._model_variables_moving_average
        for variable, average in zip(
            trainable_variables, averages, strict=True
        ):
            # The average of equal numbers may be off by a rounding, and is
            # written over the weights in the end.
            if self.learning_rate_multiplier(variable) == 0:
                average.assign(variable)

    def get_config(self):
        return {
            **super().get_config(),
            "multipliers": dict(self.multipliers),
            "no_weight_decay": sorted(self.no_weight_decay),
            "l2_sp": dict(self.l2_sp),
            "built_on": list(self.built_on),
        }


class LayerwiseParallel(Layerwise):
    """The same for optimizers that update all variables in one call.

    On torch most do, with one learning rate, instead of `update_step` for each.
    """

    def _parallel_update_step(self, grads, variables, learning_rate):
        grads = dict(zip(map(id, variables), grads, strict=True))
        for multiplier, group in self._by_multiplier(variables):
            rate = _scale(learning_rate, multiplier)
            for variable in group:
                self._pull(variable, rate)
            group_grads = [grads[id(v)] for v in group]
            super()._parallel_update_step(group_grads, group, rate)


def _out_of_traced_function():
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def _recognise(variables, known, built_on=()):
    """Finds the paths that variables had when the settings were made.

    A loaded model may give other paths: `"sequential/dense/kernel"` becomes
    `"dense/kernel"`, and a subclassed model counts its layers anew.
    """
    paths = [_same_path(variable.path, known) for variable in variables]
    if len(built_on) != len(paths):
        return tuple(paths)
    # What has no path in common is recognised by its place among the variables.
    taken = set(paths)
    for i, old in enumerate(built_on):
        if paths[i] not in known and old not in taken:
            paths[i] = old
    return tuple(paths)


def _same_path(path, known):
    if path in known:
        return path
    similar = [
        other
        for other in known
        if other.endswith(f"/{path}") or path.endswith(f"/{other}")
    ]
    return similar[0] if len(similar) == 1 else path


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
        model: The `keras.Model` to be trained, built. The settings are kept by
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
        ValueError: If an argument is out of its range or matches no layer, or
            if `optimizer` is a `MultiOptimizer`.

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
    optimizer = keras.optimizers.get(optimizer)
    _check_optimizer(optimizer)
    _check_decay(decay)
    _check_l2_sp(l2_sp)
    target = getattr(optimizer, "inner_optimizer", optimizer)
    pulls = _pulls(model, l2_sp)
    config = {
        **target.get_config(),
        "multipliers": _multipliers(model, decay, multipliers or {}),
        "no_weight_decay": [
            v.path
            for v in model.weights
            if v.path in pulls
            or not target._use_weight_decay(v)
            or (exclude_norms_and_biases and _is_norm_or_bias(v))
        ],
        "l2_sp": pulls,
        "built_on": (),
    }
    layerwise = layerwise_class(_public_class(target)).from_config(config)
    if target is optimizer:
        return layerwise
    config = optimizer.get_config()
    return type(optimizer)(**{**config, "inner_optimizer": layerwise})


@functools.cache
def layerwise_class(optimizer_class):
    """Returns the layer-wise subclass of an optimizer class.

    Those of Keras's own optimizers are made when this package is imported. Call
    it for an optimizer class of your own, next to its definition, so that a
    model that was compiled with the layer-wise version can be loaded.

    Args:
        optimizer_class: Subclass of `keras.optimizers.Optimizer`.

    Returns:
        Class of optimizers, registered with Keras, with three more arguments:
        `multipliers`, `no_weight_decay` and `l2_sp`.

    Example:

    ```python
    import keras
    import finetune_keras as ft

    optimizer = ft.layerwise_class(keras.optimizers.SGD)(
        0.1, multipliers={"dense/kernel": 0.5}
    )
    ```
    """
    if issubclass(optimizer_class, Layerwise):
        return optimizer_class
    name = keras.saving.get_registered_name(optimizer_class)
    base = _backend_class(optimizer_class)
    parallel = hasattr(base, "_parallel_update_step")
    cls = type(
        f"Layerwise{optimizer_class.__name__}",
        (LayerwiseParallel if parallel else Layerwise, base),
        {"__doc__": Layerwise.__doc__, "__module__": __name__},
    )
    return keras.saving.register_keras_serializable(
        package="finetune_keras", name=f"Layerwise{name}"
    )(cls)


def _backend_class(optimizer_class):
    """Finds the class that a constructor really makes, another one on torch."""
    # On torch, Nadam's running product advances with every call for a group.
    if optimizer_class is keras.optimizers.Nadam:
        return optimizer_class
    return type(optimizer_class.__new__(optimizer_class))


def _public_class(optimizer):
    cls = type(optimizer)
    public = getattr(keras.optimizers, cls.__name__, cls)
    return public if cls in (public, type(public.__new__(public))) else cls


def _scale(learning_rate, multiplier):
    return learning_rate if multiplier == 1 else learning_rate * multiplier


def _multipliers(model, decay, multipliers):
    """Works out the multiplier of each weight of the model, by path."""
    by_variable = {}
    if decay is not None:
        for distance, group in enumerate(reversed(layer_groups(model))):
            for variable in group.variables:
                by_variable[id(variable)] = decay**distance
    for layers, multiplier in multipliers.items():
        _check_multiplier(layers, multiplier)
        for layer in select_layers(model, layers):
            for variable in graph.own_variables(layer):
                by_variable[id(variable)] = float(multiplier)
    by_path = {}
    for variable in model.weights:
        multiplier = by_variable.get(id(variable), 1.0)
        if by_path.setdefault(variable.path, multiplier) != multiplier:
            raise ValueError(
                "Two variables have the same path and would have different "
                "learning rates; rename one of their layers. Received: path="
                f"{variable.path!r} with {by_path[variable.path]} and "
                f"{multiplier}"
            )
    return by_path


def _pulls(model, l2_sp):
    if l2_sp is None:
        return {}
    return {
        variable.path: float(l2_sp)
        for layer in select_layers(model, "backbone")
        for variable in graph.own_variables(layer)
    }


def _is_norm_or_bias(variable):
    # Biases of attention and scales over several axes have a rank above 1.
    return len(variable.shape) < 2 or variable.name in ("bias", "gamma", "beta")


def _check_optimizer(optimizer):
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, keras.optimizers.MultiOptimizer):
        raise ValueError(
            "A `MultiOptimizer` has no single learning rate to multiply. Pass "
            "one of the optimizers that it is made of. "
            f"Received: optimizer={optimizer!r}"
        )


def _check_decay(decay):
    if decay is not None and not 0 < decay <= 1:
        raise ValueError(
            "`decay` is a factor for each layer group and must be greater than "
            "0 and at most 1; freeze the layers that must not move. "
            f"Received: decay={decay!r}"
        )


def _check_l2_sp(l2_sp):
    if l2_sp is not None and not 0 < l2_sp < math.inf:
        raise ValueError(
            "`l2_sp` is the strength of a pull and must be a float greater "
            f"than 0, or `None` for no pull. Received: l2_sp={l2_sp!r}"
        )


def _check_multiplier(layers, multiplier):
    if not 0 <= multiplier < math.inf:
        raise ValueError(
            "A multiplier of the learning rate must be a finite float of at "
            f"least 0. Received: multipliers={{{layers!r}: {multiplier!r}}}"
        )


for _name in (
    "Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion Muon Nadam "
    "RMSprop SGD ScheduleFreeAdamW"
).split():
    layerwise_class(getattr(keras.optimizers, _name))
