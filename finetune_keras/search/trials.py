"""One trial: built, trained, judged, and kept in its folder."""

import json
import math
import os
import shutil
import tempfile
import time
import traceback
import warnings
import weakref

import keras
import numpy as np

from finetune_keras.data.atomic import replacing
from finetune_keras.data.pipeline import free_memory
from finetune_keras.engine.fit_state import compile_arguments, strategy_scope
from finetune_keras.engine.session import clear_session
from finetune_keras.models.freezing import TrainOnly
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.search.hypermodel import metrics_of
from finetune_keras.search.oracles import write_json
from finetune_keras.search.shared_data import drop_old
from finetune_keras.search.trial_file import RESULT, read_result
from finetune_keras.training.monitor import rises

MODEL, STARTS = "model.keras", "starts.json"
MAX_STARTS = 5


class Pristine:
    """Undoes what one trial did to weights that the next one gets too.

    A `build` that puts a new head on one backbone, made outside of it, would
    hand each trial what the one before has learnt.
    """

    def __init__(self):
        self.seen = {}

    def restore(self, model):
        """Gives variables seen before the values that they had then."""
        self.seen = {k: v for k, v in self.seen.items() if v[0]() is not None}
        for variable in model.variables:
            if id(variable) in self.seen:
                variable.assign(self.seen[id(variable)][1])
            else:
                value = np.array(keras.ops.convert_to_numpy(variable))
                self.seen[id(variable)] = weakref.ref(variable), value

    def undo(self):
        """Gives all variables that are still there their values back."""
        for reference, value in self.seen.values():
            variable = reference()
            if variable is not None:
                variable.assign(value)


class Trials:
    """Runs trials, one after the other, on the same data.

    `fit` are arguments of `fine_tune`, `callbacks` among them a function that
    makes them. Each execution starts from the seed and its number; `keep` of
    the best models of the search stay.
    """

    def __init__(
        self, hypermodel, data, fit, seed=1, executions=1, shared=None, keep=1
    ):
        self.hypermodel = hypermodel
        self.data = data
        self.fit = {**fit}
        self.callbacks = self.fit.pop("callbacks", None)
        self.seed = seed
        self.executions = executions
        self.shared = shared
        self.keep = keep
        self.budget = free_memory() // 3
        self.pristine = Pristine()

    def run(self, hp, folder, past=None):
        """Runs a trial, unless its folder has a result; returns that as a dict.

        `past` is the folder of the trial that it goes on with, or `None`.
        """
        result = read_result(folder)
        if result is not None:
            return result
        start = time.perf_counter()
        result = _given_up(folder) or self._attempt(hp, folder, past)
        result["seconds"] = time.perf_counter() - start
        result["values"] = plain(hp.values)
        if self.shared is not None:
            drop_old(self.shared, self.budget)
        write_json(folder / RESULT, result)
        return result

    def _attempt(self, hp, folder, past):
        runs = []
        try:
            for number in range(self.executions):
                runs.append(self._execute(hp, number, folder, past))
                best = self._best(runs)
                if best is runs[-1] and self._may_win(runs, folder):
                    self._keep_model(folder)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            text = traceback.format_exc()
            # The frames hold the model, and all that filled the memory.
            traceback.clear_frames(error.__traceback__)
            (folder / MODEL).unlink(missing_ok=True)
            return {"status": "failed", "reason": reason, "traceback": text}
        finally:
            self.model = None
            self.hypermodel.release()
        scores = [run["score"] for run in runs]
        _warn_of_equals(scores)
        return {
            "status": "completed",
            "score": float(np.mean(scores)),
            "scores": scores,
            "metrics": [run["metrics"] for run in runs],
            "best_epochs": [run["best_epoch"] for run in runs],
            "execution": runs.index(best),
            "plan": best["plan"],
        }

    def _best(self, runs):
        pick = max if rises(self.hypermodel.objective) else min
        return pick(runs, key=lambda run: run["score"])

    def _may_win(self, runs, folder):
        """Tells whether a model may be among the best, and is to be saved."""
        if len(runs) < self.executions:
            return True
        rising = rises(self.hypermodel.objective)
        score = float(np.mean([run["score"] for run in runs]))
        others = ranked_trials(folder.parent, rising)
        here = [*others, (score, folder)]
        return (score, folder) in ranked(here, rising)[: self.keep]

    def _execute(self, hp, number, folder, past):
        self.model = None
        self.hypermodel.release()
        # Names of layers are counted from the same start in each trial. What
        # is left of the one before is collected here too.
        clear_session()
        keras.utils.set_random_seed(self.seed + number)
        model = self.hypermodel.build(hp)
        if isinstance(model, keras.Model):
            self.pristine.restore(model)
        # `build` may have set a seed of its own, the same each time.
        keras.utils.set_random_seed(self.seed + number)
        options = self._options(hp, number, folder, past)
        plan, history = self.hypermodel.train(hp, model, *self.data, **options)
        value = history.best_value
        if value is None or not math.isfinite(value):
            raise FloatingPointError(
                f"{self.hypermodel.objective} is no number in any epoch"
            )
        set_flags_of_best(model, plan, history)
        self.model = model
        return {
            "score": float(value),
            "metrics": metrics_of(history),
            "best_epoch": history.best_epoch,
            "plan": plan.to_dict(),
        }

    def _options(self, hp, number, folder, past):
        options = {"verbose": 0, **self.fit}
        if self.callbacks is not None:
            options["callbacks"] = self.callbacks()
        if self.shared is not None:
            cache = options.get("cache", "auto")
            cache = cache if isinstance(cache, dict) else {"storage": cache}
            options["cache"] = {"shared": self.shared, **cache}
        if "tuner/epochs" in hp.values:
            run = folder / f"run{number}"
            if past is not None and not run.exists():
                copy_whole(past / f"run{number}", run)
            options["checkpoint_dir"] = run
            options["stop_after"] = hp.values["tuner/epochs"]
        return options

    def _keep_model(self, folder):
        with replacing(folder / MODEL) as file:
            self.model.save(file.name)


def _warn_of_equals(scores):
    if len(scores) > 1 and len(set(scores)) == 1:
        warnings.warn(
            f"All {len(scores)} executions of the trial have the score "
            f"{scores[0]:.6g}: nothing in it is random, or `build` gives what "
            "is random a seed of its own. They tell no more than one does.",
            UserWarning,
            stacklevel=2,
        )


def _given_up(folder):
    """Counts how often a trial was begun; too often is a failure.

    The system kills a process that takes all memory without a word to it.
    """
    path = folder / STARTS
    count = int(path.read_text()) if path.exists() else 0
    write_json(path, count + 1)
    if count < MAX_STARTS:
        return None
    reason = (
        f"The process ended {count} times while this trial ran, perhaps for "
        "want of memory"
    )
    return {"status": "failed", "reason": reason, "traceback": ""}


def set_flags_of_best(model, plan, history):
    """Leaves a model that was trained as it was in its best epoch, to be saved.

    It gets a new optimizer, since the state of the last phase has no meaning
    with the flags of another.
    """
    rows = [r for r in history.epochs if r["epoch"] == history.best_epoch]
    phase = plan[rows[0]["phase"] if rows else 0]
    groups = layer_groups(model)
    TrainOnly(groups)(phase.select(groups), phase.batch_norm)
    arguments = compile_arguments(model)
    with strategy_scope(model):
        optimizer = model.optimizer
        optimizer = optimizer.from_config(optimizer.get_config())
        model.compile(**{**arguments, "optimizer": optimizer})
        optimizer.build(model.trainable_variables)


def copy_whole(source, target):
    """Copies a folder, so that there is all of it or none."""
    for left in target.parent.glob(f"{target.name}.*.new"):
        shutil.rmtree(left, ignore_errors=True)
    part = tempfile.mkdtemp(".new", f"{target.name}.", target.parent)
    shutil.copytree(source, part, symlinks=True, dirs_exist_ok=True)
    os.replace(part, target)


def drop_models(folder, rising, keep):
    """Deletes the models of all but the best trials."""
    for _, trial in ranked_trials(folder, rising)[keep:]:
        (trial / MODEL).unlink(missing_ok=True)


def ranked_trials(folder, rising):
    """Lists `(score, folder)` of the completed trials, the best first."""
    found = []
    for path in folder.glob(f"trial_*/{RESULT}"):
        result = read_result(path.parent)
        if result["status"] == "completed":
            found.append((result["score"], path.parent))
    return ranked(found, rising)


def ranked(pairs, rising):
    """Sorts `(score, folder)`: the best score first, then by number."""

    def key(pair):
        score, folder = pair
        number = int(folder.name.removeprefix("trial_"))
        return -score if rising else score, number

    return sorted(pairs, key=key)


def plain(values):
    """Returns values of a trial as JSON has them."""
    return json.loads(json.dumps(values, default=lambda v: v.item()))
