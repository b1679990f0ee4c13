"""What is predicted: what labels and outputs mean."""

import numpy as np

from finetune_keras.data.outputs import (
    activation_of,
    as_columns,
    check_shape,
    class_names_of,
    columns_of,
    ends_in_logits,
    is_detector,
    kind_of,
    writes_text,
)
from finetune_keras.data.task_checks import (
    as_ids,
    check_finite,
    in_unit_interval,
    infer_name,
    refuse_probabilities,
)


class Task:
    """What a model predicts, and what its labels and outputs mean.

    It is decided where data or a head are made, or told by a model
    (`Task.of`), and asked wherever labels or outputs are read. Each kind is
    one subclass. A task equals its name, `data.task == "classification"`, and
    whatever is of its kind.

    Args:
        classes: List of strings in the order of the outputs, or `None`.
        outputs: Integer, outputs for an input, or `None` if not known.
        logits: Boolean, whether outputs are logits; `None` if nothing tells.
    """

    name = None
    # Of a new head, with its fewest outputs.
    activation, fewest = None, 1
    # What a verdict is about, what tables of slices show besides, and what
    # people call the outputs.
    main_metric, more_metrics, noun = None, (), "outputs"
    # By which classes are sorted, worst first, with the sign of what is worse;
    # and what all of them together are called.
    class_metric, total = ("f1", 1), "all"
    # Whether each input has one prediction, which `evaluate` can judge, and
    # whether a bundle gives people what they ask for.
    is_judged = is_bundled = True
    # Whether what speaks for a prediction can be shown.
    is_explained = True
    # What decides, where it is told.
    threshold = None
    # Whether labels are one number each.
    is_flat = False
    # Whether labels are classes, which may weigh more or less.
    weighs_classes = True
    # The kind that judges it, where it is another.
    judged_as = None
    # Whether the right answer may be none, which a threshold decides.
    may_lack = False
    # Whether an output says nothing alone: what counts is which are near.
    is_compared = False
    # Whether inputs come with labels, and whether these are as long as the
    # inputs, and are cut with them.
    has_labels, are_sequences = True, False
    # Whether each pixel of a picture has a prediction of its own.
    is_dense = False

    def __init__(self, classes=None, outputs=None, logits=False):
        self.classes = classes
        self.outputs = outputs
        self.logits = logits

    def __str__(self):
        return self.name

    def __repr__(self):
        return repr(self.name)

    def __eq__(self, other):
        return isinstance(other, (str, Task)) and str(other) == self.name

    def __hash__(self):
        return hash(self.name)

    def get_config(self):
        """Plain data, what a model's file keeps of it."""
        outputs, classes = self.outputs, self.classes
        return {"kind": self.name, "classes": classes, "outputs": outputs}

    @staticmethod
    def from_config(config):
        config = dict(config)
        return Task.kinds()[config.pop("kind")](**config)

    @staticmethod
    def kinds():
        """Dict from names to the kinds of tasks."""
        found, left = {}, [Task]
        while left:
            kind = left.pop(0)
            left += kind.__subclasses__()
            if kind.name is not None:
                found[kind.name] = kind
        return found

    @staticmethod
    def judged():
        """Those of `kinds` that evaluation can judge."""
        return {k: v for k, v in Task.kinds().items() if v.is_judged}

    @staticmethod
    def named(name, *args, **kwargs):
        """A task that evaluation can judge, by the name that people give."""
        kinds = Task.judged()
        if name not in list(kinds):
            raise ValueError(
                f"`task` must be one of {list(kinds)}. Two classes are "
                f'"classification". Received: task={name!r}'
            )
        return kinds[name](*args, **kwargs)

    @property
    def takes_threshold(self):
        """Whether a threshold decides."""
        return False

    @property
    def output_activation(self):
        """What its outputs end in, or should where they are logits."""
        return self.activation

    # === What a model tells ===

    @staticmethod
    def of(model, told=None, classes=None):
        """The task of a model.

        That which is kept with the model, or else `told`, a task or its name;
        or what its loss and its last activation say. Where classes are named
        it is no regression.

        Returns:
            A `Task`, or `None` where nothing tells it.
        """
        kept = Task.kept_with(model)
        if kept is not None and not kept.is_judged:
            return kept
        alone = kept is None and told is None and not is_detector(model)
        if alone and len(getattr(model, "outputs", None) or ()) > 1:
            from finetune_keras.data.several import Several

            return Several.of_model(model, classes)
        name = kept or told or kind_of(model)
        columns = columns_of(model)
        if classes is None:
            classes = class_names_of(model)
            classes = kept.classes if kept else classes
        if classes is not None and not kept and name in (None, "regression"):
            several = activation_of(model) == "sigmoid" and columns != 1
            name = "multi_label" if several else "classification"
        if name is None:
            return None
        task = Task.kinds()[str(name)](classes, columns)
        task.ask(model)
        return task

    def ask(self, model):
        """Learns from a model what its outputs are."""
        self.logits = self.has_chances and ends_in_logits(model)

    @staticmethod
    def kept_with(model):
        """The task that a model is made for, or `None` where none is kept."""
        if writes_text(model):
            return Task.kinds()["text_generation"]()
        kept = getattr(model, "task", None)
        return kept if isinstance(kept, Task) else None

    @staticmethod
    def of_batch(model, labels, outputs, name=None, classes=None, logits=None):
        """The task of a model, where it tells none that of a batch.

        Args:
            model: A `keras.Model`, or whatever predicts.
            labels: Array of labels.
            outputs: Array of outputs, a row or a map an example.
            name: String, or `None` to infer it.
            classes: List of strings, or `None`.
            logits: Boolean, or `None` to infer it.
        """
        if is_detector(model):
            task = Task.of(model, classes=classes)
            task.classes = task.names()
            return task
        if len(getattr(outputs, "shape", ())) > 2:
            return _of_maps(model, outputs, name, classes, logits)
        outputs = as_columns(outputs)
        columns = outputs.shape[1]
        labels = as_ids(labels, classes)
        kept = Task.kept_with(model)
        name = name or (kept and kept.judged_as) or kept
        name = name or infer_name(model, labels, outputs, logits)
        task = Task.named(name, classes, columns)
        if logits is None and task.has_chances:
            logits = ends_in_logits(model)
            logits = not task.are_scores(outputs) if logits is None else logits
        task.logits = bool(logits)
        task.classes = task.names()
        return task

    # === Labels ===

    def names(self):
        """Names of the classes, numbers where they have none."""
        count = self.count
        names = self.classes or [str(i) for i in range(count)]
        if len(names) != count or len(set(names)) != count:
            raise ValueError(
                f"`classes` must hold {count} different names, one for each "
                f"of the {self.outputs} outputs of the model (two for a single "
                f"sigmoid unit). Received: classes={names[:5]}"
            )
        return names

    @property
    def count(self):
        """How many classes, labels or values there are."""
        return self.outputs

    def labels(self, labels, name="data"):
        """Labels of a batch, as they are judged; raises where they do not fit.

        Integers are the places of classes, strings their names.
        """
        labels = as_ids(labels, self.classes, name)
        labels = labels.reshape(len(labels), -1)
        if labels.shape[1] != self.outputs:
            self._refuse_shape(labels)
        return labels

    def _refuse_shape(self, labels):
        raise ValueError(
            "The labels do not fit the outputs of the model for "
            f"{self.name}. The model has {self.outputs} outputs an example. "
            f"Received: labels of shape {labels.shape}"
        )

    def mark(self, dataset):
        """Writes on a dataset what its labels do not tell."""

    def take_options(self, options):
        """Takes what data are made with."""

    def targets(self, y):
        """Labels as batches have them: an array, or a dict of arrays."""
        return y

    def counts(self, y):
        """Dict from each class to its examples, empty where there are none."""
        return {}

    def picture(self, x, true):
        """An input with what is true of it, where that can be seen."""
        return x

    def drawn(self, x, true, chosen):
        """The same with what is predicted, for a report."""
        return x

    def _named(self, counts):
        return {c: int(n) for c, n in zip(self.classes, counts, strict=True)}

    def class_weight(self, y, balanced):
        """Dict from class id to weight, or `None`."""
        return None

    def misfit(self, y, outputs, rows):
        """What is wrong with arrays of a report, or `None`."""
        width = len(self.classes)
        if outputs.shape != (rows, width):
            return (
                f"its outputs have shape {outputs.shape}, not {(rows, width)}"
            )
        if y.shape != ((rows,) if self.is_flat else outputs.shape):
            return f"its labels have shape {y.shape}"
        bad = self.is_flat and (y.dtype.kind not in "iu" or (y < 0).any())
        if bad or (self.is_flat and (y >= width).any()):
            return f"its labels are not numbers from 0 to {width - 1}"
        return None

    # === Outputs ===

    def as_judged(self, x, y, outputs):
        """Labels and outputs of a batch as evaluation judges them."""
        return y, outputs

    # Whether outputs are probabilities, or logits of them.
    has_chances = True

    def predict(self, model, x, batch_size=32, verbose=0):
        """What a model says of raw inputs, as its `predict` has it."""
        return model.predict(x, batch_size, verbose=verbose)

    def probabilities(self, outputs):
        """Probabilities, or values, of a batch of outputs, unchecked."""
        outputs = self.rows(outputs).astype("float64")
        return self.softened(outputs) if self.logits else outputs

    def rows(self, outputs):
        """Outputs of a batch in the form in which they are judged."""
        return as_columns(outputs)

    def scores(self, outputs):
        """Probabilities of all classes, or values, checked, in float32."""
        outputs = self.rows(outputs).astype("float64")
        check_finite(outputs)
        outputs = self.softened(outputs) if self.logits else outputs
        if not self.are_scores(outputs):
            refuse_probabilities(outputs)
        return self.by_class(outputs).astype("float32")

    def softened(self, logits):
        """Probabilities of logits."""
        return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, "float64")))

    def joinable(self, arrays):
        """Arrays of batches in shapes that can be put together."""
        return arrays

    def exact(self, scores):
        """Scores without what rounding left."""
        return scores

    def are_scores(self, outputs):
        """Tells whether outputs can be probabilities, or values."""
        return in_unit_interval(outputs)

    def by_class(self, probabilities):
        """One column for each class."""
        return np.clip(probabilities, 0.0, 1.0)


def _of_maps(model, outputs, name, classes, logits):
    """The task of a model that gives a map for each input."""
    task = Task.of(model, name)
    outputs = np.asarray(outputs).astype("float32")
    if task is None and outputs.ndim == 4:
        # Where no graph tells it, what sums to one at each pixel does.
        task = Task.named("segmentation", None, outputs.shape[-1])
        task = task if task.are_scores(outputs) else None
    if task is None or not task.is_dense:
        check_shape(outputs, "evaluate")
    task.outputs = outputs.shape[-1]
    if logits is not None:
        task.logits = logits
    elif task.logits is None:
        task.logits = not task.are_scores(outputs)
    task.classes = classes or task.classes
    task.classes = task.names()
    return task
