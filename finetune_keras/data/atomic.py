"""Files that are there whole or not at all, and follow no link."""

import contextlib
import os
import pathlib
import secrets


@contextlib.contextmanager
def replacing(path):
    """Opens a new file that takes the place of another once it is whole.

    It lies beside the other under a name that nobody can foresee, so that
    nothing which is there already is written through: a symbolic link at
    `path` is replaced, and what it leads to stays as it is. Where the writing
    fails or the process is killed, the old file is as it was. What writes by
    name takes the `name` of the binary file, which ends as `path` does.
    """
    path = pathlib.Path(path)
    # Cut, since the name of a file has a limit.
    name = f"{path.stem[:40]}.{secrets.token_hex(8)}.new{path.suffix}"
    new = path.with_name(name)
    try:
        with open(new, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_text(path, text):
    """Writes a text file whole, or leaves the old one.

    What UTF-8 cannot hold is replaced.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8", "replace"))


def open_lock(path):
    """Opens a file that is only there to be locked, and keeps what it holds.

    A symbolic link, which could lead anywhere, is a `ValueError`.
    """
    if os.path.islink(path):
        raise ValueError(
            "A symbolic link stands where a file for locking is kept. It may "
            "lead anywhere, so it is not opened: remove it, or use another "
            f"folder. Received: {os.fspath(path)!r}"
        )
    return open(path, "ab", opener=_no_link)


def _no_link(path, flags):
    # Windows has no such flag.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
