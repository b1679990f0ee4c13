"""Several processes that train one model, and what the chief tells them."""

import keras
import numpy as np

from finetune_keras.engine import backend
from finetune_keras.engine.packages import tensorflow as tf

# Words of four bytes: 64 MiB, far below what one message may hold.
_PART = 2**24
_ERRORS = {b"-": ValueError, b"!": OSError}


def workers_of(model):
    """Returns the processes that train a model together.

    Args:
        model: A `keras.Model`.

    Returns:
        A `Workers`, or `None` where this process trains it alone.
    """
    if backend.on("jax"):
        return _jax_workers()
    return workers_of_strategy(getattr(model, "distribute_strategy", None))


def workers_of_strategy(strategy):
    """Returns the processes of a `tf.distribute.Strategy`, or `None`."""
    if strategy is None:
        return None
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    if sum(len(cluster.get(job, [])) for job in ("chief", "worker")) < 2:
        return None
    first = "chief" if "chief" in cluster else "worker"

    def add(array):
        total = strategy.reduce("SUM", tf.constant(array), axis=None)
        return total.numpy()

    return Workers((resolver.task_type, resolver.task_id) == (first, 0), add)


def _jax_workers():
    import jax

    if keras.distribution.distribution() is None or jax.process_count() < 2:
        return None

    def add(array):
        from jax.experimental import multihost_utils

        return np.sum(multihost_utils.process_allgather(array), axis=0)

    return Workers(jax.process_index() == 0, add)


class Workers:
    """The processes of one run, which must call its methods together.

    Args:
        is_chief: Boolean, whether this is the process that reads and writes.
        add: Function that takes an int32 array and returns its sum over all
            processes.
    """

    def __init__(self, is_chief, add):
        self.is_chief = is_chief
        self.add = add

    def ask_chief(self, answer):
        """Lets the chief call a function, and gives all what it returned.

        Args:
            answer: Function without arguments that returns bytes.

        Returns:
            The bytes.

        Raises:
            ValueError: In all processes, if the function raised it.
            OSError: The same.
        """
        result = b""
        if self.is_chief:
            try:
                result = b"+" + answer()
            except (ValueError, OSError) as error:
                kind = b"-" if isinstance(error, ValueError) else b"!"
                result = kind + str(error).encode()
        result = self._share(result)
        if result[:1] in _ERRORS:
            raise _ERRORS[result[:1]](result[1:].decode())
        return result[1:]

    def _share(self, data):
        """Gives all the bytes of the chief: the others add zeros."""
        size = np.array(divmod(len(data), 4), "int32") * self.is_chief
        whole, rest = (int(n) for n in self.add(size))
        words = np.zeros(whole + 1, "int32")
        if self.is_chief:
            padded = data.ljust(4 * (whole + 1), b"\0")
            words = np.frombuffer(padded, "int32")
        parts = [
            np.asarray(self.add(words[start : start + _PART]), "int32")
            for start in range(0, len(words), _PART)
        ]
        return np.concatenate(parts).tobytes()[: 4 * whole + rest]


def is_chief(model):
    """Tells whether this process reads and writes for all of a run."""
    workers = workers_of(model)
    return workers is None or workers.is_chief


def agree_on(model, number):
    """Returns the number that the chief has, in all processes."""
    workers = workers_of(model)
    if workers is None:
        return number
    return int(workers.ask_chief(lambda: str(number).encode()))
