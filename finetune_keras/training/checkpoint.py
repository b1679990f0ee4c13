"""The folder of a run that survives being killed."""

import contextlib
import io
import json
import os
import pathlib
import warnings

from finetune_keras.data.atomic import replacing
from finetune_keras.data.folder_lock import take_lock
from finetune_keras.training.described import differences
from finetune_keras.training.saved import OtherFormat, decode, encode

_STATE, _BEFORE = "state.npz", "state.before.npz"


class Checkpoint:
    """The folder of a run: its last two states, of which each is whole.

    A state is written under another name and then takes its place, so that
    a kill at any moment leaves the one before. Where the disk damages the last
    one, the run goes on from the one before it. The folder is locked while
    the run lives; the lock goes with the process. Of several processes the
    chief alone opens it, and what it reads goes to the others through the
    run's own connections, so that they need no common file system.

    Args:
        folder: String, path of the folder. It is made where it is not there.
        run: Dict of plain data that says which run it is, see `facts_of`. A
            state of another run is refused.
        workers: The `Workers` of the run. Defaults to `None`, one process.

    Raises:
        ValueError: If another run uses the folder.
    """

    def __init__(self, folder, run, workers=None):
        self.folder = os.fspath(folder)
        self.run = json.loads(json.dumps(run))
        self.workers = workers
        self.state, self.before = (
            os.path.join(self.folder, name) for name in (_STATE, _BEFORE)
        )
        self._lock = None
        if workers is None:
            self._open()
        else:
            workers.ask_chief(self._open)

    def _open(self):
        os.makedirs(self.folder, exist_ok=True)
        try:
            self._lock = take_lock(os.path.join(self.folder, "run.lock"))
        except BlockingIOError as error:
            raise ValueError(
                "Another run is using this folder at this moment. Give each "
                "run a folder of its own. "
                f"Received: checkpoint_dir={self.folder!r}"
            ) from error
        # What a kill left behind while it was written.
        for left in pathlib.Path(self.folder).glob("state.*.new.npz"):
            left.unlink(missing_ok=True)
        return b""

    @property
    def is_here(self):
        """Whether it is this process that has the folder open."""
        return self._lock is not None

    def close(self):
        """Lets go of the folder."""
        if self.is_here:
            self._lock.close()

    def load(self):
        """Returns the state of the last epoch, or `None` at first.

        Raises:
            ValueError: If the state is that of another run, or damaged.
        """
        if self.workers is None:
            return self._read()
        data = self.workers.ask_chief(lambda: encode(self._read()))
        return decode(io.BytesIO(data))

    def _read(self):
        paths = [p for p in (self.state, self.before) if os.path.exists(p)]
        damaged = []
        for path in paths:
            try:
                run, state = decode(path)
            except OtherFormat:
                raise ValueError(
                    f"The state in {path!r} was written by another version of "
                    "this library, which knew another part of a run. Go on "
                    "with that version, or give this run an empty folder. "
                    f"Received: checkpoint_dir={self.folder!r}"
                ) from None
            except ValueError as error:
                damaged.append(str(error))
                continue
            if damaged:
                warnings.warn(
                    f"{damaged[0]} The run goes on from the state of the "
                    "epoch before.",
                    stacklevel=2,
                )
            self._check(run)
            return state
        if damaged:
            raise ValueError(
                f"{' '.join(damaged)} The run cannot go on: delete the file, "
                "or pass another folder, to begin again. "
                f"Received: checkpoint_dir={self.folder!r}"
            )
        return None

    def _check(self, run):
        different = differences(run, self.run)
        if different:
            more = len(different) - 3
            listed = "; ".join(different[:3])
            raise ValueError(
                f"The folder holds the state of another run: {listed}"
                f"{f', and {more} more' if more > 0 else ''}. Go on with the "
                "same, or give this run an empty folder. "
                f"Received: checkpoint_dir={self.folder!r}"
            )

    def save(self, state):
        """Replaces the state before the last, and leaves the last one."""
        if not self.is_here:
            return
        with replacing(self.state) as file:
            file.write(encode([self.run, state]))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.state, self.before)
