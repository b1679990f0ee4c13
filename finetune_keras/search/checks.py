"""What `tune` refuses before it begins."""

import inspect
import os
import warnings

from finetune_keras.arguments import check, integer, maybe, nearest, one_of
from finetune_keras.cache.activation_store import cache_options
from finetune_keras.data.source import kind_of
from finetune_keras.data.source_batches import Generator
from finetune_keras.data.source_examples import Arrays
from finetune_keras.search.distribution import workers_named
from finetune_keras.search.hypermodel import FineTuneHyperModel
from finetune_keras.search.parts import largest_epochs
from finetune_keras.training.data_checks import check_tuple
from finetune_keras.training.fine_tune import fine_tune

ALGORITHMS = ("bayesian", "random", "grid", "hyperband")
_POSITIVE = ("max_trials", "executions_per_trial", "seed", "keep")
# Arguments of `fine_tune` and of `fit` that a search gives itself.
_ITS_OWN = {
    "checkpoint_dir": "the folder of a trial is in `directory`",
    "epochs": "epochs are the plan's",
    "initial_epoch": "epochs are the plan's",
    "monitor": "the metric that decides is `objective`",
    "sample_weight": "weights are part of the data: (x, y, sample_weight)",
    "stop_after": "epochs are the plan's",
    "validation_data": "it is the argument `validation`",
    "validation_split": "pass `validation`",
}


def check_search(hypermodel, settings, options, train, validation):
    """Checks the arguments of `tune`.

    Args:
        hypermodel: A `FineTuneHyperModel`.
        settings: Dict, arguments of `tune` itself.
        options: Dict, those for `fine_tune`.
        train: Training data.
        validation: Validation data.

    Raises:
        ValueError: If one is out of range.
    """
    _check_settings(settings)
    _check_objective(hypermodel, options, validation)
    _check_names(hypermodel, options)
    _check_options(hypermodel, options)
    _check_data(hypermodel, options, train, validation)
    _check_processes(settings)


def _check_settings(settings):
    algorithm = settings["algorithm"]
    counts = {name: (settings[name], integer(1)) for name in _POSITIVE}
    most = settings["max_epochs"], maybe(integer(1))
    check(algorithm=(algorithm, one_of(*ALGORITHMS)), max_epochs=most, **counts)
    if settings["max_epochs"] is not None and algorithm != "hyperband":
        raise ValueError(
            "`max_epochs` is for Hyperband alone. Elsewhere epochs are the "
            "plan's: a part of the space, or of your own `plan`. "
            f"Received: max_epochs={settings['max_epochs']!r}"
        )


def _check_objective(hypermodel, options, validation):
    objective = hypermodel.objective
    if not isinstance(objective, str):
        name = getattr(objective, "name", "val_accuracy")
        raise ValueError(
            f"`objective` must be the name of a metric, such as {name!r}; "
            "whether it is to rise follows from it. "
            f"Received: objective={objective!r}"
        )
    # A callback or a `train` of one's own may report anything.
    own = type(hypermodel).train is not FineTuneHyperModel.train
    if not (own or options.get("callbacks") or validation is None):
        check_is_validated(objective)
    parts = hypermodel.space.parts
    penalties = [n for n in ("l1", "l2") if _varies(parts.get(n))]
    if objective.endswith("loss") and penalties:
        warnings.warn(
            f"The loss contains the penalty, so a search of {penalties} by "
            f"{objective!r} prefers the smallest. Use a metric, such as "
            'objective="val_accuracy".',
            stacklevel=4,
        )


def check_is_validated(objective):
    """Refuses a metric of training, by which a search finds who memorises."""
    if not objective.startswith("val_"):
        raise ValueError(
            f"`objective` {objective!r} is measured on the training data, "
            "which a search would reward for being memorised. Name that of "
            f"validation, 'val_{objective}'. Received: objective={objective!r}"
        )


def _varies(values):
    return isinstance(values, tuple) or len(values or ()) > 1


def _check_names(hypermodel, options):
    """Refuses options that nobody knows, before each trial fails of them."""
    known = set(inspect.signature(fine_tune).parameters)
    known |= set(inspect.signature(hypermodel.train).parameters)
    known -= {"self", "hp", "model", "plan", "fit"}
    for name in options:
        if name in _ITS_OWN:
            raise ValueError(
                f"A search gives `{name}` itself: {_ITS_OWN[name]}. "
                f"Received: {name}={options[name]!r}"
            )
        if name not in known:
            raise ValueError(
                "Neither `tune` nor `train` has such an argument."
                f"{nearest(name, sorted({*known, *_POSITIVE}))} "
                f"Received: {name}={options[name]!r}"
            )


def _check_options(hypermodel, options):
    callbacks = options.get("callbacks")
    if callbacks is not None and not callable(callbacks):
        raise ValueError(
            "`callbacks` must be a function that makes the list for one run: "
            "callbacks remember what they have seen, and would take it from "
            "one trial to the next. Received: "
            f"callbacks={callbacks!r}"
        )
    cache_options(options.get("cache", "auto"))
    if "batch_size" in options and "batch_size" in hypermodel.space:
        raise ValueError(
            "The search space has batch sizes, which would take the place of "
            "this one. Leave it out there: `ft.search_space(..., "
            "batch_size=False)`. "
            f"Received: batch_size={options['batch_size']!r}"
        )


def _check_data(hypermodel, options, train, validation):
    own = type(hypermodel).data is not FineTuneHyperModel.data
    if validation is None and not own:
        raise ValueError(
            "A search judges by validation data. Hold some out, as "
            "`validation_split` of `ft.image_folder` does. "
            "Received: validation=None"
        )
    steps = {"train": "steps_per_epoch", "validation": "validation_steps"}
    for name, data in (("train", train), ("validation", validation)):
        if kind_of(data) is Arrays:
            check_tuple(data, name)
        if kind_of(data) is Generator and steps[name] not in options:
            raise ValueError(
                f"`{name}` is a generator, which the first trial would "
                "exhaust. Pass arrays, a `tf.data.Dataset` or a "
                "`keras.utils.PyDataset`. "
                f"Received: {name}={data!r}"
            )


def _check_processes(settings):
    if settings["overwrite"] and "KERASTUNER_ORACLE_IP" in os.environ:
        raise ValueError(
            "Chief and workers would delete each other's trials. Empty the "
            "folder by hand before they start. Received: overwrite=True"
        )
    if len(workers_named()) > 1:
        raise ValueError(
            "TF_CONFIG names several workers of one model, and each would "
            "search for itself in the same folder. Unset it; to share the "
            "trials among processes, set KerasTuner's variables. "
            f"Received: TF_CONFIG={os.environ['TF_CONFIG']!r}"
        )


def settle_epochs(hypermodel, settings):
    """Leaves the number of epochs to Hyperband; warns of a cut grid."""
    space, most = hypermodel.space, settings["max_epochs"]
    if settings["algorithm"] == "hyperband":
        most = most or largest_epochs(space)
        if most is None:
            raise ValueError(
                "Hyperband must know how long its longest trials are. Pass "
                "`max_epochs`, the epochs of your plan. Received: "
                "max_epochs=None"
            )
        if "epochs" in space:
            hypermodel.space = space.change(epochs=most)
        settings["max_epochs"] = most
    grid, most = space.combinations(points=11), settings["max_trials"]
    if settings["algorithm"] == "grid" and grid > most:
        warnings.warn(
            f"The grid has {grid:,} points, and `max_trials` is {most}: the "
            "first parts of the space would hardly vary. Narrow it, or use "
            'algorithm="random".',
            stacklevel=3,
        )
