"""The mend of Keras's `fit` for several workers (keras#20585).

Two private functions of Keras are wrapped. Each wrapper acts only under
`MultiWorkerMirroredStrategy`, and is put on only where the source of the
function still has the defect: when Keras mends it, nothing is touched.
"""

import inspect

import keras

from finetune_keras.engine.private import tensorflow_trainer
from finetune_keras.engine.workers import workers_of_strategy


def mend_fit():
    """Makes `fit`, `evaluate` and `predict` work with several workers.

    It lists the functions that it mended: none where Keras needs no mend any
    more, or has it already.
    """
    trainer = tensorflow_trainer()
    owners = {
        "_maybe_symbolic_build": (trainer.TensorFlowTrainer, _build_locally),
        "reduce_per_replica": (trainer, _reduce_scalars),
    }
    mended = []
    for name, (owner, wrap) in owners.items():
        function = getattr(owner, name, None)
        if function and _DEFECTS[name] in inspect.getsource(function):
            setattr(owner, name, wrap(function))
            mended.append(name)
    return mended


_DEFECTS = {
    "_maybe_symbolic_build": "self.distribute_strategy.reduce(",
    "reduce_per_replica": 'strategy.reduce("MEAN", v, axis=0)',
}


def _build_locally(build):
    """Builds from the batch of a local replica.

    Only the shapes count, and the reduction of Keras cannot take a tuple.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = self.distribute_strategy
        if iterator is not None and workers_of_strategy(strategy):
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0],
                next(batches),
            )
            iterator = None
        return build(self, iterator=iterator, data_batch=data_batch)

    return _maybe_symbolic_build


def _reduce_scalars(reduce):
    """Takes the mean of metrics over replicas, not over an axis as well."""

    def reduce_per_replica(values, strategy, reduction):
        if reduction in ("auto", "mean") and workers_of_strategy(strategy):
            # All workers then see the same numbers, and stop alike.
            return keras.tree.map_structure(
                lambda value: strategy.reduce("MEAN", value, axis=None), values
            )
        return reduce(values, strategy, reduction)

    return reduce_per_replica
