"""What in the data is likely wrong, before a model learns it."""

import numpy as np

from finetune_keras.arguments import check, integer, one_of
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.layout import Pictures, Shown, Table
from finetune_keras.data.near_copies import photo_copies, text_copies
from finetune_keras.data.previews import image_of, thumbnail
from finetune_keras.data.splits import NAMES
from finetune_keras.data.task_checks import check_one_label_each
from finetune_keras.results.label_errors import find_label_errors
from finetune_keras.results.render_figures import draw_sheet, short_label
from finetune_keras.results.render_text import outcome
from finetune_keras.search.candidates import by_name
from finetune_keras.search.evidence import distances, left_out, look, margins
from finetune_keras.training.linear_probe import LOSSES

# The two likeliest classes are as good as equally likely.
_MARGIN = 0.1
# In robust standard deviations (Iglewicz and Hoaglin).
_FAR = 3.5
_SHOWN = 5
# By problem: its title, and the headers of `other` and `score`.
_PROBLEMS = {
    "copy": ("Near copies", "copy of", "similarity"),
    "label": ("Labels that are likely wrong", "suggested", "probability"),
    "ambiguous": ("Between two classes", "other class", "margin"),
    "outlier": ("Unlike all others", "", "distance"),
}


def inspect(data, model, batch_size=32, seed=0, verbose=1):
    """Looks for examples that are likely wrong, in all splits.

    One pass makes the pooled features of a backbone. From these follow, by
    problem:

    - `"copy"`: near copies of an example before, in the order training,
      validation, test, of photos that were resized, compressed again or
      mirrored, and of texts with another case, punctuation or a typo. Dropping
      them all leaves one of each, and no copy of a training example in the
      test data. Cut or turned photos are not found.
    - `"label"`: labels that are likely wrong, by `find_label_errors`, where a
      linear head is solved without the example in question.
    - `"ambiguous"`: examples whose two likeliest classes are less than 0.1
      apart.
    - `"outlier"`: examples far from all others in feature space, for how
      dense it is around these, by the local outlier factor of scikit-learn.

    These are suspicions: look at them (`plot`) before you act. The model
    should not have been trained on these examples, or it knows wrong labels by
    heart: a pretrained backbone is right.

    Args:
        data: `DataSplits`, such as `ft.image_folder`, `ft.text_folder` and
            `ft.from_arrays` return.
        model: Name of a model in `keras.applications`, or a `keras.Model`,
            with a head, which is ignored, or without. Image models see the
            raw pixels in the size of the data.
        batch_size: Integer. Defaults to `32`.
        seed: Integer, of the folds. Defaults to `0`.
        verbose: 0 or 1, a bar while features are made. Defaults to `1`.

    Returns:
        An `Inspection`.

    Raises:
        ValueError: If `data` are no `DataSplits`, or there is no such model.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (60, 32, 32, 3)).astype("float32")
    x[7] = x[3, :, ::-1]                       # a mirrored copy
    data = ft.from_arrays(x, np.arange(60) % 2)
    backbone = keras.Sequential([
        keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=2)
    ])
    found = ft.inspect(data, backbone, verbose=0)
    print(found)
    drop = [row["index"] for row in found.rows if row["problem"] == "copy"]
    figure = found.plot("copy")
    ```

    Reference:

    - [Northcutt et al., 2021](https://doi.org/10.1613/jair.1.12125), labels
    - [Breunig et al., 2000](https://doi.org/10.1145/342009.335388), outliers
    """
    check(
        batch_size=(batch_size, integer(1)),
        seed=(seed, integer(0)),
        verbose=(verbose, integer(0)),
    )
    if not isinstance(data, DataSplits):
        raise ValueError(
            "`data` must be `DataSplits`, which know their splits and names: "
            "`ft.from_arrays(x, y)`, `ft.image_folder(path)`. "
            f"Received: data of type {type(data).__name__}"
        )
    check_one_label_each(data.task, "inspect")
    (named,) = by_name([model]).items()
    return Inspection(data, *look(data, named, batch_size, verbose), seed)


class Inspection(Shown):
    """What `inspect` found; `print` shows the first of each problem.

    Attributes:
        rows: List of dicts, one a suspicion, the gravest of each problem
            first: `problem`; `index`, the place of the example in
            `data.names`; `name`; `split`; `label`; `other`, the name of what
            it is a copy of, or the class that is suggested instead; `score`,
            the similarity of copies, the probability of the label, the margin
            between two classes, or the distance in robust standard
            deviations. Of copies also `original`, the index of the other; of
            files `path`.
        label_errors: `LabelErrors` of all examples, in the order of
            `data.names`, or `None` where the task is no classification.
        notes: List of sentences on what was not looked for.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    x = np.random.default_rng(0).normal(size=(40, 4))
    y = x[:, 0] > 0
    y[3] = not y[3]
    data = ft.from_arrays(x, y.astype(int))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    found = ft.inspect(data, model, verbose=0)
    print(found.label_errors.order[:2], found.notes)
    ```
    """

    def __init__(self, data, features, y, prints, texts, seed):
        self._data, self._y = data, y
        self.rows, self.notes, self.label_errors = [], [], None
        self._splits = np.empty(len(y), object)
        for name in NAMES:
            self._splits[data.places[name]] = name
        self._add_copies(features, prints, texts)
        self._add_labels(features, seed)
        self._add_outliers(features)

    def plot(self, problem, n=16):
        """Draws the first examples with a problem.

        Args:
            problem: `"copy"`, `"label"`, `"ambiguous"` or `"outlier"`. Copies
                stand beside what they are copies of.
            n: Integer, how many at most. Defaults to `16`.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.
        """
        check(problem=(problem, one_of(*_PROBLEMS)), n=(n, integer(1)))
        rows = [r for r in self.rows if r["problem"] == problem][:n]
        if not rows:
            raise ValueError(
                f"No example has this problem. Received: problem={problem!r}"
            )
        entries = [(self._input(row), self._title(row)) for row in rows]
        return draw_sheet(entries, width=2 if problem == "copy" else 1)

    def _layout(self):
        by = {name: [] for name in _PROBLEMS}
        for row in self.rows:
            by[row["problem"]].append(row)
        parts = [f"{len(self._y):,} examples"]
        for problem, (title, *header) in _PROBLEMS.items():
            title = f"{title}: {len(by[problem]):,}"
            if problem == "copy":
                across = sum(self._is_across(row) for row in by[problem])
                title += f", {across:,} of something in another split"
            parts += ["", title, *self._table(by[problem], header)]
        return parts + [""] * bool(self.notes) + self.notes

    # === What is looked for ===

    def _add_copies(self, features, prints, texts):
        order = np.concatenate([self._data.places[name] for name in NAMES])
        if prints is not None:
            pairs = photo_copies(prints[order])
        elif texts is not None:
            pairs = text_copies([texts[i] for i in order], features[order])
        else:
            pairs = ()
            self.notes.append(
                "Near copies are looked for in texts, and in photos of at "
                "least 32 pixels on a side."
            )
        rows = [
            self._row("copy", order[i], share, self._data.names[order[j]])
            | {"original": int(order[j])}
            for i, j, share in pairs
        ]
        rows.sort(key=lambda row: (not self._is_across(row), -row["score"]))
        self.rows += rows

    def _add_labels(self, features, seed):
        task, y = self._data.task, self._y
        if task != "classification" or len(np.unique(y)) < 2:
            self.notes.append(
                "Labels are judged of a classification of two classes or more."
            )
            return
        logits = left_out(features, task.members(y), LOSSES[str(task)], seed)
        chances, names = task.softened(logits), self._data.classes
        self.label_errors = find_label_errors(y, chances, names)
        wrong = self.label_errors.rows
        self.rows += [
            self._row("label", r["index"], r["of_label"], r["suggested"])
            for r in wrong
        ]
        leads, others = margins(y, chances)
        leads[[r["index"] for r in wrong]] = np.inf
        self.rows += [
            self._row("ambiguous", i, leads[i], names[others[i]])
            for i in leads.argsort(kind="stable")
            if leads[i] < _MARGIN
        ]

    def _add_outliers(self, features):
        far = distances(features)
        self.rows += [
            self._row("outlier", i, far[i])
            for i in (-far).argsort(kind="stable")
            if far[i] > _FAR
        ]

    # === Rows ===

    def _row(self, problem, i, score, other=None):
        split = self._splits[i]
        row = {
            "problem": problem,
            "index": int(i),
            "name": self._data.names[i],
            "split": split,
            "label": self._data.task.plain(np.atleast_1d(self._y[i])),
            "other": other,
            "score": float(score),
        }
        paths = self._data.columns[split].get("path")
        if paths is not None:
            place = np.flatnonzero(self._data.places[split] == i)[0]
            row["path"] = paths[place]
        return row

    def _is_across(self, row):
        return self._splits[row["original"]] != row["split"]

    def _input(self, row):
        """The input of a row; of a copy both, side by side."""
        places = [row["index"], row.get("original", row["index"])]
        x = self._data.examples(places)[0]
        if row["problem"] != "copy":
            return x[0]
        pixels = [image_of(one) for one in x]
        if pixels[0] is None:
            return " = ".join(x)
        return np.concatenate(pixels, axis=1)

    def _other(self, row):
        if row["problem"] == "copy":
            return f"{row['other']} ({self._splits[row['original']]})"
        return row["other"] or ""

    def _title(self, row):
        lines = [f"{short_label(row['name'])} ({row['split']})"]
        lines.append(short_label(outcome(row["label"])))
        if row["other"] is not None:
            word = "copy of" if row["problem"] == "copy" else "or"
            lines.append(f"{word} {short_label(self._other(row))}")
        return "\n".join(lines)

    def _table(self, rows, header):
        if not rows:
            return []
        cells = [
            [r["name"], r["split"], outcome(r["label"]), self._other(r)]
            + [f"{r['score']:.3f}"]
            for r in rows[:_SHOWN]
        ]
        table = Table(["example", "split", "label", *header], cells)
        sheet = Pictures("", lambda: self._sheet(rows[:_SHOWN]))
        return [table, *["..."] * (len(rows) > _SHOWN), sheet]

    def _sheet(self, rows):
        pairs = [(thumbnail(self._input(r)), self._title(r)) for r in rows]
        return [pair for pair in pairs if pair[0] is not None]
