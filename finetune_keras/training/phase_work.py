"""What one phase trains, and on what."""

from finetune_keras.models.buckets import Buckets
from finetune_keras.models.replay import flatten
from finetune_keras.training.activation_store import CacheRefused
from finetune_keras.training.feed import feed
from finetune_keras.training.fit_state import build_for_fit, compile_arguments
from finetune_keras.training.inputs import evaluation_arguments
from finetune_keras.training.prefix_cache import PrefixCache


class PhaseWork:
    """The whole model on the data, or its end on stored activations.

    Args:
        model: Compiled `keras.Model` with the flags of the phase.
        train: An `Inputs`.
        validation: An `Inputs`, or `None`.
        cache: Dict, see `cache_options`.
        folder: String, where activations on disk go, or `None`.

    Attributes:
        target: `keras.Model` to call `fit` on; its layers are the model's.
        num_views: Integer, how many passes over the data are stored.
        report: String, what is stored and where, or why nothing is.
    """

    def __init__(self, model, train, validation, cache, folder):
        self.model, self.target = model, model
        self.train, self.validation = train, validation
        self._views, self._stored_validation = None, None
        try:
            cut = PrefixCache(model, cache, folder)
            views, stored = cut.store(train), None
            if validation is not None:
                (stored,) = cut.store(validation)
        except CacheRefused as reason:
            self.report = f"off: {reason}"
            return
        self._views, self._stored_validation = views, stored
        self.report = cut.report
        arguments = compile_arguments(model)
        cut.suffix.compile(**{**arguments, "optimizer": model.optimizer})
        self.target = cut.suffix

    @property
    def num_views(self):
        return len(self._views or [0])

    def build(self, resumable):
        """Builds what `fit` would build from a batch that it draws.

        Drawn, it changes the order of the epochs: that of a suffix from that
        of the whole model, and that of a resumed run from an unbroken one.

        Args:
            resumable: Boolean, whether the run may be resumed.
        """
        batch = None
        if self._views is not None:
            view = self._views[0]
            batch = next(iter(view)) if isinstance(view, Buckets) else view
        elif resumable:
            batch = self.train.example()
        if batch is not None and (resumable or self.model.optimizer.built):
            build_for_fit(self.target, batch)

    def first_pass(self):
        """Returns a flat model, and batches that it takes, once over all."""
        if self._views is None:
            return flatten(self.model), self.train.batches()
        view = self._views[0]
        return self.target, view if isinstance(view, Buckets) else [view]

    def evaluate(self):
        """Returns a dict of the loss and metrics on validation data."""
        data = self._stored_validation or self.validation.data
        return self.target.evaluate(
            **evaluation_arguments(data), verbose=0, return_dict=True
        )

    def fit_arguments(self, epoch, fit):
        """Collects what `target.fit` takes.

        Args:
            epoch: Integer, epochs done in this phase: views take turns.
            fit: Dict of further arguments of `fit`.

        Returns:
            A dict.
        """
        if self._views is None:
            data = self.train.fit_arguments
            validation = {}
            if self.validation is not None:
                validation = self.validation.validation_arguments
            return {**data, **validation, **fit}
        fit = {**fit}
        shuffle = fit.pop("shuffle", self.train.shuffled)
        stored = feed(
            self.target,
            self._views[epoch % len(self._views)],
            self._stored_validation,
            self.train.batch_size,
            shuffle,
        )
        return {**stored, **fit}
