"""What a trial of a search is: model, plan, data and options."""

import keras

from finetune_keras.adapters.adapter import remove_adapters
from finetune_keras.data.source import kind_of
from finetune_keras.data.source_examples import Arrays, Related, Texts
from finetune_keras.engine.fit_state import strategy_scope
from finetune_keras.engine.packages import keras_tuner
from finetune_keras.search.parts import compile_for, make_plan, put_adapters
from finetune_keras.search.space import SearchSpace, search_space
from finetune_keras.search.space_parts import PHASE_PARTS
from finetune_keras.training.fine_tune import fine_tune
from finetune_keras.training.inputs import labels_rank


class FineTuneHyperModel(keras_tuner.HyperModel):
    """What a trial is made of, for `tune`. Override what is to be your own.

    Each method gets `hp`, the `keras_tuner.HyperParameters` of the trial. It
    reads the parts of the search space by `hp["dropout"]`, and may declare more
    by `hp.Choice`, `hp.Float` and so on.

    Args:
        build: Function from `hp` to a new `keras.Model`, compiled or not, or
            to `(model, plan)`; `None` where the method is overridden. Defaults
            to `None`.
        space: A `SearchSpace`. Defaults to `None`: that of `search_space()`,
            or an empty one where `plan` is overridden.
        objective: String, the metric that decides on the best epoch. Defaults
            to `"val_loss"`.

    Attributes:
        space: The `SearchSpace`.
        objective: String.
        model: The `keras.Model` of the trial, for `plan`.
        history: The `FineTuneHistory` of the last `train`.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    class Mine(ft.FineTuneHyperModel):
        def build(self, hp):
            body = keras.Sequential([
                keras.Input((4,)),
                keras.layers.Dense(hp.Choice("width", [4, 8])),
            ])
            return ft.replace_head(body, 2)

        def plan(self, hp):
            return ft.plans.linear_probe(
                epochs=1, learning_rate=hp.Choice("rate", [1e-3, 1e-2])
            )

    x, y = np.random.normal(size=(16, 4)), np.arange(16) % 2
    search = ft.tune(Mine(), (x, y), (x, y), max_trials=1, directory="search",
                     verbose=0)
    print(search.table())
    ```
    """

    def __init__(self, build=None, space=None, objective="val_loss"):
        super().__init__()
        if build is not None and not callable(build):
            raise ValueError(
                "`build` must be a function from `hp` to a `keras.Model`, so "
                "that each trial gets a new one; a model that was built "
                "before would keep what a trial has learnt. "
                f"Received: build={build!r}"
            )
        self.make = build
        own_plan = type(self).plan is not FineTuneHyperModel.plan
        self.made_plan = None
        self.is_given = space is not None or own_plan
        if space is None:
            space = SearchSpace({}) if own_plan else search_space()
        self.space = space
        self.objective = objective
        self.model = None
        self.is_adapted = False
        self.history = None
        self.applied = set()

    # === To override ===

    def build(self, hp):
        """Makes the model of a trial: new, with its pretrained weights.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            A `keras.Model`, compiled or not.
        """
        if self.make is None:
            raise NotImplementedError(
                "Override `build(self, hp)`, or pass a function: "
                "`FineTuneHyperModel(build)`."
            )
        made, self.made_plan = self.make(hp), None
        if isinstance(made, tuple) and len(made) == 2:
            made, self.made_plan = made
        return made

    def default_space(self):
        """What is searched where no space is given.

        A `build` that returns a plan declares what varies by itself.

        Returns:
            A `SearchSpace`.
        """
        if self.is_given or self.make is None:
            return self.space
        hp = keras_tuner.HyperParameters()
        self.space.declare(hp)
        self.build(hp)
        return self.space if self.made_plan is None else SearchSpace({})

    def plan(self, hp):
        """Makes the plan of a trial; `self.model` is its model.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            A `Plan`; here that of `build`, or else of the search space.
        """
        if self.made_plan is not None:
            return self.made_plan
        values = self._values(hp)
        whole = "plan" in values
        self.applied |= {"plan"} if whole else PHASE_PARTS
        return make_plan(self.space, values, self.model)

    def data(self, hp, train, validation):
        """Makes the data of a trial.

        Args:
            hp: A `keras_tuner.HyperParameters`.
            train: Training data, as given to `tune`; datasets that fit in
                memory are a tuple of arrays `(x, y)`.
            validation: Validation data, likewise.

        Returns:
            `(train, validation)`; here as they are.
        """
        return train, validation

    def options(self, hp):
        """Chooses further arguments of `fine_tune`.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            Dict; here the `batch_size` of the search space, if it has one.
        """
        self.applied.add("batch_size")
        values = self._values(hp)
        return {k: values[k] for k in ("batch_size",) if k in values}

    # === One trial ===

    def declare_hyperparameters(self, hp):
        """Declares the search space; KerasTuner calls it."""
        self.space.declare(hp)

    def train(self, hp, model, train, validation, **fit):
        """Fine-tunes the model of a trial.

        Args:
            hp: A `keras_tuner.HyperParameters`.
            model: A `keras.Model`, from `build`.
            train: Training data.
            validation: Validation data.
            **fit: Further arguments of `fine_tune`.

        Returns:
            `(plan, history)`. The model has the weights of its best epoch.
        """
        plan = self.prepare(hp, model)
        train, validation = self.data(hp, train, validation)
        self.compile(hp, model, plan, train)
        options = {**fit, **self.options(hp)}
        train, options = sized(train, options)
        history = fine_tune(
            model, plan, train, validation, monitor=self.objective, **options
        )
        self.history = history
        return plan, history

    def prepare(self, hp, model):
        """Adds the adapters, and returns the plan."""
        if not isinstance(model, keras.Model):
            raise TypeError(
                "`build` must return a `keras.Model`. "
                f"Received: {model!r} of type {type(model).__name__}"
            )
        self.release()
        if "adapter" in self.space:
            self.applied |= {"adapter", "rank"}
        self.is_adapted = put_adapters(model, self._values(hp))
        self.model = model
        return self.plan(hp)

    def compile(self, hp, model, plan, train):
        """Compiles a model that `build` has not."""
        self.applied.add("weight_decay")
        decay = self._values(hp).get("weight_decay")
        with strategy_scope(model):
            compile_for(model, plan, labels_rank(train), decay)

    def _values(self, hp):
        """Values of the space, which others do not pass on."""
        return self.space.values(hp if isinstance(hp, dict) else hp.values)

    def release(self):
        """Lets the model of a trial go, without the adapters put into it.

        Its layers may be those of the next trial's, if `build` puts heads on
        one backbone.
        """
        if self.is_adapted:
            remove_adapters(self.model, "default")
        self.model, self.is_adapted = None, False

    def fit(self, hp, model, train, validation=None, **fit):
        """Runs a trial for a tuner of KerasTuner's own.

        `tune` does more: it shares what frozen layers compute, keeps the
        models, and goes on after a kill.

        Args:
            hp: A `keras_tuner.HyperParameters`.
            model: A `keras.Model`.
            train: Training data.
            validation: Validation data. Defaults to `None`.
            **fit: Further arguments of `fine_tune`.

        Returns:
            Dict of the metrics of the best epoch over all phases.

        Raises:
            ValueError: If `keras_tuner.Hyperband` calls it, which cannot stop
                and resume a plan.
        """
        if "epochs" in fit or "initial_epoch" in fit:
            raise ValueError(
                "Epochs are the plan's. For Hyperband, whose trials stop and "
                'go on, call `ft.tune(..., algorithm="hyperband")`. '
                f"Received: epochs={fit.get('epochs')}, "
                f"initial_epoch={fit.get('initial_epoch')}"
            )
        _, history = self.train(hp, model, train, validation, **fit)
        return metrics_of(history)


def metrics_of(history):
    """Returns the metrics of the best epoch, be it the solved head."""
    best = history.best_epoch
    if best == -1:
        return dict(history.phases[0]["solved"])
    row = next(row for row in history.epochs if row["epoch"] == best)
    counters = ("epoch", "phase", "seconds", "learning_rate")
    return {name: v for name, v in row.items() if name not in counters}


def sized(train, options):
    """Gives data that comes in batches the batch size of a trial."""
    size = options.get("batch_size")
    kinds = Arrays, Texts, Related
    whole = isinstance(train, (tuple, list)) or kind_of(train) in kinds
    if size is None or whole:
        return train, options
    options = {k: v for k, v in options.items() if k != "batch_size"}
    if not hasattr(train, "rebatch"):
        raise ValueError(
            "The search space has a batch size, and this data comes in "
            "batches of its own. Pass arrays or a `tf.data.Dataset`, or leave "
            "it out: `space.without('batch_size')`. "
            f"Received: train={type(train).__name__}"
        )
    return train.rebatch(size).prefetch(2), options
