"""Pretrained weights: from a file, or by Keras from the network."""

import contextlib
import difflib
import functools
import os
import traceback
import urllib.error
import urllib.request
import warnings

from finetune_keras.engine.network import call_within

ANSWER_SECONDS = 5
STALL_SECONDS = 60
SUFFIXES = (".h5", ".hdf5", ".keras")


def check_weights(weights):
    """Checks that weights are `"imagenet"`, `None` or an existing file."""
    if weights in ("imagenet", None):
        return weights
    expected = (
        '`weights` must be "imagenet", `None`, or the path of an existing file '
        "that ends in .h5, .weights.h5 or .keras. "
    )
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"{expected}Received: weights={weights!r}")
    path = os.path.expanduser(os.fspath(weights))
    if not path.endswith(SUFFIXES):
        raise ValueError(
            f"{expected}This is neither a known name nor such a file. "
            f"Received: weights={weights!r}"
        )
    if not os.path.isfile(path):
        raise ValueError(
            f"{expected}There is no such file, seen from {os.getcwd()}. "
            f"Received: weights={weights!r}"
        )
    return path


def load_weights(model, path):
    """Loads a weights file, or says why it does not fit.

    The model is left as it was then.
    """
    before = model.get_weights()
    try:
        # Keras warns hundreds of times of a file that it then refuses.
        with warnings.catch_warnings(record=True) as caught:
            model.load_weights(path)
    except Exception as error:
        model.set_weights(before)
        # Keras appends the values of a whole kernel.
        reason = str(error).split(" Target variable")[0].strip()[:500]
        reason = f"{type(error).__name__}: {reason}"
        raise ValueError(
            f"The weights file does not fit the backbone {model.name!r}: it "
            "belongs to another model or to other arguments (such as `alpha`), "
            "is incomplete, or holds a head as well. Pass the file of this "
            "very model, of the official ones the one with `no_top` or `notop` "
            f"in its name. Mismatch: {reason} Received: weights={path!r}"
        ) from error
    for w in caught:
        warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


def build(function, weights, **kwargs):
    """Builds an application, and says soon and clearly why it fails.

    With `"imagenet"`, Keras looks for the file of weights in its cache, and
    downloads it where it is absent.
    """
    name = getattr(function, "__name__", repr(function))
    with _impatient_downloads() as downloads:
        try:
            return function(weights=weights, **kwargs)
        except Exception as error:
            if downloads.url is not None:
                message = _no_download(name, downloads.url, error)
            elif isinstance(error, OSError):
                message = _unreadable(name, error)
            elif isinstance(error, ValueError):
                kwargs.pop("input_tensor", None)
                message = f"{name} cannot be built so: {error} "
                message += f"Received: weights={weights!r}, {kwargs!r}"
            else:
                raise
            raise ValueError(message) from error


def _no_download(name, url, error):
    target = _local_in_traceback(error, "download_target")
    target = target or os.path.join("~/.keras/models", os.path.basename(url))
    folder, file = os.path.split(target)
    error = error.__context__ or error
    return (
        f"The ImageNet weights of {name} are not on this machine, and the "
        f"download failed: {error}. Wanted: the file {file}, from {url}. Put "
        f"it at {target}, or pass `weights=PATH` with a weights file of your "
        f"own, or `weights=None` for random weights.{_similar(folder, file)} "
        'Received: weights="imagenet"'
    )


def _similar(folder, file):
    files = os.listdir(folder) if os.path.isdir(folder) else []
    near = difflib.get_close_matches(file, files, n=3, cutoff=0.85)
    if not near:
        return ""
    return (
        f" In that folder is {' and '.join(near)}, for a similar model: if its "
        "weights fit, pass its path as `weights`."
    )


def _unreadable(name, error):
    path = _local_in_traceback(error, "weights_path")
    return (
        f"The ImageNet weights of {name} are on this machine but cannot be "
        "read; the file is damaged or its download was cut off. Delete it, and "
        f"it is downloaded again: {path}. {error}. "
        'Received: weights="imagenet"'
    )


def _local_in_traceback(error, variable):
    """Looks up where Keras was about to put, or read, the file.

    Keras publishes neither its cache folder nor the names of the files, and
    derives some of them from the URL in no regular way.
    """
    found = [
        frame.f_locals[variable]
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if isinstance(frame.f_locals.get(variable), str)
    ]
    return found[-1] if found else None


@contextlib.contextmanager
def _impatient_downloads():
    """Makes `urllib` give up on a network that does not answer.

    A server of names or files is waited for a few seconds; a download that has
    begun may take its time.
    """
    previous = getattr(urllib.request, "_opener", None)
    opener = _ImpatientOpener(previous or urllib.request.build_opener())
    urllib.request.install_opener(opener)
    try:
        yield opener
    finally:
        urllib.request.install_opener(previous)


class _ImpatientOpener:
    """Opens URLs, and remembers the last one in `url`."""

    def __init__(self, opener):
        self.opener = opener
        self.url = None

    def open(self, request, data=None, timeout=None):
        self.url = getattr(request, "full_url", request)
        ask = functools.partial(
            self.opener.open, request, data, timeout=STALL_SECONDS
        )
        try:
            return call_within(ANSWER_SECONDS, ask)
        except TimeoutError as error:
            raise urllib.error.URLError(str(error)) from error
