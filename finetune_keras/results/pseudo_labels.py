"""Examples without labels, given those that a model is sure of."""

import warnings

import numpy as np

from finetune_keras.arguments import check, part
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.unlabeled import Unlabeled
from finetune_keras.results.bundle_facts import told_task
from finetune_keras.results.predicted import predict_all
from finetune_keras.results.temperature import fit_scaling, scaled


def pseudo_labels(model, data, unlabeled, precision=0.85):
    """Adds examples without labels to the training data, with guessed ones.

    A model that was trained on the few that have labels guesses the others.
    Of each class equally many are taken, those that the model is surest of,
    and no more than half of an equal share; as many as have, all together, a
    mean probability of `precision`, by temperatures fitted on the validation
    data. Validation and test data stay as they are. Copies of what is in any
    split are left out. Then train a new model on what is returned.

    Args:
        model: A `keras.Model`, trained on `data`: best the head alone.
        data: `DataSplits` of a classification, with validation data.
        unlabeled: Examples of the same kind. Of `ft.image_folder` the path of
            another folder of images, with or without folders in it; otherwise
            an array, a list of texts, or a batched `tf.data.Dataset` of such,
            whose labels, if any, are not looked at.
        precision: Float in [0, 1), the share of the guesses that should be
            right. Defaults to `0.85`.

    Returns:
        `DataSplits`, whose `notes` say how many were taken, and whose
        `columns["train"]["guessed"]` says which. Where the model is not sure
        enough none is taken, of which a warning tells.

    Raises:
        ValueError: If the task is no classification, there are no validation
            data, or the examples are of another kind.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = (rng.normal(size=(200, 4)) + 2 * y[:, None]).astype("float32")
    data = ft.from_arrays(x[:40], y[:40], seed=0)
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    model = ft.replace_head(backbone, 2)
    plan = ft.plans.linear_probe()
    ft.fine_tune(model, plan, data.train, data.validation, verbose=0)
    more = ft.pseudo_labels(model, data, x[40:])
    print(more.notes[-1])
    ft.fine_tune(model, plan, more.train, more.validation, verbose=0)
    ```

    Reference:

    - [Cascante-Bonilla et al., 2021](https://arxiv.org/abs/2001.06001), the
      surest of the guesses, and a new model
    - [Zou et al., 2018](https://arxiv.org/abs/1810.07911), as many of each
      class
    """
    check(precision=(precision, part, "that of right guesses"))
    _check(data)
    task = _task(model, data)
    more = Unlabeled(unlabeled, data)
    outputs, labels, _ = predict_all(model, data.validation, "validation")
    known = task.scores(outputs).astype("float64")
    y = task.labels(labels, "validation")
    scale, _ = fit_scaling(known, y, "temperature", "softmax")
    outputs, *_ = predict_all(model, more.dataset, "unlabeled")
    scores = task.scores(outputs).astype("float64")
    chances = scaled(scores, scale, None, "softmax", np)
    rows = _surest(chances, precision)
    return more.joined(
        rows, chances[rows].argmax(axis=1), _told(chances, rows, precision)
    )


def _check(data):
    if not isinstance(data, DataSplits) or data.task != "classification":
        raise ValueError(
            "`data` must be `DataSplits` of a classification, whose classes "
            "are guessed: `ft.from_arrays(x, y)`, `ft.image_folder(path)`. "
            f"Received: data of type {type(data).__name__}"
            + (f", {data.task}" if isinstance(data, DataSplits) else "")
        )
    if data.validation is None:
        raise ValueError(
            "`data` must have validation data, which tell how sure is sure "
            "enough. Received: data without validation"
        )


def _task(model, data):
    task = told_task(model)
    task = told_task(model, data) if task.classes is None else task
    if task.names() != list(data.classes):
        raise ValueError(
            "The model must have the classes of `data`, in their order. "
            f"Received: a model of {task.names()[:5]}, and data of "
            f"{data.classes[:5]}"
        )
    return task


def _surest(chances, precision):
    """Places of the surest of each class, of as many as are sure enough."""
    guessed, sure = chances.argmax(axis=1), chances.max(axis=1)
    order = np.lexsort((-sure, guessed))
    firsts = np.searchsorted(guessed[order], guessed[order])
    ranks = np.empty(len(sure), int)
    ranks[order] = np.arange(len(sure)) - firsts
    sums, counts = np.bincount(ranks, sure), np.bincount(ranks)
    means = np.cumsum(sums) / np.cumsum(counts)
    enough = int(np.argmin(np.append(means >= precision, False)))
    most = max(len(sure) // (2 * chances.shape[1]), 1)
    return np.flatnonzero(ranks < min(enough, most))


def _told(chances, rows, precision):
    count = f"{len(chances):,} examples without labels"
    if not len(rows):
        best = chances.max()
        warnings.warn(
            f"None of {count} was taken: the model is not sure enough, at most "
            f"{best:.2f}. Label some of them by hand, or lower `precision`. "
            f"Received: precision={precision}",
            stacklevel=3,
        )
        return f"None of {count} was taken: the surest has {best:.2f}."
    mean = chances[rows].max(axis=1).mean()
    return (
        f"{len(rows):,} of {count} were taken to train on, by guessed labels, "
        f"of which about {mean:.0%} are right."
    )
