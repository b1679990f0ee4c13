"""What was found in files, remembered between runs."""

import contextlib
import hashlib
import json
import os

from finetune_keras.data.atomic import write_text

_VERSION = 2
_FIELDS = 7


def cache_folder():
    """Folder for what can be computed again.

    `FINETUNE_KERAS_CACHE` where it is set, else `finetune_keras` in the user's
    folder for caches.
    """
    own = os.environ.get("FINETUNE_KERAS_CACHE")
    if own:
        return own
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(os.path.expanduser(base), "finetune_keras")


class Manifest:
    """Results of checks of the files of one folder, in a JSON file.

    `kind` tells what else than images they were checked to be.

    A result holds for a name, a size and a time of change. Whatever is wrong
    with the file or its folder, the manifest is empty or is not written: the
    files are then checked again, which is slow and right.
    """

    def __init__(self, folder, kind=""):
        # What is no image may well be a sound.
        what = os.fsencode(os.path.realpath(folder)) + kind.encode()
        name = hashlib.sha256(what).hexdigest()[:32] + ".json"
        self.path = os.path.join(cache_folder(), "files", name)
        self.entries = self._read()

    def find(self, name, size, mtime):
        """Result for an unchanged file as a list, or `None`."""
        entry = self.entries.get(name)
        if entry is None or entry[0] != size or entry[1] != mtime:
            return None
        return entry[2:]

    def write(self, entries):
        """Replaces all results at once; silent where it cannot."""
        self.entries = entries
        folder = os.path.dirname(self.path)
        text = json.dumps({"version": _VERSION, "files": entries})
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            write_text(self.path, text)

    def _read(self):
        try:
            with open(self.path) as file:
                content = json.load(file)
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict) or content.get("version") != _VERSION:
            return {}
        files = content.get("files")
        if not isinstance(files, dict) or not all(map(_whole, files.values())):
            return {}
        return files


def _whole(entry):
    return isinstance(entry, list) and len(entry) == _FIELDS
