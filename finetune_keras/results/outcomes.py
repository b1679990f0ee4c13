"""What is true of each example and what a model said, and the loss of it."""

import functools
import hashlib
import warnings

import numpy as np

from finetune_keras.engine.packages import sklearn


class Outcomes:
    """What a model said of each example, and what was true.

    `y_true` are class ids (n,), rows of 0 and 1 (n, labels) or values (n,
    values), as the `task` has them, `outputs` float32 probabilities or values
    of a row each; `keys` are digests of inputs with labels, or `None`.
    """

    arrays = ("y_true", "outputs", "sample_weight", "keys")

    def __init__(
        self,
        y_true,
        outputs,
        task,
        threshold=None,
        sample_weight=None,
        keys=None,
    ):
        self.y_true = y_true
        self.outputs = outputs
        self.task = task
        self.classes = task.classes
        self.threshold = threshold
        self.sample_weight = sample_weight
        self.keys = keys

    def __len__(self):
        return len(self.y_true)

    @functools.cached_property
    def scores(self):
        """Outputs in float64; probabilities of classes sum to one exactly."""
        return self.task.exact(self.outputs.astype("float64"))

    @functools.cached_property
    def y_pred(self):
        """Predicted class ids, labels or values, in the form of `y_true`."""
        return self.task.decide(self.scores, self.threshold)

    @functools.cached_property
    def losses(self):
        """Loss of each example: cross-entropy, or the squared error."""
        return self.task.losses(self.y_true, self.scores)

    @functools.cached_property
    def membership(self):
        """Boolean array (n, classes): which examples are of which class."""
        return self.task.members(self.y_true)

    @functools.cached_property
    def areas(self):
        """ROC-AUC and average precision of each class against the rest."""
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
                    for area in (
                        sklearn.metrics.roc_auc_score,
                        sklearn.metrics.average_precision_score,
                    )
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
        y_true, outputs = self.y_true[rows], self.outputs[rows]
        return Outcomes(y_true, outputs, self.task, self.threshold, *parts)
