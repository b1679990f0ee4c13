"""What a run must remember to go on in another process."""

import random
import warnings

import keras

from finetune_keras.engine.start_counts import (
    set_start_iterations,
    start_iterations,
)
from finetune_keras.engine.workers import agree_on, workers_of
from finetune_keras.training.checkpoint import Checkpoint
from finetune_keras.training.observer import Observer
from finetune_keras.training.saved import assign, values_of


class Memory(Observer):
    """Keeps all that a run must remember in its folder.

    As a context manager it holds the folder, and lets the others go on where
    the folder says so. What is random then hangs on the numbers of phases and
    epochs alone.

    Args:
        folder: String, path of the folder.
        facts: Dict that says which run it is, see `facts_of`.
        model: A compiled `keras.Model`.
        place: The `RunState`.
        data: List of the `Inputs` of the run.
        others: The other `Observers`, with `place` among them.

    Raises:
        ValueError: If another run uses the folder, or has used it.
    """

    needs_pauses = True

    def __init__(self, folder, facts, model, place, data, others):
        self.folder, self.facts, self.model = folder, facts, model
        self.place, self.data, self.others = place, data, others
        self.seed = agree_on(model, random.randrange(2**20, 2**31))
        self.checkpoint, self.training = None, None
        # Of the random layers, at the beginning of the phase, and now.
        self.first_seeds, self.seeds = None, None

    def __enter__(self):
        workers = workers_of(self.model)
        self.checkpoint = Checkpoint(self.folder, self.facts, workers)
        try:
            _warn_of_passes(self.data[0])
            saved = self.checkpoint.load()
            if saved is not None:
                self.load_state(saved)
        except BaseException:
            self.checkpoint.close()
            raise

    def __exit__(self, *error):
        self.checkpoint.close()
        self._put_seeds_back()
        self._hold_epoch(None)

    def begin_phase(self, phase):
        """Gives the phase its weights, and the randomness of its beginning."""
        if self.training is not None:
            self._restore(**self.training)
            self.training = None
        self._put_seeds_back()
        seeds = _seed_states(self.model)
        if self.place.phase_epoch:
            self.seeds = values_of(seeds)
            assign(seeds, self.first_seeds)
        else:
            self.first_seeds = values_of(seeds)
        self._draw_as_in(-1 - self.place.index, self.place.phase["first_epoch"])

    def begin_fit(self, work):
        self._put_seeds_back()
        self._draw_as_in(self.place.epoch, self.place.epoch)

    def pause(self):
        self.checkpoint.save(self.state())

    def state(self):
        model = self.model
        return {
            "seed": self.seed,
            "first_seeds": self.first_seeds,
            "training": {
                "variables": values_of(model.variables),
                "optimizer": values_of(model.optimizer.variables),
                "starts": start_iterations(model.optimizer),
            },
            "others": self.others.state(),
        }

    def load_state(self, state):
        self.seed, self.training = state["seed"], state["training"]
        self.first_seeds = state["first_seeds"]
        self.others.load_state(state["others"])

    def _restore(self, variables, optimizer, starts):
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        assign(model.variables, variables)
        assign(model.optimizer.variables, optimizer)
        set_start_iterations(model.optimizer, starts)

    def _draw_as_in(self, number, epoch):
        keras.utils.set_random_seed(self.seed + number)
        self._hold_epoch(epoch)

    def _put_seeds_back(self):
        if self.seeds is not None:
            assign(_seed_states(self.model), self.seeds)
            self.seeds = None

    def _hold_epoch(self, epoch):
        for inputs in self.data:
            inputs.hold_epoch(epoch)


def _seed_states(model):
    """Lists the states of the random layers of a model."""
    weights = {id(v) for v in model.weights}
    return [v for v in model.variables if id(v) not in weights]


def _warn_of_passes(train):
    if train.remembers_passes:
        warnings.warn(
            "The order or the draws of `train` hang on how often it was read "
            "in this process, so that a run that goes on in another one ends "
            "with other weights. Arrays, texts and the data of `from_arrays`, "
            "`image_folder` and their like go on exactly. "
            f"Received: train={train.given.data!r}",
            stacklevel=5,
        )
