"""Some pixels of masks, as single examples."""

import numpy as np

from finetune_keras.results.predicted import open_data, predict_batch

# Pixels beside each other tell the same.
_OF_A_PICTURE = 2000


def pixels_of(model, data, task):
    """`(probabilities, labels)` of some pixels of each picture of data."""
    rng, found = np.random.default_rng(0), []
    batches, _ = open_data(data, name="validation")
    for x, y, _ in batches:
        scores = task.rows(predict_batch(model, x))
        labels = task.labels(y, "validation")
        for one, mask in zip(scores, labels, strict=True):
            known = np.flatnonzero(mask.ravel() != task.ignore_class)
            size = min(len(known), _OF_A_PICTURE)
            some = rng.choice(known, size, replace=False)
            found.append((one.reshape(mask.size, -1)[some], mask.ravel()[some]))
    if not sum(len(labels) for _, labels in found):
        raise ValueError(
            "`validation` holds no pixel of a class. "
            f"Received: validation={data!r}"
        )
    return tuple(map(np.concatenate, zip(*found, strict=True)))
