"""The tuner: KerasTuner's loop over trials, run by `Trials`."""

import contextlib
import gc
import os
import pathlib
import sys
import time

from finetune_keras.data.printable import printable
from finetune_keras.engine.packages import keras_tuner
from finetune_keras.search.folder import OVER
from finetune_keras.search.oracles import write_json
from finetune_keras.search.remote import PatientStub, SearchOver
from finetune_keras.search.trials import drop_models, ranked_trials
from finetune_keras.training.monitor import rises


class FineTuneTuner(keras_tuner.Tuner):
    """A tuner whose trials run a plan."""

    def __init__(self, oracle, trials, folder, verbose):
        self.trials = trials
        self.folder = folder
        self.speaks = bool(verbose)
        self.waiting = False
        # KerasTuner tells what it reloads.
        with contextlib.redirect_stdout(sys.stdout if verbose else None):
            super().__init__(
                oracle,
                trials.hypermodel,
                directory=str(folder.parent),
                project_name=folder.name,
            )
        self.rising = rises(self.hypermodel.objective)
        if self._is_worker():
            self.oracle.stub = PatientStub(self.oracle.stub, self.is_over)
        else:
            self.oracle.verbose = 0
            # What was extended may go on.
            if not self.is_over():
                (folder / OVER).unlink(missing_ok=True)

    def _populate_initial_space(self):
        """Does nothing: an `Explorer` has told the oracle."""

    # === The loop ===

    def search(self):
        """Runs the trials that are left; a chief serves its workers."""
        if self.is_over():
            return
        # All that is there now would be looked through after each trial.
        gc.collect()
        gc.freeze()
        try:
            super().search()
        except SearchOver:
            pass
        finally:
            gc.unfreeze()
        if not self._is_worker():
            write_json(self.folder / OVER, self.oracle.max_trials)

    def is_over(self):
        """Tells whether the search has ended, for as many trials as now."""
        path = self.folder / OVER
        if not path.exists():
            return False
        return int(path.read_text()) >= self.oracle.max_trials

    def on_search_begin(self):
        self.save()

    def save(self):
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def pre_create_trial(self):
        # KerasTuner asks again at once while the oracle waits for others.
        if self.waiting:
            time.sleep(0.5)
        self.waiting = True

    def on_trial_begin(self, trial):
        self.waiting = False

    def _try_run_and_update_trial(self, trial):
        # KerasTuner's own prints a traceback, and takes it for a failed trial
        # when the chief has gone.
        try:
            self._run_and_update_trial(trial)
            trial.status = "COMPLETED"
        except keras_tuner.errors.FailedTrialError as error:
            trial.status, trial.message = "FAILED", str(error)

    def run_trial(self, trial):
        folder = pathlib.Path(self.get_trial_dir(trial.trial_id))
        past = trial.hyperparameters.values.get("tuner/trial_id")
        if past is not None:
            past = pathlib.Path(self.get_trial_dir(past))
        result = self.trials.run(trial.hyperparameters, folder, past)
        drop_models(self.folder, self.rising, self.trials.keep)
        if self.speaks:
            line = printable(self._line(trial.trial_id, result))
            print(line, flush=True)
        if result["status"] == "failed":
            raise keras_tuner.errors.FailedTrialError(result["reason"])
        return {self.hypermodel.objective: result["score"]}

    def _line(self, trial_id, result):
        start = f"Trial {int(trial_id) + 1}/{self.oracle.max_trials}"
        if result["status"] == "failed":
            return f"{start} - failed: {result['reason'][:200]}"
        best = ranked_trials(self.folder, self.rising)[0][0]
        return (
            f"{start} - {self.hypermodel.objective}: {result['score']:.4g}, "
            f"best: {best:.4g} - {result['seconds']:.1f} s"
        )


def is_chief():
    """Tells whether this process only serves workers."""
    named = "chief" in os.environ.get("KERASTUNER_TUNER_ID", "")
    return "KERASTUNER_ORACLE_IP" in os.environ and named
