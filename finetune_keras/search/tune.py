"""`tune`: a search over plans and models, by KerasTuner's algorithms."""

import contextlib
import inspect
import pathlib

from finetune_keras.cache.shared_activations import SharedActivations
from finetune_keras.engine.packages import keras_tuner
from finetune_keras.search.checks import check_search, settle_epochs
from finetune_keras.search.explorer import Explorer
from finetune_keras.search.folder import claim, empty, facts_of, in_use
from finetune_keras.search.hypermodel import FineTuneHyperModel
from finetune_keras.search.oracles import make_oracle
from finetune_keras.search.result import Search
from finetune_keras.search.shared_data import in_memory
from finetune_keras.search.space import SearchSpace
from finetune_keras.search.trials import Trials
from finetune_keras.search.tuner import FineTuneTuner, is_chief
from finetune_keras.training.monitor import rises


def tune(
    build,
    train,
    validation,
    space=None,
    algorithm="bayesian",
    max_trials=30,
    directory="search",
    executions_per_trial=1,
    objective=None,
    seed=1,
    max_epochs=None,
    keep=5,
    share=True,
    overwrite=False,
    callbacks=None,
    cache="auto",
    batch_size=None,
    class_weight=None,
    shuffle=True,
    steps_per_epoch=None,
    validation_steps=None,
    validation_batch_size=None,
    validation_freq=1,
    verbose=1,
    **own,
):
    """Searches for the plan and the model that do best on validation data.

    Each trial builds a new model, runs its plan by `fine_tune`, and is scored
    by its best epoch over all phases, whose weights are kept. What to try next
    is KerasTuner's choice. Data is decoded once, and what frozen layers make
    of it computed once, for all trials. A trial that fails is a row of the
    table with its reason. The same call goes on where it was killed.

    Several processes share the trials where KerasTuner's environment variables
    say so: `KERASTUNER_TUNER_ID` (`"chief"`, or a name of the worker),
    `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`; `directory` is one that
    all of them see.

    Args:
        build: Function from `hp`, a `keras_tuner.HyperParameters`, to a new
            `keras.Model`, compiled or not, or to a model and its `Plan`; or a
            `FineTuneHyperModel`.
        train: Training data, as in `fine_tune`.
        validation: Validation data, as in `fine_tune`.
        space: A `SearchSpace`. Defaults to `None`: that of the
            `FineTuneHyperModel`; none where `build` returns a plan, since it
            declares what varies by `hp.Choice` and the like; or
            `search_space()`.
        algorithm: `"bayesian"`, `"random"`, `"grid"` or `"hyperband"`. The
            first trial of all but the last has the first value of each part.
            Defaults to `"bayesian"`.
        max_trials: Integer, how many trials at most. A finished search goes on
            with a higher number. Defaults to `30`.
        directory: String, folder of the search. Defaults to `"search"`.
        executions_per_trial: Integer, how often to run each trial, from
            different seeds; the score is the mean. Defaults to `1`.
        objective: String, a metric with `val_`. Its name says whether it is
            to rise (accuracy, AUC) or to fall (error). A loss contains the
            penalties `l1` and `l2`. Defaults to `None`: `"val_loss"`, or that
            of the `FineTuneHyperModel`.
        seed: Positive integer. Defaults to `1`.
        max_epochs: Integer, the epochs of Hyperband's longest trials; for it
            alone. Defaults to `None`, the most that the space has.
        keep: Integer, how many of the best models stay on disk. Defaults to
            `5`.
        share: Boolean, whether trials share activations. Defaults to `True`.
        overwrite: Boolean, whether to delete the search that is in the folder.
            Defaults to `False`.
        callbacks: Function without arguments that makes the list for one run,
            since callbacks remember what they have seen. Defaults to `None`.
        cache, batch_size, class_weight, shuffle, steps_per_epoch: As in
            `fine_tune`, for each trial.
        validation_steps, validation_batch_size, validation_freq: As in
            `fine_tune`, for each trial.
        verbose: 0 or 1, a line a trial. Defaults to `1`.
        **own: Further arguments of a `train` of your own.

    Returns:
        A `Search`.

    Raises:
        ValueError: If an argument is out of range or unknown, what a trial is
            made of does not fit together, or the folder holds another search,
            or is in use.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 4)) + y[:, None]

    def build(hp):
        body = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
        return ft.replace_head(body, 2, **ft.model_options(hp))

    space = ft.search_space(groups=0, epochs=1, batch_size=20, dropout=True)
    print(space)
    search = ft.tune(build, (x, y), (x, y), space, "random", max_trials=2,
                     directory="search")
    print(search.table())
    model, plan = search.best()
    ```

    Reference:

    - [Snoek et al., 2012](https://arxiv.org/abs/1206.2944), Bayesian search
    - [Li et al., 2018](https://jmlr.org/papers/v18/16-558.html), Hyperband
    """
    settings = {
        "algorithm": algorithm,
        "max_trials": max_trials,
        "executions_per_trial": executions_per_trial,
        "objective": objective,
        "seed": seed,
        "max_epochs": max_epochs,
        "keep": keep,
        "share": share,
        "overwrite": overwrite,
        "verbose": verbose,
    }
    fit = {
        "callbacks": callbacks,
        "cache": cache,
        "batch_size": batch_size,
        "class_weight": class_weight,
        "shuffle": shuffle,
        "steps_per_epoch": steps_per_epoch,
        "validation_steps": validation_steps,
        "validation_batch_size": validation_batch_size,
        "validation_freq": validation_freq,
    }
    options = {**_not_by_default(fit), **own}
    folder = pathlib.Path(directory).absolute()
    with _hypermodel(build, space, objective) as hypermodel:
        check_search(hypermodel, settings, options, train, validation)
        settle_epochs(hypermodel, settings)
        with in_use(folder):
            _search(hypermodel, (train, validation), folder, settings, options)
    return Search(folder)


def _not_by_default(arguments):
    """What a person has chosen: the rest says nothing of a search."""
    defaults = inspect.signature(tune).parameters
    return {
        name: value
        for name, value in arguments.items()
        if type(value) is not type(defaults[name].default)
        or value != defaults[name].default
    }


def _search(hypermodel, data, folder, settings, options):
    """Checks what is left, and only then writes to the folder."""
    own_data = type(hypermodel).data is not FineTuneHyperModel.data
    given = data
    if own_data or not is_chief():
        data = tuple(map(in_memory, data))
    trials = _trials(hypermodel, data, settings, options)
    oracle = _oracle(hypermodel, settings)
    declared = Explorer(trials).explore(oracle)
    # A name that is misspelt was told as such before.
    oracle.objective.direction = _direction(hypermodel.objective)
    facts = facts_of(hypermodel, settings, options, given, declared)
    if settings["overwrite"]:
        empty(folder)
    claim(folder, facts)
    try:
        FineTuneTuner(oracle, trials, folder, settings["verbose"]).search()
    finally:
        trials.pristine.undo()


@contextlib.contextmanager
def _hypermodel(build, space, objective):
    """Makes the hypermodel; the user's own is left as it was."""
    if isinstance(build, type) and issubclass(build, FineTuneHyperModel):
        build = build()
    if space is not None and not isinstance(space, SearchSpace):
        raise ValueError(
            "`space` must be what `ft.search_space(...)` returns. "
            f"Received: space={space!r}"
        )
    if not isinstance(build, FineTuneHyperModel):
        build = FineTuneHyperModel(build)
    given = build.space, build.objective
    build.space = build.default_space() if space is None else space
    build.objective = objective or build.objective
    try:
        yield build
    finally:
        build.space, build.objective = given


def _oracle(hypermodel, settings):
    return make_oracle(
        settings["algorithm"],
        keras_tuner.Objective(hypermodel.objective, "min"),
        settings["max_trials"],
        settings["seed"],
        settings["max_epochs"],
    )


def _direction(objective):
    try:
        return "max" if rises(objective) else "min"
    except ValueError as error:
        raise ValueError(
            "Whether the objective is to rise or to fall cannot be told from "
            "its name. Give the metric one that says so, such as "
            f'"accuracy" or "error". Received: objective={objective!r}'
        ) from error


def _trials(hypermodel, data, settings, options):
    shared = SharedActivations() if settings["share"] else None
    return Trials(
        hypermodel,
        data,
        options,
        settings["seed"],
        settings["executions_per_trial"],
        shared,
        settings["keep"],
    )
