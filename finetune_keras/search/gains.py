"""What a phase gains on each validation example, before it is planned."""

from finetune_keras.cache.activation_store import cache_options
from finetune_keras.data.task import Task
from finetune_keras.engine.fit_state import strategy_scope
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.results.predicted import predict_all
from finetune_keras.training.compiled import ensure_compiled
from finetune_keras.training.fit_options import check_fit
from finetune_keras.training.inputs import labels_rank
from finetune_keras.training.run import Run


def losses_around(model, plan, train, validation):
    """Losses of each validation example, before and after a plan's epochs.

    Before is behind the solved head, where the plan solves one. The model ends
    with the weights of the best epoch. Where activations are stored, both are
    judged on these, which takes a small part of the time of the whole model.

    Args:
        model: A `keras.Model`.
        plan: A `Plan` of one phase.
        train: Training data, as in `fine_tune`.
        validation: Validation data.

    Returns:
        Tuple of two arrays.
    """
    train, fit = check_fit({"verbose": 0}, train, validation)
    with strategy_scope(model):
        ensure_compiled(model, plan, labels_rank(train), None)
        groups, cache = layer_groups(model), cache_options("auto")
        run = _Judged(groups, plan, train, validation, cache, fit)
        run.run()
        return run.before, run.losses()


class _Judged(Run):
    """A run of one phase that is judged before its first epoch."""

    def start_head(self):
        super().start_head()
        self.before = self.losses()
        # It is what epochs are compared with, which must not win as one.
        self.best.epoch, self.best.value, self.best.noise = None, None, 0.0

    def losses(self):
        """Loss of each validation example at the weights of now."""
        task = Task.of(self.model)
        losses = self.work.validation_losses(task)
        if losses is not None:
            return losses
        data = self.data[1].given.data
        outputs, labels, _ = predict_all(self.model, data, "validation")
        return task.losses(task.labels(labels), task.scores(outputs))
