"""Several processes that train one model: the chief keeps the state."""

import io

import keras
import numpy as np

from finetune_keras.training.resume import Checkpoint, decode, encode

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
    if keras.backend.backend() == "jax":
        return _jax_workers()
    return workers_of_strategy(getattr(model, "distribute_strategy", None))


def workers_of_strategy(strategy):
    """Returns the processes of a `tf.distribute.Strategy`, or `None`."""
    if strategy is None:
        return None
    import tensorflow as tf

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


class SharedCheckpoint:
    """The folder of a run of several processes.

    The chief alone opens it. What it reads goes to the others through the
    run's own connections, so that they need no common file system.

    Args:
        workers: A `Workers`.
        folder: String, path of the folder.
        run: Dict, as for `Checkpoint`.

    Raises:
        ValueError: In all processes, if another run uses the folder.
    """

    def __init__(self, workers, folder, run):
        self.workers = workers
        self.folder, self.checkpoint = None, None

        def open_folder():
            self.checkpoint = Checkpoint(folder, run)
            self.folder = self.checkpoint.folder
            return b""

        workers.ask_chief(open_folder)

    def load(self):
        """Returns `(facts, arrays)` of the last epoch, or `None` at first."""

        def read():
            state = self.checkpoint.load()
            return encode(*state) if state else b""

        data = self.workers.ask_chief(read)
        return decode(io.BytesIO(data)) if data else None

    def save(self, facts, arrays):
        """Replaces the state, in the chief."""
        if self.checkpoint:
            self.checkpoint.save(facts, arrays)

    def close(self):
        """Lets go of the folder."""
        if self.checkpoint:
            self.checkpoint.close()


def open_checkpoint(model, folder, run):
    """Opens the folder of a run, in one process or in several.

    Args:
        model: A `keras.Model`.
        folder: String, path of the folder.
        run: Dict, as for `Checkpoint`.

    Returns:
        A `Checkpoint` or a `SharedCheckpoint`.
    """
    workers = workers_of(model)
    if workers is None:
        return Checkpoint(folder, run)
    return SharedCheckpoint(workers, folder, run)


def agree_on(model, number):
    """Returns the number that the chief has, in all processes."""
    workers = workers_of(model)
    if workers is None:
        return number
    return int(workers.ask_chief(lambda: str(number).encode()))
