"""Which run it is: all that its result hangs on, as plain data."""

import inspect
import numbers

import keras

from finetune_keras.engine import backend, graph
from finetune_keras.engine.fit_state import compile_arguments
from finetune_keras.engine.layers import decays_weight
from finetune_keras.engine.start_counts import family
from finetune_keras.training.compiled import sets_rates
from finetune_keras.training.described import describe, digest

_COMPILED = (
    "loss",
    "loss_weights",
    "metrics",
    "weighted_metrics",
    "auto_scale_loss",
)
_FITTED = (
    "class_weight",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)
# Callbacks of Keras that change what a run ends with.
_ACTING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
)


def facts_of(model, plan, data, cache, fit, callbacks, monitor):
    """Returns all that the result of a run hangs on, as plain data.

    Weights and random states are not among them: they are in its state. Nor
    is what changes no result, such as `verbose`, where activations are kept,
    or how many steps are done at once.
    """
    compiled, (train, validation) = compile_arguments(model), data
    return {
        "backend": backend.name(),
        "plan": plan.to_dict(),
        "model": describe_model(model),
        "optimizer": _describe_optimizer(model, sets_rates(plan)),
        **{name: describe(compiled.get(name)) for name in _COMPILED},
        **{name: describe(fit.get(name)) for name in _FITTED},
        "shuffle": fit.get("shuffle", True),
        "batch_size": train.batch_size,
        "cache": {name: cache[name] for name in ("dtype", "views")},
        "callbacks": _describe_callbacks(callbacks),
        "monitor": monitor,
        "train": describe_data(train),
        "validation": describe_data(validation),
    }


# === The model ===


def describe_model(model):
    """Describes a model by its layers, how they are joined, and its weights.

    Names that Keras counts, flags and the values of weights play no part.
    """
    layers = [x for x in graph.all_layers(model) if not graph.graph_of(x)]
    return {
        "layers": [_describe_layer(layer) for layer in layers],
        "graph": graph.graph_of(model) and _describe_graph(model),
        "weights": digest(
            [f"{v.name} {tuple(v.shape)} {v.dtype}" for v in model.weights]
        ),
    }


def _describe_layer(layer):
    found = describe(layer)
    found = _nameless({"trainable": None, **found})
    # Those without a config of their own show what Keras has set.
    return {k: v for k, v in found.items() if k not in ("built", "stateful")}


def _nameless(config):
    """Takes the names of layers out of configs, at any depth."""
    if isinstance(config, list):
        return [_nameless(part) for part in config]
    if not isinstance(config, dict):
        return config
    # What has a dtype by name has no flag.
    hidden = ("name", "trainable") if "trainable" in config else ()
    return {k: _nameless(v) for k, v in config.items() if k not in hidden}


def _describe_graph(model):
    steps, _, outputs = graph.walk(model)
    return digest([repr(outputs), *map(_describe_step, steps)])


def _describe_step(step):
    operation = step.operation
    known = isinstance(operation, keras.layers.Layer)
    settings = None if known else describe(operation, ("name",))
    given = [
        describe(argument)
        for argument in step.arguments
        if not isinstance(argument, keras.KerasTensor)
    ]
    return repr([type(operation).__name__, step.inputs, settings, given])


# === How it trains ===


def _describe_optimizer(model, by_depth):
    places = {v.path: f"weight {i}" for i, v in enumerate(model.weights)}
    return [
        _describe_member(member, model, places, by_depth)
        for member in family(model.optimizer)
    ]


def _describe_member(optimizer, model, places, by_depth):
    config = optimizer.get_config()
    for name in ("name", "built_on", "inner_optimizer"):
        config.pop(name, None)
    if by_depth:
        config.pop("multipliers", None)
    # Plans and callbacks set a rate; the run compares it by itself.
    if isinstance(config.get("learning_rate"), numbers.Real):
        del config["learning_rate"]
    if config.get("weight_decay"):
        config["decayed"] = digest(
            [str(decays_weight(optimizer, v)) for v in model.weights]
        )
    for name, value in config.items():
        if isinstance(value, dict):
            value = {places.get(k, k): v for k, v in value.items()}
        if isinstance(value, list):
            value = [places.get(str(v), v) for v in value]
        config[name] = value
    return {"class": type(optimizer).__name__, **describe(config)}


def _describe_callbacks(callbacks):
    found = []
    for callback in callbacks:
        if not isinstance(callback, _ACTING):
            continue
        names = inspect.signature(type(callback).__init__).parameters
        settings = {
            name: describe(value)
            for name, value in vars(callback).items()
            if name in names and name != "verbose"
        }
        if "min_delta" in settings:
            # Keras turns its sign once it knows which way is better.
            settings["min_delta"] = abs(settings["min_delta"])
        found.append({"class": type(callback).__name__, **settings})
    return found


# === Data ===


def describe_data(inputs):
    """Describes `Inputs`: arrays and texts by all that is in them.

    Of data that are read from files, or made on the way, it is the number of
    batches, their form and the first batch, where that is always the same.
    Datasets of this library know the contents that they were made of.
    """
    if inputs is None:
        return None
    return inputs.given.facts(digest)
