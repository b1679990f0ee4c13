"""Files checked before training: every image is decoded once, in parallel."""

import os
import typing

import keras

from finetune_keras.arguments import check, one_of
from finetune_keras.data.check_pool import check_all
from finetune_keras.data.manifest import Manifest
from finetune_keras.data.printable import printable
from finetune_keras.engine.packages import PIL, require, tensorflow


class FileCheck(typing.NamedTuple):
    """What is known of an image; `problem` is `None` where it can be used."""

    name: str
    digest: str
    width: int
    height: int
    problem: str | None
    note: str | None

    @property
    def size(self):
        return self.width, self.height


def check_images(folder, files, verbose=1):
    """Decodes every image that has changed since the last check.

    `files` are `(name, size, mtime)`, as `list_folder` finds them; the
    `FileCheck`s come in their order.
    """
    # Or every photo would pass for damaged, now and at the next check.
    require(PIL, tensorflow)
    checks = check_files(folder, files, check_all, Manifest(folder), verbose)
    return [FileCheck(*found) for found in checks]


def check_files(folder, files, check, manifest, verbose=1):
    """Checks files that the `manifest` does not know: rows, name first.

    `check` takes paths and a function of the number that is done.
    """
    known = [manifest.find(*file) for file in files]
    new = [i for i, found in enumerate(known) if found is None]
    if new:
        if verbose:
            print(printable(f"Checking {len(new)} files in {folder}"))
        paths = [os.path.join(folder, files[i][0]) for i in new]
        found = check(paths, _progress(len(paths), verbose))
        for i, result in zip(new, found, strict=True):
            known[i] = result
        # What is remembered of other files stays: they may be asked for next.
        entries = dict(manifest.entries)
        for (name, size, mtime), found in zip(files, known, strict=True):
            entries[name] = [size, mtime, *found]
        manifest.write(entries)
    return [(file[0], *found) for file, found in zip(files, known, strict=True)]


def _progress(count, verbose):
    if not verbose:
        return lambda done: None
    return keras.utils.Progbar(count, unit_name="file", verbose=verbose).update


def check_bad_files(bad, bad_files):
    """Raises where there are bad files and the user refuses them."""
    meaning = "leave them out and list them, or raise"
    check(bad_files=(bad_files, one_of("skip", "refuse"), meaning))
    if bad and bad_files == "refuse":
        shown = "\n".join(f"  {name!r}: {why}" for name, why in bad[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"{len(bad)} files cannot be used:\n{shown}{more}\nMend or remove "
            'them, or leave them out with `bad_files="skip"`. '
            "Received: bad_files='refuse'"
        )
