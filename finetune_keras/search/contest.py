"""Candidates for the best model, made in the order of what they cost."""

import time

import keras
import numpy as np

from finetune_keras.plans.phase import Phase
from finetune_keras.plans.plan import Plan
from finetune_keras.plans.strategies import linear_probe
from finetune_keras.results.bootstrap import draw, percentiles
from finetune_keras.results.ensembles import ensemble
from finetune_keras.results.evaluation import evaluate
from finetune_keras.results.members import copied
from finetune_keras.results.predicted import predict_all
from finetune_keras.results.views import test_time_augmentation
from finetune_keras.search.advice import Steps, short_phase
from finetune_keras.search.candidates import no_word_of_traces
from finetune_keras.search.proposal import Proposal
from finetune_keras.training.fine_tune import fine_tune

# From the simplest on.
_HEAD, _DEPTHS, _SHORT, _ALL, _ENSEMBLE, _VIEWS = range(6)
# The share of the time that training may take; the rest is for ensembles.
_TRAINING = 0.9
_SAMPLES = 1000
# Of all layers of what is no text model, at the top of the cycle.
_RATE = 3e-4


class Candidate:
    """A model with what the validation data say of it.

    Args:
        name: String.
        kind: Integer, the higher the less simple.
        entrant: The `Entrant`, or `None` of several.
        model: The `keras.Model`.
        plan: The `Plan` that made it, or `None`.
        report: The `Report` on the validation data.
        seconds: Float, what it took.
    """

    def __init__(self, name, kind, entrant, model, plan, report, seconds):
        self.name, self.kind, self.entrant = name, kind, entrant
        self.model, self.plan, self.seconds = model, plan, seconds
        self.losses, self.task = report.predictions.losses, report.task
        self.loss = float(self.losses.mean())
        # Values are never right, only near.
        self.wrong = self.losses
        if self.task.has_chances:
            self.wrong = 1.0 - report.predictions.correct
        self.score = report.metrics[self.task.main_metric]

    def row(self, seed):
        """Plain data, with a 95 % interval of the loss by bootstrap."""
        drawn = draw(len(self.losses), _SAMPLES, seed)
        means = np.concatenate([self.losses[x].mean(axis=1) for x in drawn])
        return {
            "name": self.name,
            "loss": self.loss,
            "interval": percentiles(means),
            self.task.main_metric: self.score,
            "seconds": self.seconds,
        }


class Entrant:
    """A backbone in the contest, and what one pass of it takes."""

    def __init__(self, name, proposal, features):
        self.name, self.proposal, self.features = name, proposal, features
        self.parameters = proposal.backbone.count_params()
        # Of the heads, of one pass over an example, and the numbers of these.
        self.seconds, self.pass_seconds, self.sizes = 0.0, 0.0, {}

    def cost(self, phase):
        """Seconds that a solved head and this phase will take."""
        # Backward takes about twice as long as forward.
        passes = 3 if phase.layers == "all" else 1
        examples = passes * self.sizes["train"] + self.sizes["validation"]
        return self.seconds + phase.epochs * examples * self.pass_seconds


class Contest:
    """Makes candidates while there is time, and chooses among them.

    Attributes:
        candidates: List of `Candidate`s, in the order in which they were made.
        chosen: The best `Candidate`.
        notes: List of strings, what was left out and why.
    """

    def __init__(self, data, minutes, seed, verbose):
        self.data, self.seed, self.verbose = data, seed, verbose
        self.begun, self.budget = time.perf_counter(), 60 * minutes
        self.candidates, self.chosen, self.notes = [], None, []

    def run(self, named):
        with no_word_of_traces():
            self._run(named)
        return self

    def _run(self, named):
        entrants = []
        for name, backbone in named.items():
            dearest = max((one.seconds for one in entrants), default=0)
            if not entrants or self._affords(dearest, f"{name}, heads"):
                entrants.append(self._enter(name, backbone))
        for entrant in self._best_first(entrants):
            self._train_shortly(entrant)
        for entrant in self._best_first(entrants):
            self._train_all(entrant)
        self.chosen = simplest(self.candidates)
        self._put_together()
        self._take_views()

    # === Time ===

    def _left(self, share=_TRAINING):
        return share * self.budget - (time.perf_counter() - self.begun)

    def _affords(self, seconds, what, share=_TRAINING):
        left = self._left(share)
        if seconds > left:
            self.notes.append(
                f"{what}: left out, it takes about {seconds:.0f} s, and "
                f"{max(left, 0):.0f} s were left"
            )
        return seconds <= left

    def _end_in_time(self, model):
        """A callback that ends a run whose time was underestimated."""

        def stop(epoch, logs):
            model.stop_training = model.stop_training or self._left() < 0

        return keras.callbacks.LambdaCallback(on_epoch_end=stop)

    # === One backbone ===

    def _enter(self, name, backbone):
        begun = time.perf_counter()
        proposal = Proposal(backbone, self.data, 0.0)
        steps = Steps(self.data, self.seed, 0)
        features = steps.choose_depths(proposal)
        entrant = Entrant(name, proposal, features)
        entrant.sizes = self.data.sizes
        self._train(entrant, "head", _HEAD, features=1)
        if features > 1:
            words = f"head on {features} groups"
            self._train(entrant, words, _DEPTHS)
        entrant.seconds = time.perf_counter() - begun
        again = time.perf_counter()
        # The second time nothing is traced.
        predict_all(self.candidates[-1].model, self.data.validation)
        seconds = time.perf_counter() - again
        entrant.pass_seconds = seconds / self.data.sizes["validation"]
        return entrant

    def _best_first(self, entrants):
        return sorted(
            entrants,
            key=lambda entrant: min(
                c.loss for c in self.candidates if c.entrant is entrant
            ),
        )

    def _train_shortly(self, entrant):
        phase = short_phase(entrant.proposal)
        words = f"{phase.name}, {phase.epochs} epochs"
        if self._affords(entrant.cost(phase), f"{entrant.name}, {words}"):
            self._train(entrant, words, _SHORT, phase)

    def _train_all(self, entrant):
        """Trains all layers for as many epochs as there is time for."""
        is_text = entrant.proposal.is_text
        rate, numbers = (1e-4, (4, 3)) if is_text else (_RATE, (10, 7, 5))
        phases = [
            Phase("all", n, rate, None, 0.8, schedule="one_cycle")
            for n in numbers
        ]
        left = self._left()
        fitting = [x for x in phases if entrant.cost(x) <= left] or phases[-1:]
        phase, words = fitting[0], f"all layers, {fitting[0].epochs} epochs"
        if self._affords(entrant.cost(phase), f"{entrant.name}, {words}"):
            augmentation = "light" if entrant.proposal.is_image else None
            self._train(entrant, words, _ALL, phase, augmentation=augmentation)

    def _train(
        self, entrant, words, kind, phase=None, features=None, augmentation=None
    ):
        """A solved head, and the phase behind it."""
        begun = time.perf_counter()
        keras.utils.set_random_seed(self.seed)
        features = features or entrant.features
        # Candidates of one backbone would train each other's weights.
        model = copied(entrant.proposal.model(features, augmentation))
        phases = [] if phase is None else [phase]
        # Run apart: in one plan the solved head, a candidate of its own, would
        # compete with the epochs.
        for plan in (linear_probe(), *(Plan([x]) for x in phases)):
            fine_tune(
                model,
                plan,
                self.data.train,
                self.data.validation,
                callbacks=[self._end_in_time(model)],
                verbose=0,
            )
        plan = Plan([*linear_probe(), *phases], head_initializer="auto")
        name = f"{entrant.name}, {words}"
        return self._judge(name, kind, entrant, model, plan, begun)

    def _judge(self, name, kind, entrant, model, plan, begun):
        report = evaluate(
            model, self.data.validation, bootstrap=0, worst=0, verbose=0
        )
        seconds = time.perf_counter() - begun
        made = Candidate(name, kind, entrant, model, plan, report, seconds)
        self.candidates.append(made)
        if self.verbose:
            score = "-" if made.score is None else f"{made.score:.3f}"
            print(
                f"{name}: validation loss {made.loss:.3f}, "
                f"{made.task.main_metric} {score}, {seconds:.0f} s; "
                f"{max(self._left(1), 0):.0f} s left",
                flush=True,
            )
        return made

    # === Several together ===

    def _put_together(self):
        """The mean of the best of each backbone and of each kind."""
        members = _members(self.candidates)
        cost = 2 * sum(x.entrant.pass_seconds for x in members)
        cost *= self.data.sizes["validation"]
        if len(members) < 2 or not self._affords(cost, "ensemble", 1):
            return
        begun = time.perf_counter()
        model = ensemble([x.model for x in members])
        name = f"mean of {len(members)}"
        made = self._judge(name, _ENSEMBLE, None, model, None, begun)
        if is_as_good(made, self.candidates):
            self.chosen = made

    def _take_views(self):
        chosen = self.chosen
        shape = chosen.model.inputs[0].shape[1:]
        is_image = self.candidates[0].entrant.proposal.is_image
        if not is_image or None in shape:
            return
        members = _members(self.candidates)
        members = [chosen] if chosen.entrant else members
        cost = 5 * sum(x.entrant.pass_seconds for x in members)
        cost *= self.data.sizes["validation"]
        if not self._affords(cost, "views", 1):
            return
        begun = time.perf_counter()
        model = test_time_augmentation(
            chosen.model, validation=self.data.validation
        )
        if model is chosen.model:
            self.notes.append("views (flip, zoom): no better, left out")
            return
        views = ", ".join(model.layers[-1].facts["views"])
        name = f"{chosen.name}, views ({views})"
        made = self._judge(
            name, _VIEWS, chosen.entrant, model, chosen.plan, begun
        )
        if _is_clearly_lower(self.chosen.losses, made.losses):
            self.chosen = made


def _members(candidates):
    """The best of each backbone and of each kind, without repeats."""
    best = {}
    for one in sorted(candidates, key=lambda one: one.loss):
        if one.kind < _ENSEMBLE:
            best.setdefault(one.entrant.name, one)
            best.setdefault(one.kind, one)
    return [one for one in candidates if one in best.values()]


def simplest(candidates):
    """The simplest of those that are not clearly worse than the best."""
    best = min(candidates, key=lambda one: one.loss)
    tied = [
        one
        for one in candidates
        if not _is_clearly_lower(one.losses, best.losses)
    ]
    return min(tied, key=lambda one: (one.kind, one.entrant.parameters))


def is_as_good(mean, candidates):
    """Whether a mean is not worse than the best candidate, as far as is clear.

    It hangs less than one model on the luck of few examples, by which the best
    looks a little better than it is. Its loss may be higher because it is less
    sure, not because it is more often wrong.
    """
    best = min(candidates, key=lambda one: one.loss)
    pairs = (mean.losses, best.losses), (mean.wrong, best.wrong)
    return not all(_is_clearly_lower(*pair, errors=2) for pair in pairs)


def _is_clearly_lower(before, after, errors=1):
    """Whether losses fall by more than so many standard errors of the fall."""
    gains = before - after
    return gains.mean() > errors * gains.std() / np.sqrt(len(gains))
