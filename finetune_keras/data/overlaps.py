"""How boxes overlap, and which of them are found."""

import numpy as np


def overlaps(boxes, others):
    """Intersection over union of (left, top, right, bottom), (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = np.clip(high - low, 0.0, None).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def found(ious, thresholds):
    """Which boxes find a true one, boolean (thresholds, boxes).

    `ious` (boxes, true) are in the order of falling scores. As pycocotools
    does it: each box takes the true one that it overlaps most among those
    that are left, and of equals the last.
    """
    levels = np.minimum(thresholds, 1 - 1e-10)[:, None]
    right = np.zeros((len(levels), len(ious)), bool)
    taken = np.zeros((len(levels), ious.shape[1]), bool)
    if not ious.shape[1]:
        return right
    rows, last = np.arange(len(levels)), ious.shape[1] - 1
    for i, iou in enumerate(ious):
        free = (iou >= levels) & ~taken
        best = last - np.where(free, iou, -1.0)[:, ::-1].argmax(axis=1)
        right[:, i] = free.any(axis=1)
        taken[rows, best] |= right[:, i]
    return right
