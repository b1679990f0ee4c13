"""What a phase gains on each validation example, before it is planned."""

from finetune_keras.cache.activation_store import cache_options
from finetune_keras.data.task import Task
from finetune_keras.engine.fit_state import strategy_scope
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.results.predicted import predict_all
from finetune_keras.training.compiled import ensure_compiled
from finetune_keras.training.fit_options import check_fit
from finetune_keras.training.inputs import labels_rank
from finetune_keras.training.observer import Observer
from finetune_keras.training.run import Run


def losses_around(model, plan, train, validation):
    """Losses of each validation example, around the epochs of the last phase.

    Before them is behind the solved head, where the plan solves one. The model
    ends with the weights of the best of these epochs. Where activations are
    stored, both are judged on these, which takes a small part of the time of
    the whole model.

    Args:
        model: A `keras.Model`.
        plan: A `Plan`.
        train: Training data, as in `fine_tune`.
        validation: Validation data.

    Returns:
        Tuple of two arrays.
    """
    train, fit = check_fit({"verbose": 0}, train, validation)
    with strategy_scope(model):
        ensure_compiled(model, plan, labels_rank(train), None)
        groups, cache = layer_groups(model), cache_options("auto")
        run = Run(groups, plan, train, validation, cache, fit)
        before = _LossesBefore(run)
        run.observers.add(before)
        run.run()
        return before.losses, _losses(run)


class _LossesBefore(Observer):
    """Judges a run before the first epoch of its last phase."""

    def __init__(self, run):
        self.run, self.losses = run, None

    def begin_fit(self, work):
        if self.run.phase is self.run.plan[-1] and self.losses is None:
            self.losses = _losses(self.run)
            # What epochs are compared with must not win as one of them.
            best = self.run.best
            best.epoch, best.value, best.noise = None, None, 0.0


def _losses(run):
    """Loss of each validation example at the weights of now."""
    task, data = Task.of(run.model), run.data[1].given.data
    losses = run.work.validation_losses(task)
    if losses is not None:
        return losses
    outputs, labels, _ = predict_all(run.model, data, "validation")
    return task.losses(task.labels(labels), task.scores(outputs))
