"""The report of an evaluation: printed, compared, stored, drawn."""

import json

import numpy as np

from finetune_keras.data import previews
from finetune_keras.data.atomic import write_text
from finetune_keras.data.facts import damaged
from finetune_keras.data.layout import Pictures, Shown
from finetune_keras.data.printable import printable
from finetune_keras.results import render_figures
from finetune_keras.results.render_html import render_html, worst_sheet
from finetune_keras.results.render_text import layout
from finetune_keras.results.report_file import FORMAT, pack_arrays, read_report


class Report(Shown):
    """What `evaluate` found.

    `print(report)` shows it as tables.

    Attributes:
        task: What is predicted: it equals `"classification"`,
            `"multi_label"`, `"regression"`, `"segmentation"`, `"detection"`
            or, of an embedder, `"vectors"`.
        classes: List of strings, one for each column of the outputs; of an
            embedder the metrics.
        metrics: Dict from name to float, or to `None` where the data leave
            the metric undefined; `notes` says why.
        intervals: Dict from name to `[low, high]`, 95 %, or to `None`. Empty
            without bootstrap.
        per_class: Dict from class to a dict of its metrics and its number of
            examples `n`.
        confusion: Integer array of counts, rows true and columns predicted, of
            masks in pixels; `None` but for classification and masks.
        slices: Dict from column to a dict from value to a dict with `n`,
            `metrics` and `intervals`.
        worst: List of dicts, the highest loss first: `index` in the data,
            `name` of the file, or `None` where it is not known, `loss`,
            `true`, `predicted`, `probability` of what was predicted, and
            `input`. Of masks true and predicted are the shares of the classes,
            and `input` is a picture: the image, its mask, what was predicted.
            Of boxes it is the image with them, true ones green.
        notes: List of strings, what to know before reading the numbers.
        calibration: Dict, the facts of a calibrated model, or `None`.
        coverage: Dict, of a calibrated model that abstains: `decided`, the
            number of examples; `right` and `right_abstained`, the shares that
            are right among them and among the others; `abstained`, a list of
            dicts, the least sure first. Of one with prediction sets:
            `sets_hold_truth`, a share, and `set_size`, a mean. Else `None`.
        model: String, the name of the model.
        predictions: The labels and outputs behind it: `y_true`, `y_pred`,
            `outputs` (probabilities, or values of a regression) and
            `sample_weight`, arrays in the order of the data; of masks
            `counts`, pixels (pictures, classes, classes).

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = np.eye(3)[y] + rng.normal(0, 0.5, (60, 3))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    report = ft.evaluate(model, (x, y), verbose=0)
    report.to_json("monday.json")
    print(ft.Report.from_json("monday.json").confusion)
    ```
    """

    def __init__(self, predictions, results, worst):
        self.predictions = predictions
        self.task = predictions.task
        self.classes = list(predictions.classes)
        self.metrics = results["metrics"]
        self.intervals = results["intervals"]
        self.per_class = results["per_class"]
        confusion = results["confusion"]
        self.confusion = None if confusion is None else np.asarray(confusion)
        self.slices = results["slices"]
        self.notes = results["notes"]
        self.calibration = results["calibration"]
        # Files of before have none.
        self.coverage = results.get("coverage")
        self.settings = results["settings"]
        self.model = results["model"]
        names = results.get("names")
        self.worst = [
            _worst_entry(predictions, names, *entry) for entry in worst
        ]

    def __len__(self):
        return len(self.predictions)

    def _layout(self):
        return [*layout(self), Pictures("", lambda: worst_sheet(self))]

    def __repr__(self):
        found = ", ".join(
            f"{printable(name)}={value:.4g}"
            for name, value in list(self.metrics.items())[:2]
            if value is not None
        )
        return f"<Report {self.task}, {len(self)} examples, {found}>"

    def to_dict(self):
        """Returns all but the inputs and single predictions as plain data."""
        worst = [
            {key: value for key, value in entry.items() if key != "input"}
            for entry in self.worst
        ]
        return {
            "model": self.model,
            "task": str(self.task),
            "classes": self.classes,
            "examples": len(self),
            "label_digest": self.predictions.label_digest,
            "metrics": self.metrics,
            "intervals": self.intervals,
            "per_class": self.per_class,
            "confusion": None
            if self.confusion is None
            else self.confusion.tolist(),
            "slices": self.slices,
            "worst": worst,
            "notes": self.notes,
            "calibration": self.calibration,
            "coverage": self.coverage,
            "settings": self.settings,
        }

    def to_json(self, path=None):
        """Writes the report with all predictions, to compare it another day.

        Of the worst inputs only thumbnails and shortened texts are kept.

        Args:
            path: String or `pathlib.Path` of the file; an old one is replaced
                when the new one is complete. Defaults to `None`: no file.

        Returns:
            String, the JSON text.

        Example:

        ```python
        import keras, numpy as np
        import finetune_keras as ft

        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        x = np.arange(9.0)[:, None]
        report = ft.evaluate(model, (x, 2 * x), verbose=0)
        print(len(report.to_json()))
        ```
        """
        record = {
            "format": FORMAT,
            **self.to_dict(),
            "threshold": _plain(self.predictions.threshold),
            "inputs": [previews.pack(entry["input"]) for entry in self.worst],
            "arrays": pack_arrays(self.predictions),
        }
        text = json.dumps(record, allow_nan=False)
        if path is not None:
            write_text(path, text)
        return text

    @classmethod
    def from_json(cls, source):
        """Reads what `to_json` wrote.

        Args:
            source: String or `pathlib.Path` of the file, or the JSON text.

        Returns:
            A `Report`.

        Raises:
            ValueError: If it is no report, or a damaged one.
        """
        record, predictions, inputs = read_report(source)
        report = cls(predictions, record, [])
        report.worst = [
            {**entry, "input": value}
            for entry, value in zip(record["worst"], inputs, strict=True)
        ]
        try:
            # What it is for: a metric may be missing that it cannot do without.
            str(report)
        except (LookupError, TypeError, ValueError) as error:
            reason = f"it cannot be shown ({type(error).__name__}: {error})"
            raise damaged(source, reason) from error
        return report

    def to_html(self, path, model=None, history=None, data=None):
        """Writes one HTML file with tables, figures and the worst examples.

        Styles and images are inside of it; it loads nothing else, fits a
        phone, a screen and paper, and is dark where the reader likes it dark.
        Of the examples at most a fifth are shown as the worst.

        Args:
            path: String or `pathlib.Path` of the file; an old one is replaced
                when the new one is complete.
            model: The model that was judged: then the page shows what in the
                five worst photos or texts spoke for what was predicted, see
                `explain`, and what the model is. Defaults to `None`.
            history: The `FineTuneHistory` of its training, whose curves are
                drawn. Defaults to `None`.
            data: The `DataSplits`, whose facts are told. Defaults to `None`.

        Raises:
            ImportError: If `model` is given, and matplotlib is not installed.
            ValueError: If `model` cannot be explained, or is another one.
        """
        write_text(path, render_html(self, model, history, data))

    def plot_confusion(self):
        """Draws the confusion matrix, each row as shares of the true class.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the task is not classification.
        """
        return render_figures.plot_confusion(self)

    def plot_reliability(self):
        """Draws accuracy against confidence, in the 15 bins of the ECE.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the task is not classification.
        """
        return render_figures.plot_reliability(self)

    def plot_worst(self, n=9):
        """Draws the inputs with the highest loss, with truth and prediction.

        Args:
            n: Integer, how many. Defaults to `9`.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If no inputs were kept.
        """
        return render_figures.plot_worst(self, n)


def _worst_entry(predictions, names, loss, index, x):
    task = predictions.task
    entry = {
        "index": int(index),
        "name": None if names is None else names[index],
        "loss": loss,
    }
    if task.is_dense:
        return {**entry, **x}
    scores = predictions.scores[index]
    true, chosen = predictions.y_true[index], predictions.y_pred[index]
    return {
        **entry,
        "true": task.plain(true),
        "predicted": task.plain(chosen),
        "probability": task.chance(scores, true, chosen),
        "input": task.drawn(x, true, chosen),
    }


def _plain(threshold):
    return None if threshold is None else np.asarray(threshold).tolist()
