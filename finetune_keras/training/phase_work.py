"""What one phase trains, and on what."""

import contextlib
import itertools

import keras
import numpy as np

from finetune_keras.cache.activation_store import CacheRefused
from finetune_keras.cache.cache_checks import check_data
from finetune_keras.cache.prefix_cache import PrefixCache
from finetune_keras.data.buckets import Buckets
from finetune_keras.data.source import Source
from finetune_keras.engine import backend
from finetune_keras.engine.fit_state import (
    build_before_trace,
    build_for_fit,
    compile_arguments,
    sync_state,
    traces_what_is_unbuilt_twice,
)
from finetune_keras.models.outside_graph import prepared
from finetune_keras.text.generation import by_token
from finetune_keras.training.feed import feed
from finetune_keras.training.inputs import evaluation_arguments


class PhaseWork:
    """The whole model on the data, or its end on stored activations.

    Args:
        flat: The `FlatModel` of a compiled `keras.Model` with the flags of the
            phase.
        train: An `Inputs`.
        validation: An `Inputs`, or `None`.
        cache: Dict, see `cache_options`.
        folder: String, where activations on disk go, or `None`.

    Attributes:
        target: `keras.Model` to call `fit` on; its layers are the model's.
        num_views: Integer, how many passes over the data are stored.
        report: String, what is stored and where, or why nothing is.
    """

    def __init__(self, flat, train, validation, cache, folder):
        self.flat = flat
        self.model = self.target = flat.groups.model
        self.train, self.validation = train, validation
        self._views, self._stored_validation = None, None
        try:
            cut = PrefixCache(flat, cache, folder)
            if validation is not None:
                check_data(validation, cut.views)
            views, stored = cut.store(train), None
            if validation is not None:
                (stored,) = cut.store(validation)
        except CacheRefused as reason:
            self.report = f"off: {reason}"
            if flat.make is not None:
                with flat.opened() as self.target:
                    self._compile_target()
            return
        self._views, self._stored_validation = views, stored
        for inputs, data in ((train, views[0]), (validation, stored)):
            if isinstance(data, tuple):
                inputs.check(data[1])  # now those of all batches are known
        self.report = cut.report
        self.target = cut.suffix
        self._compile_target()

    def _compile_target(self):
        """Compiles what stands for the model as the model is."""
        model, target = self.model, self.target
        arguments = compile_arguments(model)
        if self.flat.make is not None:
            arguments = by_token(arguments)
        # Losses and metrics may be named after an output.
        target.output_names = getattr(model, "output_names", None)
        target.compile(**{**arguments, "optimizer": model.optimizer})

    @property
    def num_views(self):
        return len(self._views or [0])

    @property
    def num_batches(self):
        """Integer, batches an epoch, or `None` where it is not known."""
        if self._views is None:
            return self.train.num_batches
        view = self._views[0]
        if isinstance(view, Buckets):
            return len(view)
        size = len(keras.tree.flatten(view[0])[0])
        return -(-size // self.train.batch_size)

    def build(self, resumable):
        """Builds what `fit` would build from a batch that it draws.

        Drawn, it changes the order of the epochs: that of a suffix from that
        of the whole model, and that of a resumed run from an unbroken one.
        """
        if traces_what_is_unbuilt_twice(self.target):
            stored = None if self._views is None else self._view_batch()
            build_before_trace(self.target, stored or self.train.spec())
            return
        if not (resumable or self.model.optimizer.built):
            return
        batch = self._example() if self._views is None else self._view_batch()
        if batch is not None:
            build_for_fit(self.target, batch)

    def _view_batch(self):
        view = self._views[0]
        return next(iter(view)) if isinstance(view, Buckets) else view

    def first_pass(self):
        """Returns the flat model, and batches that it takes, once over all."""
        if self._views is None:
            batches = self.train.batches()
            if self.flat.prepares_inputs:
                data = self._prepared()
                batches = itertools.islice(data, self.train.steps)
            if not backend.on("tensorflow"):
                # There a model predicts no batch of tensors of TensorFlow.
                batches = (
                    (
                        keras.tree.map_structure(
                            keras.ops.convert_to_tensor, x
                        ),
                        *labels,
                    )
                    for x, *labels in batches
                )
            return self.flat.model, batches
        view = self._views[0]
        return self.target, view if isinstance(view, Buckets) else [view]

    def _example(self):
        batch = self.train.example()
        if batch is None or not self.flat.prepares_inputs:
            return batch
        return next(iter(self._prepared()))

    def _prepared(self):
        return prepared(self.model, self.train.data, self.train.batch_size)

    def evaluate(self):
        """Returns a dict of the loss and metrics on validation data."""
        data = self._stored_validation or self.validation.data
        arguments = {"steps": self.validation.steps}
        arguments.update(evaluation_arguments(data))
        return self.target.evaluate(**arguments, verbose=0, return_dict=True)

    def validation_losses(self, task):
        """Loss of each example of stored validation data, or `None`."""
        if self._stored_validation is None:
            return None
        source, losses = Source.of(self._stored_validation, 256), []
        for x, y, *_ in source.batches():
            labels = task.labels(keras.ops.convert_to_numpy(y))
            outputs = self.target.predict_on_batch(x)[: len(labels)]
            losses.append(task.losses(labels, task.scores(outputs)))
        return np.concatenate(losses)

    @contextlib.contextmanager
    def readable(self):
        """Lets callbacks save and read the whole model while its end fits.

        Where a running `fit` holds the weights, on JAX, the whole model would
        look for them in itself.
        """
        members = vars(self.model)
        if self.target is self.model or not hasattr(
            self.model, "jax_state_sync"
        ):
            yield
            return
        members["jax_state_sync"] = lambda: sync_state(self.target)
        try:
            yield
        finally:
            del members["jax_state_sync"]

    @contextlib.contextmanager
    def telling(self):
        """Says of an error in `fit` which labels it was, if it was labels."""
        with contextlib.ExitStack() as stack:
            for inputs in (self.train, self.validation):
                if inputs is not None:
                    stack.enter_context(inputs.watch.telling())
            yield

    def fit_arguments(self, epoch, fit):
        """Collects what `target.fit` takes, with more in the dict `fit`.

        By the epochs done in this phase the stored views take turns.
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
