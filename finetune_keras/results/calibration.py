"""Probabilities that mean what they say, and decisions made of them."""

import keras
import numpy as np

from finetune_keras.arguments import (
    check,
    check_model,
    maybe,
    one_of,
    part,
    share,
)
from finetune_keras.data.layout import Shown, Table
from finetune_keras.data.outputs import check_shape
from finetune_keras.data.printable import one_line, outcome
from finetune_keras.data.task import Task
from finetune_keras.data.task_checks import refuse_unclear
from finetune_keras.engine import graph
from finetune_keras.models.heads import rebuild
from finetune_keras.models.model import keep_task
from finetune_keras.results.answer_threshold import with_threshold
from finetune_keras.results.decisions import (
    abstention_threshold,
    conformal_threshold,
    decision_thresholds,
)
from finetune_keras.results.mask_pixels import pixels_of
from finetune_keras.results.predicted import predict_all
from finetune_keras.results.temperature import (
    fit_scaling,
    scaled,
    top_label_ece,
)
from finetune_keras.training.data_checks import check_batched


@keras.saving.register_keras_serializable(package="finetune_keras")
class Calibration(keras.layers.Layer, Shown):
    """Corrects predicted probabilities, and knows how to decide with them.

    The last layer of a calibrated model. Its settings are plain numbers in its
    config, so they are saved with the model, and there is nothing to train.

    Args:
        scale: Float, or list of floats, one a class: factor on the logits,
            that is 1 / temperature.
        bias: List of floats, one a class, or `None`: added to the logits.
            Defaults to `None`.
        activation: `"softmax"` or `"sigmoid"`, what the model ends in.
            Defaults to `"softmax"`.
        thresholds: List of floats in (0, 1), from which probability on a label
            is given: one for each label of a sigmoid. `None` is 0.5. Defaults
            to `None`.
        abstain_below: Float. With less confidence the model abstains. `None`
            never does. Defaults to `None`.
        conformal: Float. Classes of at least this probability make the
            prediction set. Defaults to `None`.
        facts: Dict of plain data: how it was fitted, what it changed.
            Defaults to `None`.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    softer = ft.Calibration(scale=0.5)
    print(softer(np.array([[0.9, 0.1]])))  # 0.75, 0.25
    ```
    """

    def __init__(
        self,
        scale,
        bias=None,
        activation="softmax",
        thresholds=None,
        abstain_below=None,
        conformal=None,
        facts=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.scale = scale
        self.bias = bias
        self.activation = activation
        self.thresholds = thresholds
        self.abstain_below = abstain_below
        self.conformal = conformal
        self.facts = facts or {}

    def call(self, inputs):
        return scaled(inputs, self.scale, self.bias, self.activation, keras.ops)

    def compute_output_shape(self, input_shape):
        return input_shape

    def _layout(self):
        known = {"scale": self.scale, "abstain_below": self.abstain_below}
        rows = [
            [name.replace("_", " "), one_line(outcome(value), 60)]
            for name, value in {**self.facts, **known}.items()
            if value is not None
        ]
        return [f"Calibration: {self.activation}", Table(["", "value"], rows)]

    def get_config(self):
        return {
            **super().get_config(),
            "scale": self.scale,
            "bias": self.bias,
            "activation": self.activation,
            "thresholds": self.thresholds,
            "abstain_below": self.abstain_below,
            "conformal": self.conformal,
            "facts": self.facts,
        }


def calibrate(
    model,
    validation,
    method="temperature",
    metric=None,
    coverage=None,
    error=None,
    conformal=None,
):
    """Makes the probabilities of a classifier mean what they say.

    Networks are mostly too sure. A factor on the logits, fitted on data that
    the model was not trained on, cures it and changes no label; by a prior it
    stays near 1 where examples are few. Of masks it is fitted on pixels. The
    returned model shares all layers with `model`, and is saved and loaded as
    ever.

    Args:
        model: A `keras.Model` that ends in a softmax or in sigmoids, or in
            logits and is compiled with a loss `from_logits=True`: then it
            gets its softmax or sigmoid as well.
        validation: Data that the model was not trained on: a batched
            `tf.data.Dataset` or a tuple of arrays `(x, y)`.
        method: `"temperature"`, one factor for all classes, or `"vector"`, a
            factor and a shift for each, which needs some hundred examples and
            may change labels. Defaults to `"temperature"`.
        metric: `"f1"`, `"balanced_accuracy"` or `"accuracy"`: tune the
            threshold of each sigmoid for it, instead of 0.5. Of a
            `question_answerer`: choose for the F1 of SQuAD, or `"accuracy"`,
            the exact match, from which probability of "no answer" on there
            is none. Defaults to `None`.
        coverage: Float in (0, 1], the share of inputs on which to decide; on
            the rest the model abstains. Defaults to `None`.
        error: Float in (0, 1), the most errors among the decided ones, held
            with a confidence of 95 %. It excludes `coverage`. Defaults to
            `None`.
        conformal: Float in (0, 1), the share of inputs whose true class is to
            be in the prediction set. For a softmax. Defaults to `None`.

    Returns:
        A `keras.Model` with a last layer `Calibration`, whose `facts` say
        what changed. Where the model was calibrated before, that is replaced.

    Raises:
        ValueError: If the model does not end in probabilities, an option does
            not go with it, or the promise cannot be held on these data.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Dense(3, activation="softmax")(inputs)
    )
    x, y = np.random.normal(size=(200, 4)), np.random.randint(3, size=200)
    calibrated = ft.calibrate(model, (x, y), coverage=0.8)
    print(calibrated.layers[-1].facts)
    ```

    Reference:

    - [Guo et al., 2017](https://arxiv.org/abs/1706.04599), scaling
    - [Geifman and El-Yaniv, 2017](https://arxiv.org/abs/1705.08500), the
      error of a model that abstains
    - [Sadinle et al., 2019](https://arxiv.org/abs/1609.00451), sets
    """
    check_model(model)
    _check(method, metric, coverage, error, conformal)
    if getattr(Task.of(model), "may_lack", False):
        options = (method, "temperature"), (coverage, None), (error, None)
        _check_answers(*options, (conformal, None))
        found = with_threshold(model, validation, metric or "f1")
        return compiled_like(found, model)
    plain, task = with_probabilities(_without_calibration(model), "calibrate")
    if not task.has_chances:
        refuse_unclear(model)
    activation = task.output_activation
    check_batched(validation, plain, "validation")
    if task.is_dense:
        _check_for_masks(metric, coverage, error, conformal)
        probabilities, labels = pixels_of(plain, validation, task)
    else:
        probabilities, labels, _ = predict_all(plain, validation, "validation")
        labels = task.labels(labels, "validation")
    # One sigmoid is calibrated as that of a label.
    labels = labels[:, None] if activation != task.activation else labels
    scale, bias = fit_scaling(probabilities, labels, method, activation)
    after = scaled(probabilities, scale, bias, activation, np)
    layer = Calibration(
        scale,
        bias,
        activation,
        thresholds=metric and decision_thresholds(after, labels, metric),
        name="calibration",
    )
    if coverage is not None or error is not None:
        layer.abstain_below = abstention_threshold(
            after, labels, layer, coverage, error
        )
    if conformal is not None:
        layer.conformal = conformal_threshold(after, labels, conformal)
    layer.facts = {
        "method": method,
        "examples": len(labels),
        "ece_before": top_label_ece(probabilities, labels),
        "ece_after": top_label_ece(after, labels),
        "metric": metric,
        "coverage": coverage,
        "error": error,
        "conformal": conformal,
    }
    calibrated = rebuild(plain, layer(plain.outputs[0]))
    keep_task(calibrated, vars(model).get("task"))
    return compiled_like(calibrated, model)


def _check_for_masks(*promises):
    if promises != (None,) * len(promises):
        raise ValueError(
            "Of masks the probabilities alone are calibrated, by pixel: pixels "
            "of one picture are no independent examples, which thresholds and "
            "promises need. Leave out `metric`, `coverage`, `error` and "
            f"`conformal`. Received: {promises}"
        )


def _check_answers(*options):
    if any(value != default for value, default in options):
        raise ValueError(
            "Of a `question_answerer` `calibrate` chooses from which "
            "probability on there is no answer, and takes `metric` alone: "
            '"f1", or "accuracy", the exact match.'
        )


def find_calibration(model):
    """Returns the last layer if it is a `Calibration`, or `None`."""
    layers = getattr(model, "layers", None) or [None]
    return layers[-1] if isinstance(layers[-1], Calibration) else None


def _check(method, metric, coverage, error, conformal):
    check(
        method=(method, one_of("temperature", "vector")),
        metric=(metric, one_of(None, "f1", "balanced_accuracy", "accuracy")),
        coverage=(coverage, maybe(share)),
        error=(error, maybe(part)),
        conformal=(conformal, maybe(part)),
    )
    shares = {"coverage": coverage, "error": error, "conformal": conformal}
    none = [name for name, value in shares.items() if value == 0]
    if none:
        raise ValueError(
            f"`{none[0]}` is a share of more than 0. Received: {none[0]}=0"
        )
    if coverage is not None and error is not None:
        raise ValueError(
            "Choose how often to decide, or how often to err: pass `coverage` "
            f"or `error`. Received: coverage={coverage}, error={error}"
        )


def _without_calibration(model):
    layer = find_calibration(model)
    if layer is None:
        return model
    step = graph.walk(model)[0][-1]
    inner = step.operation.input
    return rebuild(model, inner)


def with_probabilities(model, verb):
    """The same model with a softmax or sigmoids behind logits, and its task."""
    outputs = getattr(model, "outputs", None) or [None]
    task = Task.of(model)
    if not (task is not None and task.is_dense and verb == "calibrate"):
        check_shape(outputs if len(outputs) > 1 else outputs[0], verb)
    if task is None or task.logits is None:
        refuse_unclear(model)
    if not task.logits:
        return model, task
    kind = task.output_activation
    layer = keras.layers.Activation(kind, dtype="float32", name="probabilities")
    return rebuild(model, layer(outputs[0])), task


def compiled_like(calibrated, model):
    """Compiles it for `evaluate`, with metrics of its own."""
    if getattr(model, "compiled", False):
        config = model.get_compile_config() or {}
        config = _of_probabilities(config)
        config["optimizer"] = "sgd"
        calibrated.compile_from_config(config)
    return calibrated


def _of_probabilities(config):
    """Losses and metrics of logits, turned into those of probabilities."""
    if isinstance(config, (list, tuple)):
        return [_of_probabilities(part) for part in config]
    if not isinstance(config, dict):
        return config
    return {
        key: False if key == "from_logits" else _of_probabilities(part)
        for key, part in config.items()
    }
