"""KerasTuner's oracles, with a state on disk that outlives a kill.

What to try next is KerasTuner's alone. Of 1.4.8 this mends: files that a kill
leaves half written; a trial that had ended, or not begun, when it came; the
place in the grid and the random state of the Bayesian search, which are not
kept; trials of live workers, which a new chief would give to others too; the
score of a trial, told to a chief that is killed before the trial has ended.
"""

import functools
import json
import os

import numpy as np

from finetune_keras.data.atomic import write_text
from finetune_keras.engine.packages import keras_tuner
from finetune_keras.search.trial_file import read_result

ENDED = ("COMPLETED", "FAILED")


def write_json(path, data):
    """Writes a file whole, or leaves the old one."""
    write_text(path, json.dumps(data))


class Durable:
    """Mixin of an oracle: what is on disk can be gone on with."""

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        folder = self._get_trial_dir(trial.trial_id)
        write_json(os.path.join(folder, "trial.json"), trial.get_state())

    def reload(self):
        if not os.path.exists(self._get_oracle_fname()):
            return
        super().reload()
        with open(self._get_oracle_fname()) as file:
            ongoing = json.load(file)["ongoing_trials"]
        self._forget_unbegun()
        self._retry_queue = []
        for trial_id in sorted(self.trials):
            if self.trials[trial_id].status in ENDED:
                if trial_id not in self.end_order:
                    self.end_order.append(trial_id)
        for tuner_id, trial_id in ongoing.items():
            if trial_id in self.end_order:
                continue
            _forget_metrics(self.trials[trial_id])
            if "KERASTUNER_ORACLE_IP" in os.environ:
                # A worker that still runs it, or is started again, reports.
                self.ongoing_trials[tuner_id] = self.trials[trial_id]
            else:
                self._retry_queue.append(trial_id)

    def _forget_unbegun(self):
        """Forgets a trial that the state on disk does not know yet."""
        for trial_id in set(self.trials) - set(self.start_order):
            del self.trials[trial_id]
            folder = self._get_trial_dir(trial_id)
            os.remove(os.path.join(folder, "trial.json"))

    @keras_tuner.synchronized
    def create_trial(self, tuner_id):
        # A worker that comes back reports the trial that it had again.
        if tuner_id in self.ongoing_trials:
            _forget_metrics(self.ongoing_trials[tuner_id])
        return super().create_trial(tuner_id)

    @keras_tuner.synchronized
    def end_trial(self, trial):
        # A worker that lost the chief in between reports again.
        if trial.trial_id not in self.end_order:
            if trial.status == "COMPLETED":
                self._know_score(trial.trial_id)
            super().end_trial(trial)
            return
        for tuner_id, ongoing in list(self.ongoing_trials.items()):
            if ongoing.trial_id == trial.trial_id:
                del self.ongoing_trials[tuner_id]

    def _know_score(self, trial_id):
        """Reads the score that a worker told a chief who is gone."""
        name, trial = self.objective.name, self.trials[trial_id]
        if not trial.metrics.exists(name):
            result = read_result(self._get_trial_dir(trial_id))
            trial.metrics.register(name, self.objective.direction)
            trial.metrics.update(name, result["score"])


def _forget_metrics(trial):
    trial.metrics = type(trial.metrics)()


class FirstTheDefault:
    """Mixin of an oracle: the first trial has the default values."""

    def populate_space(self, trial_id):
        if self.start_order:
            return super().populate_space(trial_id)
        space = self.get_space()
        values = {
            hp.name: hp.default for hp in space.space if space.is_active(hp)
        }
        return {"status": "RUNNING", "values": values}


class RandomOracle(
    Durable, FirstTheDefault, keras_tuner.oracles.RandomSearchOracle
):
    """Random search."""


class BayesianOracle(
    Durable, FirstTheDefault, keras_tuner.oracles.BayesianOptimizationOracle
):
    """Bayesian optimization."""

    def populate_space(self, trial_id):
        # The same proposal in a search that was killed before it.
        seed = self.seed + len(self.trials)
        self._random_state = np.random.RandomState(seed)
        found = super().populate_space(trial_id)
        if found["values"] and self._duplicate(found["values"]):
            return self._random_populate_space()
        return found


class GridOracle(Durable, keras_tuner.oracles.GridSearchOracle):
    """Grid search."""

    def populate_space(self, trial_id):
        try:
            return super().populate_space(trial_id)
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]!r} is declared in some trials and not in "
                "others, which the grid cannot order. Declare it where it "
                "counts under `with hp.conditional_scope(parent, values):`"
            ) from error

    def reload(self):
        super().reload()
        ranked = sorted(self.start_order, key=functools.cmp_to_key(self._order))
        self._ordered_ids = type(self._ordered_ids)()
        for trial_id in ranked:
            self._ordered_ids.insert(trial_id)
        # Where the next one was tried, the oracle passes over it.
        self._populate_next = list(self.start_order)

    def _order(self, one, other):
        one, other = (self.trials[t].hyperparameters for t in (one, other))
        return self._compare(one.values, other.values)


class HyperbandOracle(Durable, keras_tuner.oracles.HyperbandOracle):
    """Hyperband."""


def make_oracle(algorithm, objective, max_trials, seed, max_epochs):
    """Makes the oracle of a search; `max_epochs` is for Hyperband."""
    options = {
        "objective": objective,
        "seed": seed,
        # A failed trial is a result; the search goes on.
        "max_consecutive_failed_trials": 2**31,
    }
    if algorithm == "hyperband":
        # The number of trials ends it, not that of its rounds.
        oracle = HyperbandOracle(
            max_epochs=max_epochs, hyperband_iterations=None, **options
        )
        oracle.max_trials = max_trials
        return oracle
    options["max_trials"] = max_trials
    if algorithm == "bayesian":
        # KerasTuner's 3 for each dimension would be all of a short search.
        points = max(3, max_trials // 3)
        return BayesianOracle(num_initial_points=points, **options)
    return {"random": RandomOracle, "grid": GridOracle}[algorithm](**options)
