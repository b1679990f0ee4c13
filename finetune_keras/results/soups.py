"""One set of weights out of several: soups, and between before and after."""

import keras
import numpy as np

from finetune_keras.arguments import check, is_number, list_of, maybe, one_of
from finetune_keras.data.outputs import as_columns
from finetune_keras.engine import graph
from finetune_keras.engine.fit_state import compile_arguments
from finetune_keras.models.adapters_by_path import adapters_by_name
from finetune_keras.models.trainable_set import paths_now
from finetune_keras.results.batch_statistics import renew_statistics
from finetune_keras.results.calibration import with_probabilities
from finetune_keras.results.members import copied, mean_loss
from finetune_keras.results.predicted import predict_all
from finetune_keras.training.data_checks import check_batched


def average_weights(
    models, validation=None, method="average", weights=None, data=None
):
    """Averages the weights of models of one architecture, as a new model.

    Models that were fine-tuned from one start, the head's weights included, at
    small rates often lie in one valley, where the mean of their weights is
    better than each of them and costs no more to run: a soup. Between a model
    before and after fine-tuning (WiSE-FT),
    `average_weights([before, after], weights=[0.5, 0.5])` keeps more of what
    the first one knew of other data. Models from other starts, or that went
    far, have nothing good in between: let `"greedy"` leave them out, judge
    what comes out by `ft.evaluate`, or use `ft.ensemble`.

    Args:
        models: List of `keras.Model`s of one architecture; the first says all
            but the weights, such as what is frozen.
        validation: Data that the models were not trained on, as for
            `ft.evaluate`, for `"greedy"`. Defaults to `None`.
        method: `"average"`, or `"greedy"`: from the model of the lowest log
            loss (squared error) on `validation` on, each next one joins where
            it lowers the loss. Defaults to `"average"`.
        weights: List of floats of at least 0 that sum to 1, one a model, for
            `"average"`. Defaults to `None`: all alike.
        data: Training data, of which the means and variances of
            `BatchNormalization` are computed anew, from at most 100 batches.
            Needed where they differ among the models. Defaults to `None`.

    Returns:
        A new `keras.Model` of the class of the first. The models stay as they
        are.

    Raises:
        ValueError: If the models differ in anything but the weights, have
            adapters, or data that are needed are missing.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    keras.utils.set_random_seed(0)
    x, y = np.random.normal(size=(60, 4)), np.random.randint(3, size=60)
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, activation="softmax")(inputs)
    before = keras.Model(inputs, outputs)
    after = keras.models.clone_model(before)
    after.set_weights(before.get_weights())
    after.compile("adam", "sparse_categorical_crossentropy")
    after.fit(x, y, verbose=0)
    between = ft.average_weights([before, after], weights=[0.3, 0.7])
    ```

    Reference:

    - [Wortsman et al., 2022](https://arxiv.org/abs/2203.05482), soups
    - [Wortsman et al., 2022](https://arxiv.org/abs/2109.01903), WiSE-FT
    """
    _check(models, validation, method, weights)
    soup = _Soup(list(models), data)
    if method == "greedy":
        return soup.greedy(validation)
    weights = [1 / len(models)] * len(models) if weights is None else weights
    return soup.fill(weights)


def _check(models, validation, method, weights):
    check(
        models=(models, list_of(keras.Model, "keras.Model")),
        method=(method, one_of("average", "greedy")),
        weights=(weights, maybe(list_of(object, "float"))),
    )
    if method == "greedy" and (validation is None or weights is not None):
        raise ValueError(
            '`method="greedy"` chooses by `validation`, which the models were '
            "not trained on, and takes no `weights`. Received: "
            f"validation={validation!r:.100}, weights={weights}"
        )
    if weights is None:
        return
    fit = len(weights) == len(models) and all(
        is_number(x) and x >= 0 for x in weights
    )
    if not fit or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(
            "`weights` must be floats of at least 0 that sum to 1, one for "
            f"each of the {len(models)} models. Received: weights={weights}"
        )


class _Soup:
    """A copy of the first model, into which averages of all are written."""

    def __init__(self, models, data):
        for model in models:
            _refuse_adapters(model)
        self.models = models
        self.data = data
        self.model = copied(models[0])
        if getattr(models[0], "compiled", False):
            arguments = keras.tree.map_structure(
                _with_no_state, compile_arguments(models[0])
            )
            # A model may have a `compile` of its own, with other arguments.
            keras.Model.compile(self.model, **arguments)
        # Each layer of the copy, and that in its place in every model.
        rows = [_layers_like(self.model, model) for model in models]
        self.rows = list(zip(_leaves(self.model), *rows, strict=True))

    def fill(self, weights):
        """Writes the average with these weights; returns the model."""
        used = [i for i, weight in enumerate(weights) if weight > 0]
        weights = [weights[i] for i in used]
        stale = []
        for own, *layers in self.rows:
            layers = [layers[i] for i in used]
            if _have_other_statistics(layers):
                stale.append(own)
            _average(own, layers, weights)
        if stale and self.data is None:
            raise ValueError(
                "The models have other statistics in `BatchNormalization`, and "
                "means of them fit no weights: pass training data, "
                "`data=data.train`, of which they are computed anew. "
                f"Received: data=None, and {len(stale)} such layers, such as "
                f"{stale[0].name!r}"
            )
        if stale:
            renew_statistics(self.model, stale, self.data)
        return self.model

    def greedy(self, validation):
        """Adds one model after the other where that lowers the loss."""
        plain, task = with_probabilities(self.model, "average_weights")
        check_batched(validation, plain, "validation")

        def loss(members):
            chosen = [i in members for i in range(len(self.models))]
            self.fill([x / len(members) for x in chosen])
            outputs, y, counts = predict_all(plain, validation, "validation")
            y = task.labels(y, "validation")
            return mean_loss(probable, y, as_columns(outputs), counts)

        probable = type(task)(task.classes, task.outputs, False)
        alone = [loss([i]) for i in range(len(self.models))]
        members, least = [], np.inf
        for i in np.argsort(alone, kind="stable"):
            found = loss([*members, i])
            if found < least:
                members, least = [*members, i], found
        loss(members)
        return self.model


def _with_no_state(part):
    """An optimizer or a metric anew; anything else as it is."""
    if isinstance(part, (keras.Optimizer, keras.Metric)):
        return type(part).from_config(part.get_config())
    return part


def _layers_like(first, model):
    """The layers of a model in the order of those of another one."""
    wanted, found = _leaves(first), _leaves(model)
    layers = {path: layer for layer, path in found.items()}
    paths = {path: path for path in wanted.values()}
    if set(paths) != set(layers):
        paths = paths_now(list(paths), list(layers))
    for layer, path in wanted.items():
        other = layers.get(paths.get(path))
        if _form(layer) != _form(other):
            raise ValueError(
                "The models must be of one architecture, with the same layers "
                "in the same places: make them by one function that names its "
                "layers, or by `keras.models.clone_model`. Received: in "
                f"{first.name!r} {path!r}, {_form(layer)}, and in "
                f"{model.name!r} {paths.get(path)!r}, {_form(other)}"
            )
    if len(found) != len(wanted):
        raise ValueError(
            "The models must be of one architecture. Received: "
            f"{first.name!r} of {len(wanted)} layers and {model.name!r} of "
            f"{len(found)}"
        )
    return [layers[paths[path]] for path in wanted.values()]


def _leaves(model):
    """Leaf layers by path, but for inputs and what is active in training."""
    return {
        layer: path
        for layer, path in graph.every_leaf(model).items()
        if graph.own_variables(layer)
        or not isinstance(layer, keras.layers.InputLayer)
        and not graph.is_random(layer)
    }


def _form(layer):
    """Class of a layer, its activation, and the shapes of its weights."""
    if layer is None:
        return None
    function = getattr(layer, "activation", None)
    variables = [
        (v.name, tuple(v.shape), v.dtype) for v in graph.own_variables(layer)
    ]
    return type(layer).__name__, getattr(function, "__name__", None), variables


def _refuse_adapters(model):
    lora = [x for x in graph.every_leaf(model) if _has_lora(x)]
    if lora or adapters_by_name(model):
        raise ValueError(
            "The mean of the factors of adapters is not the mean of what they "
            "do. Fold them into the weights first, `ft.merge_adapters(model)`. "
            f"Received: model={model.name!r} with adapters"
        )


def _has_lora(layer):
    return getattr(layer, "lora_enabled", False)


def _have_other_statistics(layers):
    if not isinstance(layers[0], keras.layers.BatchNormalization):
        return False
    return any(
        not np.array_equal(*_arrays([getattr(x, name) for x in (layers[0], y)]))
        for name in ("moving_mean", "moving_variance")
        for y in layers[1:]
    )


def _average(own, layers, weights):
    """Writes the averages of the weights of layers into those of another."""
    columns = zip(*map(graph.own_variables, layers), strict=True)
    for variable, column in zip(graph.own_variables(own), columns, strict=True):
        arrays = _arrays(column)
        if "float" in str(variable.dtype):
            pairs = zip(weights, arrays, strict=True)
            variable.assign(sum(w * x.astype("float64") for w, x in pairs))
        elif all(np.array_equal(arrays[0], x) for x in arrays):
            variable.assign(arrays[0])
        else:
            raise ValueError(
                "Only weights that are floats have a mean. Average the models "
                "before they are quantised. Received: other values in "
                f"{variable.path!r} of dtype {variable.dtype}"
            )


def _arrays(variables):
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]
