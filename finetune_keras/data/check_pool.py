"""Many files checked at once, in processes that need no Keras."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import warnings

from finetune_keras.data import image_check
from finetune_keras.engine.packages import PIL

_CHUNK = 64
# Below, a process would take longer to start than the files to check.
_FEW = 1000


def check_all(paths, progress):
    """Checks files here and in a process for each further core.

    Threads would wait for each other: half of the work on a small photo holds
    the interpreter. `progress` gets the number of files done so far.
    """
    results = [None] * len(paths)
    starts = iter(range(0, len(paths), _CHUNK))
    lock, done = threading.Lock(), [0]

    def take():
        with lock:
            start = next(starts, None)
        return start, None if start is None else paths[start : start + _CHUNK]

    def put(start, found):
        results[start : start + len(found)] = found
        with lock:
            done[0] += len(found)

    helpers = (os.cpu_count() or 1) - 1 if len(paths) >= _FEW else 0
    threads = [
        threading.Thread(target=_lead, args=(take, put), daemon=True)
        for _ in range(helpers)
    ]
    for thread in threads:
        thread.start()
    with warnings.catch_warnings():
        # Pillow warns of odd EXIF data and of large images.
        warnings.simplefilter("ignore")
        for start, chunk in iter(take, (None, None)):
            put(start, _check_here(chunk))
            progress(done[0])
    for thread in threads:
        thread.join()
    for i, result in enumerate(results):
        if result is None:  # of a process that died
            results[i] = image_check.check_image(paths[i])
    progress(len(paths))
    return results


def _check_here(chunk):
    return [image_check.check_image(path) for path in chunk]


def _lead(take, put):
    """Feeds one process until there are no more files, or it dies."""
    with contextlib.suppress(OSError, ValueError), _start() as process:
        _send(process, PIL.Image.MAX_IMAGE_PIXELS)
        for start, chunk in iter(take, (None, None)):
            _send(process, chunk)
            put(
                start, [tuple(x) for x in json.loads(process.stdout.readline())]
            )
        process.stdin.close()


def _start():
    # Isolated and without `site`, it starts in half the time; where Pillow
    # lies it is told.
    where = os.path.dirname(os.path.dirname(PIL.Image.__file__))
    script = os.path.abspath(image_check.__file__)
    code = (
        f"import runpy, sys; sys.path.append({where!r}); "
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _send(process, value):
    process.stdin.write(json.dumps(value) + "\n")
    process.stdin.flush()
