"""Several models as one: averaged, selected or weighted on validation."""

import keras

from finetune_keras.arguments import check, list_of, one_of
from finetune_keras.results.member_weights import select, stack
from finetune_keras.results.members import Members, mean_loss
from finetune_keras.results.weighted_average import WeightedAverage

_METHODS = ("average", "greedy", "stacking")


def ensemble(models, validation=None, method="average"):
    """Makes one model of several that predict the same.

    Models that err in different ways are better together than the best of
    them alone. The result is an ordinary functional model with one output: it
    is evaluated, calibrated, bundled and saved as any other. It shares all
    weights with the models (those of a model that shares layers with another
    one are copied), and predicting takes as long as that of all members.

    Args:
        models: List of `keras.Model`s of one task, with the same classes in
            the same order and inputs of the same shape; only images may differ
            in size: the ensemble takes them as the first model does, and
            resizes them for the others. Each scales its pixels itself. Logits
            are made probabilities. Models that take texts must have the same
            tokeniser and `sequence_length`.
        validation: Data that the models were not trained on, as for
            `ft.evaluate`. Needed by all methods but `"average"`. Defaults to
            `None`.
        method: `"average"`, the mean of the probabilities or values;
            `"greedy"`, the mean of those that lower the log loss (squared
            error) on `validation`, chosen one after the other, the same one
            more than once if it helps; or `"stacking"`, one weight of at least
            0 for each model, by which the logarithms of its probabilities (or
            its values) are added up, fitted on `validation` with a prior of
            equal weights. With few examples the first is the safest. Defaults
            to `"average"`.

    Returns:
        A functional `keras.Model`. A model with a weight of 0 is no part of
        it. The last layer has `facts`: the method, the weight of each model,
        and with `validation` its loss alone and that of the ensemble there.

    Raises:
        ValueError: If the models differ in task, classes or inputs, a model
            tells no task, or `validation` is missing or does not fit.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    def classifier():
        inputs = keras.Input((4,))
        outputs = keras.layers.Dense(3, activation="softmax")(inputs)
        return keras.Model(inputs, outputs)

    keras.utils.set_random_seed(0)
    x, y = np.random.normal(size=(60, 4)), np.random.randint(3, size=60)
    models = [classifier() for _ in range(3)]
    together = ft.ensemble(models, (x, y), method="greedy")
    print(together.layers[-1].facts["weights"])
    calibrated = ft.calibrate(together, (x, y))
    ```

    Reference:

    - [Caruana et al., 2004](https://doi.org/10.1145/1015330.1015432), greedy
      selection
    - [Breiman, 1996](https://doi.org/10.1007/BF00117832), stacking with
      weights of at least 0
    """
    check(
        models=(models, list_of(keras.Model, "keras.Model")),
        method=(method, one_of(*_METHODS)),
    )
    if validation is None and method != "average":
        raise ValueError(
            f'`method="{method}"` chooses by data: pass `validation`, which '
            "the models were not trained on. Received: validation=None"
        )
    members = Members(list(models), "ensemble")
    outputs, held_out = members.outputs(), None
    if validation is not None:
        held_out = members.predictions(outputs, validation)
    weights = _weights(members.task, held_out, method, len(outputs))
    used = [i for i, weight in enumerate(weights) if weight > 0]
    layer = WeightedAverage(
        [weights[i] for i in used],
        members.task.output_activation,
        of_logits=method == "stacking" and members.task.has_chances,
        name="ensemble",
        dtype="float32",
    )
    layer.facts = _facts(members, held_out, method, weights, layer)
    outputs = layer([outputs[i] for i in used])
    return members.whole(outputs, "ensemble")


def _weights(task, held_out, method, count):
    if method == "average":
        return [1 / count] * count
    return {"greedy": select, "stacking": stack}[method](task, *held_out)


def _facts(members, held_out, method, weights, layer):
    names = [model.name for model in members.models]
    facts = {"method": method, "models": names, "weights": weights}
    if held_out is None:
        return facts
    outputs, labels, counts = held_out
    used = [x for x, weight in zip(outputs, weights, strict=True) if weight > 0]
    together = keras.ops.convert_to_numpy(layer(used))
    alone = [mean_loss(members.task, labels, x, counts) for x in outputs]
    loss = mean_loss(members.task, labels, together, counts)
    examples = len(labels)
    return {**facts, "examples": examples, "losses": alone, "loss": loss}
