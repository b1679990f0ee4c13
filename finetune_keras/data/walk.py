"""What stands in a folder, whatever links and rights it has."""

import os
import typing

_IGNORED = ("thumbs.db", "desktop.ini")


class Listing(typing.NamedTuple):
    """Content of a folder, by paths relative to it, with `/`.

    `files` holds `(name, size, mtime)`, sorted by name: the bytes and the time
    of change in nanoseconds. `folders` holds names. `problems` holds `(name,
    reason)` of folders that were not read.
    """

    files: list
    folders: list
    problems: list


def list_folder(folder):
    """Lists the files and folders below a folder: a `Listing`.

    Hidden files and those that file managers leave behind are left out. Links
    are followed, after the folders that are really there, and each folder is
    read once, however many links lead to it.
    """
    root = os.fspath(folder)
    found, seen = Listing([], [], []), _around(root)
    problem = _scan(root, "", found, pending := [], links := [])
    if problem:
        raise ValueError(
            f"The folder {problem}. Give the rights to read it, or name "
            f"another one. Received: folder={root!r}"
        )
    while pending or links:
        # What is really there comes before what links lead to.
        links.sort(reverse=True)
        name = (pending or links).pop()
        path = os.path.join(root, name)
        problem = _enter(path, name, seen)
        problem = problem or _scan(path, name, found, pending, links)
        if problem:
            found.problems.append((name, problem))
    return Listing(*map(sorted, found))


def _enter(path, name, seen):
    """Says why a folder is not read, or remembers that it is."""
    try:
        key = _identity(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if key in seen:
        return f"not read again: the same folder as {seen[key]}"
    seen[key] = repr(name)
    return None


def _scan(path, name, found, pending, links):
    """Sorts the entries of one folder; says why it cannot be read."""
    try:
        with os.scandir(path) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    prefix = f"{name}/" if name else ""
    inner = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _IGNORED:
            continue
        if not _is_folder(entry):
            found.files.append((f"{prefix}{entry.name}", *stamp(entry)))
            continue
        found.folders.append(f"{prefix}{entry.name}")
        (links if entry.is_symlink() else inner).append(prefix + entry.name)
    pending += reversed(inner)
    return None


def _around(root):
    """The folder and those that hold it: a link to them leads in circles."""
    seen, path = {}, os.path.realpath(root)
    while True:
        try:
            seen[_identity(path)] = "one that it lies in"
        except OSError:
            break
        path, below = os.path.dirname(path), path
        if path == below:
            break
    return seen


def _identity(path):
    stat = os.stat(path)
    # Where a file system numbers nothing, the path tells.
    real = stat.st_ino or os.path.realpath(path)
    return stat.st_dev, real


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def stamp(entry):
    """Size and time of change of an entry of a folder, or of a path."""
    try:
        stat = entry.stat()
    except OSError:
        # A broken link: found and named by the check.
        return -1, -1
    return stat.st_size, stat.st_mtime_ns
