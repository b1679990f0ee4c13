"""A folder that one process at a time uses."""

import errno
import os
import warnings

from finetune_keras.data.atomic import open_lock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)


def take_lock(path):
    """Locks a file for as long as it is open, or the process lives.

    Where the file system keeps no locks, as some network drives do not, it
    warns, and goes on without. A lock that another process or this one holds
    is a `BlockingIOError`.
    """
    file = open_lock(path)
    try:
        _lock(file)
    except OSError as error:
        if error.errno in _TAKEN:
            file.close()
            raise BlockingIOError(*error.args) from error
        warnings.warn(
            f"No lock can be kept in this place ({error}), so that a second "
            "process that uses it would not be noticed. "
            f"Received: {os.fspath(path)!r}",
            stacklevel=2,
        )
    return file


def _lock(file):
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    try:
        import msvcrt
    except ImportError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    file.seek(0)
    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
