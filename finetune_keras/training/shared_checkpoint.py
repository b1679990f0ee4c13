"""The folder of a run of several processes: the chief keeps the state."""

import io

from finetune_keras.engine.workers import workers_of
from finetune_keras.training.resume import Checkpoint, decode, encode


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
