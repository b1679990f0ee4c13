"""The best model for the data at hand, in one call."""

from finetune_keras.arguments import check, integer, positive
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.layout import Shown, Table
from finetune_keras.data.task_checks import check_one_label_each
from finetune_keras.results.bundle import Bundle, save_bundle
from finetune_keras.results.bundle_facts import facts_of
from finetune_keras.search.candidates import by_name
from finetune_keras.search.contest import Contest


def best_model(data, backbones, minutes=10, seed=0, verbose=1):
    """Makes the best model of the data that a few minutes allow.

    Candidates are made in the order of what they cost, as long as there is
    time: for each backbone a solved head on the last features and on those of
    the depths that cross-validation chooses; then the short training that
    `advise` tries; then a training of all layers, that of the best backbone
    first. The validation data judge them. The simplest wins, unless another
    has a lower loss by more than the standard error of the difference. The
    winner gives way to the mean of the best candidates (`ensemble`), which
    hangs less on the luck of few examples, unless that is worse than the best
    of them in loss and in accuracy, in each by more than two standard errors;
    and of photos to the mean over flipped and zoomed views
    (`test_time_augmentation`), by the rule of one standard error. The test
    data are not touched.

    Each candidate has a copy of the backbone: those that are given stay as
    they are.

    Args:
        data: `DataSplits` with validation data, such as `ft.image_folder` and
            `ft.from_arrays` return.
        backbones: Name of a model in `keras.applications`, which comes with
            its ImageNet weights in the size that they were made for; or a
            `keras.Model`, such as `ft.backbone` and `ft.text_backbone` return;
            or a list, or a dict from names, of several. Photos of another size
            are resized in the model.
        minutes: Positive float, the time to spend. What is predicted to take
            longer, from what was measured, is left out; the heads of the first
            backbone are made in any case. More time gives more candidates, so
            the result may differ from machine to machine. Defaults to `10`.
        seed: Integer, of folds, heads and training. Defaults to `0`.
        verbose: 0 or 1, a line for each candidate. Defaults to `1`.

    Returns:
        A `BestModel`: `print` shows all candidates.

    Raises:
        ValueError: If there is no such backbone, or `data` are no
            `DataSplits` with validation data.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype("float32")
    data = ft.from_arrays(x, np.where(x[:, 0] > 0, "yes", "no"), seed=0)
    backbone = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(8, activation="tanh"),
    ])
    best = ft.best_model(data, backbone, minutes=0.01, verbose=0)
    print(best)
    print(best.predict(rng.normal(size=(2, 4))).labels)
    best.save("best.keras")
    ```

    Reference:

    - [Breiman et al., 1984](https://doi.org/10.1201/9781315139470), the
      simplest within one standard error
    """
    check(
        minutes=(minutes, positive),
        seed=(seed, integer(0)),
        verbose=(verbose, integer(0)),
    )
    if not isinstance(data, DataSplits) or data.validation is None:
        raise ValueError(
            "`data` must be `DataSplits` with validation data, by which the "
            "candidates are judged: `ft.from_arrays(x, y)`, "
            "`ft.image_folder(path)`. "
            f"Received: data of type {type(data).__name__}"
            + (", without validation" if isinstance(data, DataSplits) else "")
        )
    check_one_label_each(data.task, "best_model")
    several = isinstance(backbones, (list, tuple, dict))
    named = by_name(backbones if several else [backbones])
    return BestModel(Contest(data, minutes, seed, verbose).run(named))


class BestModel(Shown):
    """What `best_model` made; `print` shows the leaderboard.

    Attributes:
        model: The `keras.Model` that was chosen, of all candidates or several
            of them: as any other to predict, evaluate, calibrate and save.
        name: String, the name of the candidate that was chosen.
        plan: The `Plan` that leads to such a model, or `None` of an ensemble.
        leaderboard: List of dicts, the lowest loss first: `name`, `loss` (log
            loss, or squared error) on the validation data, its 95 %
            `interval`, `accuracy` (`f1_micro` of several labels, `rmse` of
            values) and `seconds`. As the validation data choose among them,
            the figures are a little too good: judge `model` by `ft.evaluate`
            on the test data.
        notes: List of strings, what was left out and why.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    data = ft.from_arrays(x, x.sum(axis=1), task="regression", seed=0)
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    best = ft.best_model(data, backbone, minutes=0.01, verbose=0)
    print(best.name, best.leaderboard[0]["rmse"])
    print(ft.evaluate(best.model, data.test, verbose=0))
    ```
    """

    def __init__(self, contest):
        chosen = contest.chosen
        self.model, self.plan = chosen.model, chosen.plan
        self.name = chosen.name
        ordered = sorted(contest.candidates, key=lambda one: one.loss)
        self.leaderboard = [one.row(contest.seed) for one in ordered]
        self.notes, self._data = contest.notes, contest.data

    def predict(self, inputs, batch_size=32, verbose=0):
        """Predicts from raw inputs.

        Args:
            inputs: See `Bundle.predict`: paths of photos, texts, a table, or
                an array.
            batch_size: Integer. Defaults to `32`.
            verbose: 0 or 1, as for `model.predict`. Defaults to `0`.

        Returns:
            `Predictions`, one for each input.

        Raises:
            ValueError: If an input cannot be read; the message names it.
        """
        facts = facts_of(self.model, self._data, plan=self.plan)
        return Bundle(self.model, facts).predict(inputs, batch_size, verbose)

    def save(self, path):
        """Saves the model as a bundle, see `save_bundle`.

        Args:
            path: String, ending in `.keras`.

        Returns:
            String, the path. `ft.load_bundle` reads it.

        Raises:
            ValueError: If the path does not end in `.keras`.
        """
        return save_bundle(self.model, path, self._data, plan=self.plan)

    def _layout(self):
        metric = list(self.leaderboard[0])[3]
        header = ["candidate", "loss", "95 %", metric, "seconds"]
        table = Table(header, [_cells(x) for x in self.leaderboard])
        return [table, "", f"Chosen: {self.name}", *self.notes]


def _cells(row):
    name, loss, (low, high), score, seconds = row.values()
    interval = f"{low:.3f} to {high:.3f}"
    score = "-" if score is None else f"{score:.3f}"
    return [name, f"{loss:.3f}", interval, score, f"{seconds:.0f}"]
