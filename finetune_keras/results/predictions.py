"""Labels and predictions of a data set, and the loss of each example."""

import functools
import hashlib
import warnings

import numpy as np


class Predictions:
    """What a model said of each example, and what was true.

    Attributes:
        y_true: Integer array (n,) of class ids; 0-1 array (n, labels) of a
            multi-label task; float array (n, values) of a regression.
        outputs: Float32 array (n, classes) of probabilities, or (n, values).
        task: `"classification"`, `"multi_label"` or `"regression"`.
        classes: List of strings, one for each column of `outputs`.
        threshold: Float, list of floats or `None`, see `evaluate`.
        sample_weight: Float array (n,) or `None`.
        keys: Array (n,) of 64-bit digests of inputs with labels, or `None`.
    """

    def __init__(
        self,
        y_true,
        outputs,
        task,
        classes,
        threshold=None,
        sample_weight=None,
        keys=None,
    ):
        self.y_true = y_true
        self.outputs = outputs
        self.task = task
        self.classes = classes
        self.threshold = threshold
        self.sample_weight = sample_weight
        self.keys = keys

    def __len__(self):
        return len(self.y_true)

    @functools.cached_property
    def scores(self):
        """Outputs in float64; probabilities of classes sum to one exactly."""
        scores = self.outputs.astype("float64")
        if self.task == "classification":
            scores /= scores.sum(axis=1, keepdims=True)
        return scores

    @functools.cached_property
    def y_pred(self):
        """Predicted class ids, labels or values, in the form of `y_true`."""
        cut = 0.5 if self.threshold is None else np.array(self.threshold)
        if self.task == "regression":
            return self.scores
        if self.task == "multi_label":
            return (self.scores > cut).astype("int8")
        if len(self.classes) == 2:
            return (self.scores[:, 1] > cut).astype("int64")
        return self.scores.argmax(axis=1)

    @functools.cached_property
    def losses(self):
        """Loss of each example: cross-entropy, or the squared error."""
        if self.task == "regression":
            return ((self.scores - self.y_true) ** 2).mean(axis=1)
        # The clip of scikit-learn's `log_loss`.
        tiny = np.finfo("float64").eps
        likely = np.clip(self.scores, tiny, 1.0 - tiny)
        if self.task == "classification":
            return -np.log(likely[np.arange(len(self)), self.y_true])
        true = self.y_true == 1
        return -np.log(np.where(true, likely, 1.0 - likely)).mean(axis=1)

    @functools.cached_property
    def membership(self):
        """Boolean array (n, classes): which examples are of which class."""
        if self.task == "multi_label":
            return self.y_true == 1
        return self.y_true[:, None] == np.arange(len(self.classes))

    @functools.cached_property
    def areas(self):
        """ROC-AUC and average precision of each class against the rest."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        found = []
        for true, scores in zip(self.membership.T, self.scores.T, strict=True):
            if true.all() or not true.any():
                found.append((None, None))
                continue
            # Weights of zero may leave a class out after all: NaN.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pair = [
                    float(area(true, scores, sample_weight=self.sample_weight))
                    for area in (roc_auc_score, average_precision_score)
                ]
            found.append((None, None) if np.isnan(pair).any() else tuple(pair))
        return found

    @property
    def correct(self):
        """Boolean array: the whole prediction of the example is right."""
        same = self.y_pred == self.y_true
        return same if same.ndim == 1 else same.all(axis=1)

    @property
    def label_digest(self):
        """Hexadecimal digest of the labels in their order."""
        found = hashlib.sha256(repr((self.task, self.y_true.shape)).encode())
        found.update(self.y_true.astype("<f8").tobytes())
        return found.hexdigest()[:16]

    def take(self, rows):
        """The same for some of the examples, by index or mask."""
        parts = [
            None if part is None else part[rows]
            for part in (self.sample_weight, self.keys)
        ]
        return Predictions(
            self.y_true[rows],
            self.outputs[rows],
            self.task,
            self.classes,
            self.threshold,
            *parts,
        )
