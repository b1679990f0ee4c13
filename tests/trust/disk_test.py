"""Disks that are full, file systems without locks, systems without `fcntl`."""

import errno
import os
import pathlib
import resource

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache import activation_store
from finetune_keras.data import folder_lock
from finetune_keras.search.folder import in_use
from finetune_keras.testing import randomize
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.training.checkpoint import Checkpoint

layers = keras.layers


def run(**options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = layers.Dense(64, activation="tanh", name="body")(inputs)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))
    randomize(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, 64)
    plan = ft.Plan([ft.Phase("head", 3, 0.1)])
    history = ft.fine_tune(
        model, plan, data, data, batch_size=16, verbose=0, **options
    )
    return model, history


@pytest.fixture
def small_disk():
    """No file of this process may be larger than 8 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_cache_that_the_disk_cannot_hold_is_off(small_disk):
    model, history = run(cache="disk")
    assert "off: the disk has no room" in history.phases[0]["cache"]
    expected, _ = run(cache="off")
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("error", [None, errno.EOPNOTSUPP])
def test_all_the_room_on_disk_is_taken_at_once(tmp_path, monkeypatch, error):
    """A file with holes would end in a signal that nobody can catch."""
    if error:

        def refuse(*args):
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    sizes = []
    memmap = np.memmap

    def look(file, *args, **kwargs):
        sizes.append(os.fstat(file.fileno()).st_blocks * 512)
        return memmap(file, *args, **kwargs)

    monkeypatch.setattr(np, "memmap", look)
    shape = 3, 2**21 + 5
    array = activation_store.make_room("disk", tmp_path, shape, "float32")
    assert sizes[0] >= 4 * np.prod(shape)
    array[2, -1] = 1.0
    assert array.sum() == 1.0


def test_a_full_disk_under_the_state_leaves_the_best_epoch(
    tmp_path, monkeypatch
):
    save, saved = Checkpoint.save, []

    def fill_up(self, state):
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(state)
        save(self, state)

    monkeypatch.setattr(Checkpoint, "save", fill_up)
    with pytest.raises(OSError, match="No space left") as caught:
        run(checkpoint_dir=tmp_path)
    assert len(caught.value.history.epochs) == 3
    monkeypatch.undo()
    _, history = run(checkpoint_dir=tmp_path)
    assert len(history.epochs) == 3


def refuse_locks(monkeypatch, code):
    def flock(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder_lock.fcntl, "flock", flock)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_other_run(
    tmp_path, monkeypatch, code
):
    refuse_locks(monkeypatch, code)
    with pytest.warns(UserWarning, match="No lock can be kept"):
        Checkpoint(tmp_path, {"plan": 1}).close()
    with (
        pytest.warns(UserWarning, match="No lock can be kept"),
        in_use(tmp_path / "search"),
    ):
        pass


def test_a_lock_that_is_taken_is_another_run(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EWOULDBLOCK)
    with pytest.raises(ValueError, match="Another run is using"):
        Checkpoint(tmp_path, {"plan": 1})
    with (
        pytest.raises(ValueError, match="Another search"),
        in_use(tmp_path / "search"),
    ):
        pass


WINDOWS = """
import sys, types, warnings
sys.modules["fcntl"] = None
import finetune_keras as ft
from finetune_keras.training.checkpoint import Checkpoint

locked = set()

def locking(handle, mode, size):
    import os
    place = os.fstat(handle).st_ino
    if place in locked:
        raise PermissionError(13, "Permission denied")
    locked.add(place)

sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
checkpoint = Checkpoint(sys.argv[1], {"plan": 1})
try:
    Checkpoint(sys.argv[1], {"plan": 1})
except ValueError as error:
    print("REFUSED", error)
sys.modules["msvcrt"] = None
warnings.simplefilter("error", UserWarning)
try:
    Checkpoint(sys.argv[1], {"plan": 1})
except UserWarning as warning:
    print("WARNED", warning)
print("SEARCH", ft.tune.__name__)
"""


def test_the_library_is_imported_and_locks_where_there_is_no_fcntl(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    done = FreshProcess("-c", WINDOWS, tmp_path, cwd=root)
    assert done.wait() == 0, done.stderr[-3000:]
    assert "REFUSED Another run is using" in done.stdout
    assert "WARNED No lock can be kept" in done.stdout
    assert "SEARCH tune" in done.stdout
