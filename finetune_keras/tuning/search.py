"""`tune`: a search over plans and models, by KerasTuner's algorithms."""

import contextlib
import json
import os
import pathlib
import shutil
import warnings

import keras_tuner

from finetune_keras.training.callbacks import is_rising
from finetune_keras.training.phase import nearest
from finetune_keras.training.shared_activations import SharedActivations
from finetune_keras.tuning.hypermodel import FineTuneHyperModel
from finetune_keras.tuning.oracles import make_oracle, write_json
from finetune_keras.tuning.parts import largest_epochs
from finetune_keras.tuning.result import Search
from finetune_keras.tuning.shared_data import describe, in_memory
from finetune_keras.tuning.space import SearchSpace
from finetune_keras.tuning.trials import Trials
from finetune_keras.tuning.tuner import OVER, FineTuneTuner, is_chief

ALGORITHMS = ("bayesian", "random", "grid", "hyperband")
FACTS = "search.json"


def tune(
    build,
    train,
    validation,
    space=None,
    algorithm="bayesian",
    max_trials=30,
    directory="search",
    **options,
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
            `keras.Model`, compiled or not; or a `FineTuneHyperModel`.
        train: Training data, as in `fine_tune`.
        validation: Validation data, as in `fine_tune`.
        space: A `SearchSpace`. Defaults to `None`: that of the
            `FineTuneHyperModel`, or `search_space()`.
        algorithm: `"bayesian"`, `"random"`, `"grid"` or `"hyperband"`. The
            first trial of all but the last has the first value of each part.
            Defaults to `"bayesian"`.
        max_trials: Integer, how many trials at most. A finished search goes on
            with a higher number. Defaults to `30`.
        directory: String, folder of the search. Defaults to `"search"`.
        **options:
            - `executions_per_trial`: Integer, how often to run each trial,
              from different seeds; the score is the mean. Defaults to `1`.
            - `objective`: String, a metric with `val_`. It is to rise if its
              name says accuracy, AUC and the like. Defaults to `"val_loss"`.
            - `seed`: Positive integer. Defaults to `1`.
            - `max_epochs`: Integer, the epochs of Hyperband's longest trials.
              Defaults to the most that the space has.
            - `keep`: Integer, how many of the best models stay on disk.
              Defaults to `5`.
            - `share`: Boolean, whether trials share activations. Defaults to
              `True`.
            - `overwrite`: Boolean, whether to delete the search that is in the
              folder. Defaults to `False`.
            - `verbose`: 0 or 1, a line a trial. Defaults to `1`.
            - `callbacks`: Function without arguments that makes the list for
              one run, since callbacks remember what they have seen.
            - All others are for `fine_tune`, such as `class_weight`.

    Returns:
        A `Search`.

    Raises:
        ValueError: If an argument is out of range, or the folder holds another
            search.

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
    settings = {name: options.pop(name, v) for name, v in _OPTIONS.items()}
    settings.update(algorithm=algorithm, max_trials=max_trials)
    with _hypermodel(build, space, settings["objective"]) as hypermodel:
        _check(settings, options)
        _settle_epochs(hypermodel, settings)
        folder = pathlib.Path(directory).absolute()
        if settings["overwrite"]:
            _empty(folder)
        _claim(folder, _facts(hypermodel, settings, train, validation))
        data = (train, validation)
        if not is_chief():
            data = tuple(map(in_memory, data))
        trials = _trials(hypermodel, data, settings, options)
        oracle = _oracle(hypermodel, settings)
        FineTuneTuner(oracle, trials, folder, settings["verbose"]).search()
    return Search(folder)


_OPTIONS = {
    "executions_per_trial": 1,
    "objective": None,
    "seed": 1,
    "max_epochs": None,
    "keep": 5,
    "share": True,
    "overwrite": False,
    "verbose": 1,
}


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
    build.space = build.space if space is None else space
    build.objective = objective or build.objective
    try:
        yield build
    finally:
        build.space, build.objective = given


def _check(settings, options):
    algorithm = settings["algorithm"]
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"`algorithm` must be one of {list(ALGORITHMS)}."
            f"{nearest(algorithm, ALGORITHMS)} Received: {algorithm!r}"
        )
    for name in ("max_trials", "executions_per_trial", "seed", "keep"):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be a positive integer. "
                f"Received: {name}={value!r}"
            )
    callbacks = options.get("callbacks")
    if callbacks is not None and not callable(callbacks):
        raise ValueError(
            "`callbacks` must be a function that makes the list for one run: "
            "callbacks remember what they have seen, and would take it from "
            "one trial to the next. Received: "
            f"callbacks={callbacks!r}"
        )
    if settings["overwrite"] and "KERASTUNER_ORACLE_IP" in os.environ:
        raise ValueError(
            "Chief and workers would delete each other's trials. Empty the "
            "folder by hand before they start. Received: overwrite=True"
        )


def _settle_epochs(hypermodel, settings):
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


def _facts(hypermodel, settings, train, validation):
    names = ("algorithm", "seed", "executions_per_trial", "max_epochs")
    facts = {name: settings[name] for name in names}
    facts["objective"] = hypermodel.objective
    facts["space"] = hypermodel.space.to_dict()
    facts["train"], facts["validation"] = describe(train), describe(validation)
    return json.loads(json.dumps(facts))


def _claim(folder, facts):
    """Makes the folder of a search, or goes on with the same one."""
    path = folder / FACTS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
        return
    old = json.loads(path.read_text())
    different = [name for name in facts if old.get(name) != facts[name]]
    if different:
        raise ValueError(
            "The folder holds another search: "
            f"{' and '.join(different)} differ. Go on with the same, give "
            "this one a folder of its own, or pass `overwrite=True`. "
            f"Received: directory={str(folder)!r}"
        )


def _empty(folder):
    """Deletes a search, and nothing else that may be in its folder."""
    for path in folder.glob("trial_*"):
        shutil.rmtree(path)
    for name in (FACTS, OVER, "oracle.json", "tuner0.json"):
        (folder / name).unlink(missing_ok=True)


def _oracle(hypermodel, settings):
    objective = hypermodel.objective
    return make_oracle(
        settings["algorithm"],
        keras_tuner.Objective(
            objective, "max" if is_rising(objective) else "min"
        ),
        settings["max_trials"],
        settings["seed"],
        settings["max_epochs"],
    )


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
