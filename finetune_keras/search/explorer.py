"""A look at all that may vary, before the first trial."""

import types
import warnings

import keras

from finetune_keras.engine.fit_state import compile_arguments
from finetune_keras.engine.packages import keras_tuner
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.search.checks import check_is_validated
from finetune_keras.search.hypermodel import FineTuneHyperModel, sized


class Explorer(keras_tuner.HyperModel):
    """Calls all methods of a hypermodel that may declare something.

    KerasTuner calls `build` alone, and would meet what `plan` or `data`
    declare in the first trial, which would then be without.
    """

    def __init__(self, trials):
        super().__init__()
        self.trials = trials
        self.hypermodel = trials.hypermodel
        self.active, self.read = set(), set()
        self.hypermodel.applied = set()

    def explore(self, oracle):
        """Tells an oracle of all that may vary.

        Returns a list of dicts, what is declared beside the search space. What
        does not fit together in a trial is a `ValueError`.
        """
        hp = oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)
        oracle.update_space(hp)
        tuner = types.SimpleNamespace(oracle=oracle, hypermodel=self)
        keras_tuner.Tuner._activate_all_conditions(tuner)
        self._warn_of_unread()
        return [
            part
            for part in oracle.get_space().get_config()["space"]
            if part["config"]["name"] not in self.hypermodel.space
        ]

    def build(self, hp):
        self.active.update(hp.values)
        try:
            return self._try(_Watched(hp, self))
        finally:
            self.hypermodel.release()

    def _try(self, hp):
        """Goes through a trial up to where it would train."""
        hypermodel = self.hypermodel
        model = hypermodel.build(hp)
        plan = hypermodel.prepare(hp, model)
        plan.check(layer_groups(model))
        train, _ = hypermodel.data(hp, *self.trials.data)
        options = {**self.trials.fit, **hypermodel.options(hp)}
        if type(hypermodel).train is FineTuneHyperModel.train:
            sized(train, options)
            hypermodel.compile(hp, model, plan, train)
            _check_objective(model, hypermodel.objective)
        return model

    def declared(self, hp, part):
        """Takes note of what a method declares; refuses a clash."""
        self.read.add(part.name)
        for known in hp.space:
            if known.name == part.name and part.name in self.hypermodel.space:
                if _values(known) != _values(part):
                    raise ValueError(
                        f"{part.name!r} is a part of the search space, and "
                        "declared again with other values, which would not "
                        f'count. Read it by `hp["{part.name}"]`, give it '
                        "another name, or leave it out of the space. "
                        f"Received: {part!r}"
                    )

    def _warn_of_unread(self):
        """Warns of parts that make no difference."""
        read = self.read | self.hypermodel.applied
        names = self.hypermodel.space.parts
        lost = [n for n in names if n in self.active - read]
        if lost:
            warnings.warn(
                f"Nothing reads {lost}, so they would be varied to "
                "no effect. Pass them on, as in `ft.image_classifier(..., "
                "**ft.model_options(hp))`, or leave them out of the space.",
                stacklevel=5,
            )


class _Watched(keras_tuner.HyperParameters):
    """The hyperparameters of a trial, which tell what is read and declared."""

    def __init__(self, hp, explorer):
        super().__init__()
        # Both hold the same lists: what is declared here is declared there.
        vars(self).update(vars(hp))
        self.explorer = explorer

    def get(self, name):
        self.explorer.read.add(name)
        return super().get(name)

    def _retrieve(self, part):
        self.explorer.declared(self, part)
        return super()._retrieve(part)


def _values(part):
    config = dict(part.get_config())
    for name in ("conditions", "default"):
        config.pop(name, None)
    return config


def _check_objective(model, objective):
    """Refuses a metric that a model lacks, where that can be told."""
    steps = ("compute_metrics", "get_metrics_result", "test_step")
    if any(_overrides(model, name) for name in steps):
        return
    given = compile_arguments(model)
    metrics = [given.get(n) or [] for n in ("metrics", "weighted_metrics")]
    if len(model.outputs) != 1 or not all(map(_is_flat, metrics)):
        return
    names = [metric.name for metric in model.metrics]
    for metric in [m for some in metrics for m in some]:
        names.append(getattr(metric, "name", None) or _name(metric))
    known = [f"val_{n}" for n in ["loss", *names] if n != "compile_metrics"]
    if f"val_{objective}" in known:
        check_is_validated(objective)
    if objective.startswith("val_") and objective not in known:
        raise ValueError(
            "The metric that decides is not among those of the model, which "
            f"are {sorted(set(known))}. Received: objective={objective!r}"
        )


def _overrides(model, name):
    return getattr(type(model), name) is not getattr(keras.Model, name)


def _is_flat(metrics):
    return isinstance(metrics, (list, tuple)) and not any(
        isinstance(metric, (list, tuple, dict)) for metric in metrics
    )


def _name(metric):
    return getattr(metric, "__name__", str(metric))
