"""Where stored activations go: in memory, on disk, or nowhere."""

import os
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
    """Picks a place by size.

    Args:
        bytes_: Integer, how much is to be stored.
        options: Dict, see `cache_options`.
        folder: String, where on disk, or `None` for a temporary place.

    Returns:
        `"memory"` or `"disk"`.

    Raises:
        CacheRefused: If it does not fit.
    """
    storage, budget = options["storage"], options["budget"]
    if storage in ("auto", "memory"):
        if bytes_ <= (budget or free_memory() // 3):
            return "memory"
    if storage in ("auto", "disk"):
        stat = os.statvfs(folder or tempfile.gettempdir())
        if bytes_ <= (budget or stat.f_bavail * stat.f_frsize // 2):
            return "disk"
    raise CacheRefused(
        f"activations of {bytes_ / 2**20:.0f} MiB are over the budget"
    )


def make_room(place, folder, shape, dtype):
    """Makes an empty array in memory or on disk."""
    if place == "memory":
        return np.empty(shape, dtype)
    # Unlinked at once: the file goes when the run ends, however it ends.
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)
