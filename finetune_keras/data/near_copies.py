"""Copies that are not equal byte by byte: smaller, recompressed, mirrored."""

import difflib
import re
import unicodedata

import numpy as np

# Chosen on photos and copies of them, `benchmarks/suspects.py`, and questions.
LEAST_PHOTO = 0.95
LEAST_TEXT = 0.95
LEAST_FEATURES = 0.5
_SIDE = 16
_BLOCK = 1024
# Flatter ones, in gray levels, show nothing but noise of the compression.
_FLAT = 0.5


def has_detail(x):
    """Tells images of which the fingerprints tell one from another."""
    shape = np.shape(x)
    images = len(shape) == 4 and shape[-1] in (1, 3, 4)
    return images and min(shape[1:3]) >= 2 * _SIDE


def fingerprints(images):
    """Float array (images, 2, 256): of each image, and of its mirror image.

    The means of 16 by 16 cells, without those of the cells around, of length
    one: what is left hangs on no brightness, contrast or size, and differs
    where two photos only have their composition in common.
    """
    gray = np.asarray(images, "float32").mean(axis=-1)
    rows, columns = (_cells(size) for size in gray.shape[1:])
    cells = rows @ gray @ columns.T
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sum(
        padded[:, i : i + _SIDE, j : j + _SIDE]
        for i in range(3)
        for j in range(3)
    )
    detail = cells - around / 9
    both = np.stack([detail, detail[:, :, ::-1]], axis=1)
    both = both.reshape(len(both), 2, -1)
    lengths = np.linalg.norm(both, axis=-1, keepdims=True)
    # Pixels may be scaled to 1 already.
    level = _SIDE * (_FLAT if gray.max() > 1 else _FLAT / 255)
    return np.where(lengths > level, both / np.maximum(lengths, 1e-9), 0)


def _cells(size):
    """Matrix (16, size) of the share of each pixel in each cell."""
    edges = np.linspace(0, size, _SIDE + 1)[:, None]
    pixels = np.arange(size)
    upper = np.minimum(edges[1:], pixels + 1)
    shares = np.maximum(upper - np.maximum(edges[:-1], pixels), 0)
    return (shares * _SIDE / size).astype("float32")


def photo_copies(prints):
    """Yields `(copy, original, similarity)` of fingerprints.

    The original is the first image that is similar enough.
    """
    own, mirrored = prints[:, 0], prints[:, 1]
    for start in range(0, len(own), _BLOCK):
        some = own[start : start + _BLOCK]
        before = own[: start + len(some)], mirrored[: start + len(some)]
        found = np.maximum(some @ before[0].T, some @ before[1].T)
        found = np.tril(found, start - 1)
        first = (found >= LEAST_PHOTO).argmax(axis=1)
        for i in np.flatnonzero(found.max(axis=1) >= LEAST_PHOTO):
            yield start + i, first[i], min(float(found[i, first[i]]), 1.0)


def text_copies(texts, features):
    """Yields `(copy, original, similarity)` of texts.

    Those that differ in case, spaces and punctuation alone have similarity
    one; of those with similar features it is the share of equal letters.
    """
    plain, first = [plain_text(text) for text in texts], {}
    for i, text in enumerate(plain):
        original = first.setdefault(text, i)
        if original < i:
            yield i, original, 1.0
    # Of equal ones the first is enough.
    places = np.array(list(first.values()))
    lengths = np.array([len(plain[i]) for i in places])
    for i, others in _similar(features[places]):
        # Those of other lengths cannot have as many letters in common.
        some, length = lengths[others], lengths[i]
        equal = np.minimum(some, length) / (some + length)
        others = others[2 * equal >= LEAST_TEXT]
        for j, share in _shares(plain[places[i]], plain, places[others]):
            yield places[i], j, share
            break


def _shares(text, others, places):
    """Yields the place and the share of equal letters of nearly equal texts."""
    # What it knows of the second text serves for all.
    matcher = difflib.SequenceMatcher(None, b=text, autojunk=False)
    for i in places:
        matcher.set_seq1(others[i])
        if matcher.quick_ratio() >= LEAST_TEXT:
            share = matcher.ratio()
            if share >= LEAST_TEXT:
                yield i, share


def plain_text(text):
    """A text without case, punctuation and form."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", text)) or "".join(text.split())


def _similar(features):
    """Yields rows, and those before with similar standardised features."""
    spread = features.std(axis=0)
    x = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    for start in range(0, len(x), _BLOCK):
        some = x[start : start + _BLOCK]
        found = np.tril(some @ x[: start + len(some)].T, start - 1)
        for i, row in enumerate(found >= LEAST_FEATURES):
            yield start + i, np.flatnonzero(row)
