"""Which backbone suits the data, told before any of them is trained."""

import time

import numpy as np

from finetune_keras.arguments import check, integer, maybe, one_of
from finetune_keras.data.labels import as_rows
from finetune_keras.data.layout import Shown, Table
from finetune_keras.data.source import kind_of
from finetune_keras.data.source_examples import Arrays
from finetune_keras.data.targets import encode
from finetune_keras.data.task import Task
from finetune_keras.data.task_checks import check_one_label_each
from finetune_keras.search.candidates import by_name, read_features
from finetune_keras.search.transferability import h_score, leep, logme
from finetune_keras.training.data_checks import check_given
from finetune_keras.training.linear_probe import (
    LOSSES,
    MOST_ROWS,
    one_thread,
    solve_probe,
)


def rank_backbones(
    backbones, data, task=None, batch_size=32, seed=0, verbose=1
):
    """Ranks backbones by how well their features suit the data.

    Each backbone sees each example once, frozen; its last features, pooled by
    their mean, are then scored in seconds, and nothing is trained but linear
    models. The best comes first by the loss of a cross-validated linear probe:
    that of a regularised linear head on examples that it has not seen. Beside
    it stand the scores of the literature:

    - LogME, the evidence of linear models on the features;
    - H-score, how much of the features the classes explain, with a shrunk
      covariance, so that wide features are no merit;
    - LEEP, how well the classes of the old head predict the new ones, for
      classifiers that still have it.

    Of these three, higher is better. All tell of features as they are; a
    backbone that gains much by training may end above one that needs none.

    Args:
        backbones: List of names of models in `keras.applications`, which come
            with their ImageNet weights, and of `keras.Model`s, with a head or
            without; or a dict from names of your own to such. Image models
            get raw pixels in the size of the data, scaled as each wants them
            (see `backbone`). All are in memory at once.
        data: Labelled data as for `fine_tune`; of `DataSplits` the training
            data. Exact copies count once. Scores are of 4,000 of the examples
            at most, drawn at random.
        task: `"classification"`, `"multi_label"` or `"regression"`. Defaults
            to `None`: that of `DataSplits`, or what the labels say.
        batch_size: Integer, for arrays. Defaults to `32`.
        seed: Integer, of the folds. Defaults to `0`.
        verbose: 0 or 1, a bar while the data is read. Defaults to `1`.

    Returns:
        A `BackboneRanking`.

    Raises:
        ValueError: If there is no such backbone, or the labels tell nothing
            or not what they are.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x = np.random.default_rng(0).integers(0, 256, size=(40, 32, 32, 3))
    y = np.where(x[:, :16].mean((1, 2, 3)) > x.mean((1, 2, 3)), "up", "down")

    def small(filters):
        return keras.Sequential([
            keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(filters, 3, activation="relu"),
        ])

    ranking = ft.rank_backbones(
        {"narrow": small(4), "wide": small(8)}, (x, y), verbose=0
    )
    print(ranking)
    model = ft.image_classifier(ranking.backbones[ranking.best], 2)
    ```

    Reference:

    - [You et al., 2021](https://arxiv.org/abs/2102.11005), LogME
    - [Bao et al., 2019](https://doi.org/10.1109/ICIP.2019.8803726), H-score
    - [Ibrahim et al., 2021](https://arxiv.org/abs/2110.06893), its shrinkage
    - [Nguyen et al., 2020](https://arxiv.org/abs/2002.12462), LEEP
    """
    check(
        task=(task, maybe(one_of(*Task.judged()))),
        batch_size=(batch_size, integer(1)),
        seed=(seed, integer(0)),
    )
    named = by_name(backbones)
    if hasattr(data, "train") and hasattr(data, "validation"):
        check_one_label_each(data.task, "rank_backbones")
        data, task = data.train, task or str(data.task)
    check_given(data, "data")
    if kind_of(data) is Arrays and len(data) > 1:
        # Names of classes, and lists of them, are arrays of their own.
        data = data[0], as_rows(data[1]), *data[2:]
    candidates, labels, rows = read_features(named, data, batch_size, verbose)
    # The scores of more examples differ little, and take long.
    rows = np.random.default_rng(seed).permutation(rows)[:MOST_ROWS]
    targets = _targets(labels[rows], task)
    with one_thread():
        scored = [_scored(one, rows, targets, seed) for one in candidates]
    return BackboneRanking(scored, named, targets.task, len(rows))


class BackboneRanking(Shown):
    """What `rank_backbones` found; `print` shows it as a table.

    Attributes:
        rows: List of dicts, the best first: `name`, `parameters` (below the
            head), `features` (how many), `accuracy` and `log_loss` of the
            probe (of a regression `r2` and `rmse`), `logme`, `h_score`,
            `leep` (`None` where they do not apply), and `seconds`.
        best: String, the name of the first.
        ties: List of the names of those that are not clearly worse: the 95 %
            interval of the difference of their losses, example by example,
            holds zero.
        backbones: Dict from names to backbones, as they were given.
        task: The task, which equals its name.
        examples: Integer, how many were scored.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    x = np.random.default_rng(0).normal(size=(40, 4))
    ranking = ft.rank_backbones([backbone], (x, x.sum(axis=1)), verbose=0)
    print(ranking.best, ranking.rows[0]["r2"])
    ```
    """

    def __init__(self, scored, backbones, task, examples):
        scored = sorted(scored, key=lambda one: one[1].mean())
        self.rows = [row for row, _ in scored]
        self.best = self.rows[0]["name"]
        self.ties = [
            row["name"]
            for row, losses in scored[1:]
            if not _is_clear(losses - scored[0][1])
        ]
        self.backbones = backbones
        self.task = task
        self.examples = examples

    def _layout(self):
        names = [n for n in self.rows[0] if n in _COLUMNS]
        header = [_COLUMNS[name][0] for name in names]
        cells = [
            [_cell(row[name], _COLUMNS[name][1]) for name in names]
            for row in self.rows
        ]
        parts = [f"{self.examples:,} examples, {self.task}"]
        parts.append(Table(header, cells))
        if self.ties:
            ties = ", ".join(self.ties)
            parts.append(f"Not clearly worse than {self.best}: {ties}")
        return parts


_COLUMNS = {
    "name": ("backbone", "{}"),
    "parameters": ("parameters", "{:,}"),
    "features": ("features", "{:,}"),
    "log_loss": ("probe log loss", "{:.3f}"),
    "accuracy": ("accuracy", "{:.3f}"),
    "rmse": ("probe RMSE", "{:.4g}"),
    "r2": ("R2", "{:.3f}"),
    "logme": ("LogME", "{:.4f}"),
    "h_score": ("H-score", "{:.3f}"),
    "leep": ("LEEP", "{:.3f}"),
    "seconds": ("seconds", "{:.1f}"),
}


def _cell(value, form):
    return "-" if value is None else form.format(value)


def _is_clear(differences):
    width = 1.96 * differences.std() / np.sqrt(len(differences))
    return differences.mean() > width


# === Labels ===


def _targets(labels, task):
    labels = as_rows(labels)
    targets = encode(labels, task or _told(labels))
    y = targets.y
    if (y == y[0]).all():
        raise ValueError(
            "All examples have the same label, so that no backbone can tell "
            f"them apart. Received: {len(y)} labels that equal {labels[0]!r}"
        )
    return targets


def _told(labels):
    """Name of the task where numbers tell it, and `encode` would not ask."""
    if labels.dtype.kind not in "biuf":
        return None
    binary = np.isin(labels, (0, 1)).all()
    if labels.ndim == 2:
        one_hot = binary and (labels.sum(axis=1) == 1).all()
        return "classification" if one_hot else None
    if labels.dtype.kind != "f":
        return None
    if not binary and (labels == np.round(labels)).all():
        raise ValueError(
            "The labels are whole numbers as floats: classes or amounts? Pass "
            'task="classification" or task="regression". '
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return "classification" if binary else None


# === Scores ===


def _scored(candidate, rows, targets, seed):
    """`(row, losses)` of a candidate; the losses are those of the examples."""
    begun = time.perf_counter()
    x, (task, y) = candidate.features(rows), targets
    columns = task.members(y) if task.has_chances else y.reshape(len(y), -1)
    columns = columns.astype("float64")
    probe = solve_probe(x, columns, LOSSES[str(task)], seed=seed)
    judged, losses = _judged(task, y, probe.left_out)
    row = {
        "name": candidate.name,
        "parameters": candidate.parameters,
        "features": x.shape[1],
        **judged,
        "logme": logme(x, columns if task.has_chances else _standard(columns)),
        "h_score": None,
        "leep": None,
    }
    if task == "classification":
        row["h_score"] = h_score(x, y, "auto")
        old = candidate.old_classes(rows)
        row["leep"] = None if old is None else leep(old, y)
    row["seconds"] = candidate.seconds + time.perf_counter() - begun
    return row, losses


def _judged(task, y, outputs):
    """Figures of predictions of examples left out, and the loss of each."""
    if not task.has_chances:
        y = y.reshape(len(y), -1).astype("float64")
        losses = task.losses(y, outputs)
        share = losses.mean() / ((y - y.mean(axis=0)) ** 2).mean()
        rmse = float(np.sqrt(losses.mean()))
        return {"rmse": rmse, "r2": float(1 - share)}, losses
    scores = task.softened(outputs)
    losses = task.losses(y, scores)
    right = float((task.decide(scores) == y).mean())
    return {"log_loss": float(losses.mean()), "accuracy": right}, losses


def _standard(columns):
    """Values without mean and scale, which the scores know nothing of."""
    spread = columns.std(axis=0)
    return (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1)
