"""What a phase gains on each validation example, before it is planned."""

import numpy as np

from finetune_keras.cache.activation_store import cache_options
from finetune_keras.data.task import Task
from finetune_keras.engine.fit_state import strategy_scope
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.results.predicted import predict_all
from finetune_keras.results.temperature import fit_scaling, scaled
from finetune_keras.training.compiled import ensure_compiled
from finetune_keras.training.fit_options import check_fit
from finetune_keras.training.inputs import labels_rank
from finetune_keras.training.observer import Observer
from finetune_keras.training.run import Run


def losses_around(model, plan, train, validation, calibrated=False):
    """Losses of each validation example, around the epochs of the last phase.

    Before them is behind the solved head, where the plan solves one. The model
    ends with the weights of the best of them. Stored activations, if any, are
    judged in the place of the whole model, in little time. `calibrated` is
    each at its best temperature: where all layers train on few examples, the
    model gets surer than it is right, which hides what it gains.
    """
    train, fit = check_fit({"verbose": 0}, train, validation)
    with strategy_scope(model):
        ensure_compiled(model, plan, labels_rank(train), None)
        groups, cache = layer_groups(model), cache_options("auto")
        run = Run(groups, plan, train, validation, cache, fit)
        judge = _calibrated_losses if calibrated else _losses
        before = _LossesBefore(run, judge)
        run.observers.add(before)
        run.run()
        return before.losses, judge(run)


class _LossesBefore(Observer):
    """Judges a run before the first epoch of its last phase."""

    def __init__(self, run, judge):
        self.run, self.judge, self.losses = run, judge, None

    def begin_fit(self, work):
        if self.run.phase is self.run.plan[-1] and self.losses is None:
            self.losses = self.judge(self.run)
            # What epochs are compared with must not win as one of them.
            best = self.run.best
            best.epoch, best.value, best.noise = None, None, 0.0


def _losses(run):
    """Loss of each validation example at the weights of now."""
    task = Task.of(run.model)
    losses = run.work.validation_losses(task)
    if losses is not None:
        return losses
    scores, labels = _predicted(run, task)
    return task.losses(labels, scores)


def _calibrated_losses(run):
    task = Task.of(run.model)
    if not task.has_chances:
        return _losses(run)
    chances, labels = _predicted(run, task)
    activation = task.output_activation
    scaling = fit_scaling(chances, labels, "temperature", activation)
    chances = scaled(chances, *scaling, activation, np)
    return task.losses(labels, chances)


def _predicted(run, task):
    data = run.data[1].given.data
    outputs, labels, _ = predict_all(run.model, data, "validation")
    return task.scores(outputs), task.labels(labels)
