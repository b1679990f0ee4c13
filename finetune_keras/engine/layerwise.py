"""Optimizers with a learning rate for each layer, saved with the model."""

import contextlib
import functools

import keras
import numpy as np
from keras import ops

from finetune_keras.engine import backend, versions
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.engine.paths import without_numbers


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
            built on. Written by `get_config`: in another process, where Keras
            counts layers anew, variables are known by their place in it.
            Defaults to `None`.
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
        self._anchors = []
        self._old_anchors = {}
        self._rate_factor = 1.0

    def learning_rate_multiplier(self, variable):
        """Returns the factor on the learning rate of a variable, a float."""
        return self.multipliers.get(self._path(variable), 1.0)

    def pull(self, variable):
        """Returns the strength of the pull of a variable to its start."""
        return self.l2_sp and self.l2_sp.get(self._path(variable), 0.0)

    def set_multipliers(self, model, multipliers):
        """Replaces all multipliers.

        A train step that was traced before must be traced anew: see
        `engine.retrace`.

        Args:
            model: The `keras.Model` that the optimizer trains.
            multipliers: Dict from the path of each of its weights to a float.
        """
        paths = {self._path(v): v.path for v in model.weights}
        self.multipliers = dict(multipliers)
        self.no_weight_decay = frozenset(
            paths.get(path, path) for path in self.no_weight_decay
        )
        self.l2_sp = {paths.get(p, p): x for p, x in self.l2_sp.items()}
        self.built_on = tuple(paths.get(p, p) for p in self.built_on)
        self._paths = {k: paths.get(p, p) for k, p in self._paths.items()}
        self._old_anchors = {
            paths.get(p, p): anchor for p, anchor in self._old_anchors.items()
        }

    def know(self, variables):
        """Keeps the paths of variables as of now, those not trained too."""
        self._paths.update({self._var_key(v): v.path for v in variables})

    def know_as(self, other):
        """Takes over what another optimizer of the same model knows."""
        self._paths = dict(other._paths)

    def build(self, variables):
        if self.built:
            return
        # Place tells only in a new process: here the set may have changed.
        if self._paths:
            self.built_on = tuple(self._path(v) for v in variables)
        else:
            self.built_on = _recognise(
                variables, self.multipliers, self.built_on
            )
        keys = [self._var_key(variable) for variable in variables]
        self._paths.update(dict(zip(keys, self.built_on, strict=True)))
        super().build(variables)
        if self.l2_sp:
            self._anchors = [self._add_anchor(v) for v in variables]

    def _path(self, variable):
        key = self._var_key(variable)
        if key in self._paths:
            return self._paths[key]
        return _recognise([variable], self.multipliers)[0]

    def _add_anchor(self, variable):
        if not self.pull(variable):
            return None
        # The variable may have moved before it was frozen for a while.
        start = self._old_anchors.get(self._path(variable), variable)
        # `fit` on TensorFlow builds inside the function that it traces.
        with _out_of_traced_function():
            return self.add_variable_from_reference(
                variable,
                name="anchor",
                initializer=lambda shape, dtype: ops.copy(
                    ops.convert_to_tensor(start, dtype)
                ),
            )

    def keep_anchors(self):
        """Keeps the anchors of all variables, before other ones train."""
        for variable, anchor in zip(
            self._trainable_variables, self._anchors, strict=False
        ):
            if anchor is not None:
                self._old_anchors[self._path(variable)] = np.array(
                    ops.convert_to_numpy(anchor)
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
        strength = self.pull(variable)
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
    if not backend.on("tensorflow"):
        return contextlib.nullcontext()
    return tf.init_scope()


def _recognise(variables, known, built_on=()):
    """Finds the paths that variables had when the settings were made.

    A loaded model may give other paths: `"sequential/dense/kernel"` becomes
    `"dense/kernel"`, and layers without a name are counted anew, so that a
    path may be the old one of another variable.
    """
    if len(built_on) == len(variables) and all(
        _same_stem(variable.path, old)
        for variable, old in zip(variables, built_on, strict=True)
    ):
        return tuple(built_on)
    paths = [_same_path(variable.path, known) for variable in variables]
    if len(built_on) != len(paths):
        return tuple(paths)
    # What has no path in common is recognised by its place among the variables.
    taken = set(paths)
    for i, old in enumerate(built_on):
        if paths[i] not in known and old not in taken:
            paths[i] = old
    return tuple(paths)


def _same_stem(path, other):
    path, other = (without_numbers(name) for name in (path, other))
    return f"/{path}".endswith(f"/{other}") or f"/{other}".endswith(f"/{path}")


def _same_path(path, known):
    if path in known:
        return path
    similar = [
        other
        for other in known
        if other.endswith(f"/{path}") or path.endswith(f"/{other}")
    ]
    return similar[0] if len(similar) == 1 else path


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


def _scale(learning_rate, multiplier):
    return learning_rate if multiplier == 1 else learning_rate * multiplier


for _name in (
    "Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion Muon Nadam "
    "RMSprop SGD ScheduleFreeAdamW"
).split():
    if versions.find(f"optimizers.{_name}"):
        layerwise_class(getattr(keras.optimizers, _name))
