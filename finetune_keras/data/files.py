"""Files checked before training: every image is decoded once, in threads."""

import concurrent.futures
import hashlib
import io
import os
import typing
import warnings

import keras

from finetune_keras.data.images import mode_note, mode_problem, orientation
from finetune_keras.data.manifest import Manifest

_IGNORED = ("thumbs.db", "desktop.ini")
_CHUNK = 32
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0")
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MORE_THAN_ONE = ("GIF", "TIFF", "WEBP", "PNG")


class FileCheck(typing.NamedTuple):
    """What is known of a file; `problem` is `None` where it can be used."""

    name: str
    digest: str
    width: int
    height: int
    problem: str | None
    note: str | None


def list_files(folder):
    """Lists the files below a folder, those in subfolders too.

    Hidden files and those that file managers leave behind are left out. Links
    are followed.

    Args:
        folder: String.

    Returns:
        List of tuples `(name, size, mtime)`, sorted by name: the path relative
        to the folder with `/`, the bytes and the time of change in
        nanoseconds.
    """
    return sorted(_walk(os.fspath(folder), "", ()))


def _walk(folder, prefix, above):
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _IGNORED:
                continue
            if entry.is_dir():
                inner = f"{prefix}{entry.name}/"
                yield from _walk(entry.path, inner, (*above, here))
            else:
                yield (f"{prefix}{entry.name}", *_stamp(entry))


def _stamp(entry):
    try:
        stat = entry.stat()
    except OSError:
        # A broken link: found and named by the check.
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def check_images(folder, files, verbose=1):
    """Decodes every image that has changed since the last check.

    Args:
        folder: String, the folder that the names are relative to.
        files: List of `(name, size, mtime)`, as `list_files` returns it.
        verbose: 0 or 1. `1` shows a progress bar where files are decoded.
            Defaults to `1`.

    Returns:
        List of `FileCheck`, in the order of `files`.
    """
    manifest = Manifest(folder)
    known = [manifest.find(*file) for file in files]
    new = [i for i, found in enumerate(known) if found is None]
    if new:
        if verbose:
            print(f"Checking {len(new)} files in {folder}")
        paths = [os.path.join(folder, files[i][0]) for i in new]
        for i, result in zip(new, _check_all(paths, verbose), strict=True):
            known[i] = result
        # What is remembered of other files stays: they may be asked for next.
        entries = dict(manifest.entries)
        for (name, size, mtime), found in zip(files, known, strict=True):
            entries[name] = [size, mtime, *found]
        manifest.write(entries)
    return [
        FileCheck(file[0], *found)
        for file, found in zip(files, known, strict=True)
    ]


def _check_all(paths, verbose):
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    bar = keras.utils.Progbar(len(paths), unit_name="file", verbose=verbose)
    results = []
    # Twice the cores: while one thread holds the interpreter, others decode.
    workers = 2 * (os.cpu_count() or 1)
    with warnings.catch_warnings():
        # Pillow warns of odd EXIF data and of large images.
        warnings.simplefilter("ignore")
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for part in pool.map(_check_chunk, chunks):
                results.extend(part)
                if verbose:
                    bar.update(len(results))
    return results


def _check_chunk(paths):
    return [check_image(path) for path in paths]


def check_image(path):
    """Decodes one image.

    Args:
        path: String.

    Returns:
        Tuple `(digest, width, height, problem, note)`.
    """
    try:
        data = _read(path)
    except OSError as error:
        return "", 0, 0, f"cannot be read: {error.strerror}", None
    digest = hashlib.sha256(data).hexdigest()[:32]
    if not data:
        return digest, 0, 0, "empty, 0 bytes", None
    try:
        return digest, *_decode(data)
    except Exception as error:
        return digest, 0, 0, _problem(error, data), None


def _read(path):
    """Bytes of a file; half the system calls of `open`."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(handle).st_size
        data = os.read(handle, size)
        while len(data) < size and (more := os.read(handle, size - len(data))):
            data += more
        return data
    finally:
        os.close(handle)


def _decode(data):
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    width, height = image.size
    if orientation(image) > 4:
        width, height = height, width
    problem, note = mode_problem(image.mode), mode_note(image.mode)
    if image.format in ("JPEG", "MPO"):
        # An eighth of the size is faster, and still reads every byte.
        image.draft(None, (1, 1))
    image.load()
    if _lacks_end(data, image.format):
        problem = "truncated"
    if image.format in _MORE_THAN_ONE and getattr(image, "n_frames", 1) > 1:
        note = f"{image.n_frames} frames, the first is used"
    return width, height, problem, note


def _lacks_end(data, image_format):
    """Finds a missing end that the decoders do not miss."""
    if image_format == "PNG":
        # The name of the last part, and its checksum.
        return not 0 <= data.rfind(b"IEND") <= len(data) - 8
    if image_format == "JPEG" and not data.endswith(_END):
        return data.find(_END, _scan_start(data)) < 0
    return False


def _scan_start(data):
    """Where the pixels of a JPEG begin: after its header and thumbnails."""
    position = 2
    while position + 4 <= len(data) and data[position : position + 2] != _SCAN:
        if data[position] != 0xFF:
            return position
        if data[position + 1] == 0xFF:
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 2 + length
    return position


def _problem(error, data):
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for Pillow (`PIL.Image.MAX_IMAGE_PIXELS`)"
    if isinstance(error, Image.UnidentifiedImageError):
        if data.startswith(_SIGNATURES):
            return "truncated or damaged: its header cannot be read"
        if b"ftyphei" in data[:16] or b"ftypmif" in data[:16]:
            return "HEIC, which Pillow cannot read; save it as JPEG"
        return "not an image"
    message = str(error)
    if "truncated" in message.lower():
        return "truncated"
    return f"damaged: {message or type(error).__name__}"


def check_bad_files(bad, bad_files):
    """Raises where there are bad files and the user refuses them."""
    if bad_files not in ("skip", "refuse"):
        raise ValueError(
            '`bad_files` must be "skip" (leave them out and list them) or '
            f'"refuse" (raise). Received: bad_files={bad_files!r}'
        )
    if bad and bad_files == "refuse":
        shown = "\n".join(f"  {name!r}: {why}" for name, why in bad[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"{len(bad)} files cannot be used:\n{shown}{more}\nMend or remove "
            'them, or leave them out with `bad_files="skip"`. '
            "Received: bad_files='refuse'"
        )
