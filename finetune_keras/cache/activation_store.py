"""Where stored activations go: in memory, on disk, or nowhere."""

import errno
import os
import shutil
import tempfile

import numpy as np

from finetune_keras.data.pipeline import free_memory

_OPTIONS = {
    "storage": "auto",
    "dtype": "float32",
    "views": 1,
    "budget": None,
    "shared": None,
}
_STORAGES = ("auto", "memory", "disk", "off")


# What file systems say that know no reserving.
_CANNOT_RESERVE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class CacheRefused(Exception):
    """Why a prefix is not cached; the run goes on without."""


def cache_options(cache):
    """Completes and checks the argument `cache` of `fine_tune`.

    Args:
        cache: `"auto"`, `"memory"`, `"disk"`, `"off"`, or a dict with any of
            `storage` (one of these), `dtype` (`"float32"` or `"bfloat16"`),
            `views` (integer, augmented passes to store) and `budget`
            (integer, bytes) and `shared` (a `SharedActivations`).

    Returns:
        Dict with all five.

    Raises:
        ValueError: If an option is unknown or out of range.
    """
    given = cache if isinstance(cache, dict) else {"storage": cache}
    options = {**_OPTIONS, **given}
    views, budget = options["views"], options["budget"]
    if (
        set(options) != set(_OPTIONS)
        or options["storage"] not in _STORAGES
        or options["dtype"] not in ("float32", "bfloat16")
        or not (isinstance(views, int) and views >= 1)
        or not (budget is None or budget > 0)
    ):
        raise ValueError(
            f"`cache` must be one of {list(_STORAGES)}, or a dict with "
            '"storage" (one of these), "dtype" ("float32" or "bfloat16"), '
            '"views" (a positive integer), "budget" (bytes) and "shared" '
            "(a `SharedActivations`). "
            f"Received: cache={cache!r}"
        )
    return options


def place_for(bytes_, options, folder):
    """Picks `"memory"` or `"disk"` by size, or refuses what does not fit."""
    storage, budget = options["storage"], options["budget"]
    if storage in ("auto", "memory"):
        if bytes_ <= (budget or free_memory() // 3):
            return "memory"
    if storage in ("auto", "disk"):
        free = shutil.disk_usage(folder or tempfile.gettempdir()).free
        if bytes_ <= (budget or free // 2):
            return "disk"
    raise CacheRefused(
        f"activations of {bytes_ / 2**20:.0f} MiB are over the budget"
    )


def make_room(place, folder, shape, dtype):
    """Makes an array in memory or on disk, to be filled."""
    if place == "memory":
        return np.empty(shape, dtype)
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    # Unlinked at once: the file goes when the run ends, however it ends.
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            _reserve(file, size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise CacheRefused(
            f"the disk has no room for activations of {size / 2**20:.0f} MiB "
            f"({error.strerror})"
        ) from error


def _reserve(file, size):
    """Takes all of the room that a file needs.

    A file with holes would get its room as it is written to, and where there
    is none the system kills the process without a word.
    """
    reserve = getattr(os, "posix_fallocate", None)
    if reserve and size:
        try:
            reserve(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
    zeros = bytes(min(size, 2**24))
    for start in range(0, size, 2**24):
        file.write(zeros[: size - start])
    file.flush()
