"""What an encoder learns from: what belongs together lies near."""

import keras
import numpy as np
from keras import ops

from finetune_keras.arguments import check, one_of, positive
from finetune_keras.data.pairs import DOCUMENT, QUERY

# What is no negative counts for nothing in a sum of exponentials.
_NOTHING = -1e9
# Keras turns labels into float32, which tells no larger integers apart.
_MOST = 2**24


@keras.saving.register_keras_serializable(package="finetune_keras")
class ContrastiveLoss(keras.losses.Loss):
    """Pulls inputs of one group together, and apart from others of the batch.

    The labels are groups, the outputs vectors, and all are compared by their
    cosine. An input whose batch has no other of its group is a negative for
    the others only. For each input and each other of its group (the positive),
    with the inputs of other groups as negatives:

    - `"softmax"`: the cross-entropy of the positive among the negatives, with
      similarities divided by the temperature. Of pairs it is the
      multiple-negatives ranking loss.
    - `"triplet"`: by how much a negative is nearer than the positive, or
      farther by less than the margin, as a mean of the triplets of which that
      is true.
    - `"margin"`: the square of the cosine distance of the positive, and of
      what each negative lacks to the margin, as a mean of those that lack
      something.

    Each is a mean over the positives of an input, and then over the inputs
    that have one.

    Args:
        kind: `"softmax"`, `"triplet"` or `"margin"`. Defaults to `"softmax"`.
        temperature: Float, by which `"softmax"` divides cosines: the lower it
            is, the more the nearest negatives count. Defaults to `0.05`.
        margin: Float, a distance of cosines, of the other two. Defaults to
            `0.3`.
        reduction, name, dtype: As for any `keras.losses.Loss`.

    Raises:
        ValueError: If `kind` is unknown, a number is not positive, or labels
            are one-hot.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]])
    groups = np.array([0, 0, 1, 1])
    for kind in ("softmax", "triplet", "margin"):
        print(kind, float(ft.ContrastiveLoss(kind)(groups, vectors)))
    ```

    Reference:

    - [Henderson et al., 2017](https://arxiv.org/abs/1705.00652)
    - [Khosla et al., 2020](https://arxiv.org/abs/2004.11362), of groups
    - [Hermans et al., 2017](https://arxiv.org/abs/1703.07737), of triplets
    - [Hadsell et al., 2006](https://doi.org/10.1109/CVPR.2006.100), of margins
    """

    def __init__(
        self,
        kind="softmax",
        temperature=0.05,
        margin=0.3,
        reduction="sum_over_batch_size",
        name="contrastive_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check(
            kind=(kind, one_of("softmax", "triplet", "margin")),
            temperature=(temperature, positive),
            margin=(margin, positive),
        )
        self.kind = kind
        self.temperature = temperature
        self.margin = margin

    def call(self, y_true, y_pred):
        asks, is_positive, is_negative = _relations(y_true)
        vectors = ops.normalize(ops.cast(y_pred, self.dtype), axis=-1)
        cosines = ops.matmul(vectors, ops.transpose(vectors))
        losses = getattr(self, f"_{self.kind}")
        each = losses(cosines, is_positive, is_negative)
        counts = ops.any(is_positive, axis=1)
        share = ops.mean(ops.cast(counts, each.dtype))
        each = ops.where(counts, each, 0.0) / ops.maximum(share, 1e-9)
        # Two columns that are no pairs are one-hot: never a loss of zero.
        return ops.where(ops.any(asks), each, float("nan"))

    def _softmax(self, cosines, is_positive, is_negative):
        logits = cosines / self.temperature
        negatives = ops.where(is_negative, logits, _NOTHING)
        negatives = ops.logsumexp(negatives, axis=1, keepdims=True)
        return _mean(ops.softplus(negatives - logits), is_positive)

    def _triplet(self, cosines, is_positive, is_negative):
        lacks = cosines[:, None, :] - cosines[:, :, None] + self.margin
        of_both = is_positive[:, :, None] & is_negative[:, None, :]
        size = ops.shape(cosines)[0]
        lacks, of_both = (
            ops.reshape(one, (size, size * size)) for one in (lacks, of_both)
        )
        return _mean(lacks, of_both & (lacks > 0))

    def _margin(self, cosines, is_positive, is_negative):
        lacks = self.margin - (1.0 - cosines)
        near = is_negative & (lacks > 0)
        return _mean((1.0 - cosines) ** 2, is_positive) + _mean(lacks**2, near)

    def check_labels(self, labels, name):
        """Raises where labels of a batch, or of all, are no groups."""
        _check_columns(labels.shape)
        pair = labels.ndim == 2 and labels.shape[1] == 2
        if pair and not np.isin(labels[:, 1], (QUERY, DOCUMENT)).all():
            _refuse_rows(labels.shape)
        if labels.size and abs(labels).max() >= _MOST:
            raise ValueError(
                f"The groups of `{name}` must be integers below {_MOST:,}: "
                "number them by `np.unique(groups, return_inverse=True)[1]`. "
                f"Received: labels up to {abs(labels).max()}"
            )

    def get_config(self):
        config = super().get_config()
        config.update(kind=self.kind, temperature=self.temperature)
        return {**config, "margin": self.margin}


def _relations(labels):
    """Which inputs ask, and which others belong to them, and which do not."""
    _check_columns(labels.shape)
    columns = 1 if len(labels.shape) == 1 else labels.shape[1]
    labels = ops.reshape(labels, (-1, columns))
    group = labels[:, 0]
    same = ops.equal(group[:, None], group[None, :])
    if columns == 1:
        asks = ops.ones_like(group, dtype="bool")
        found = ops.logical_not(ops.eye(ops.shape(group)[0], dtype="bool"))
    else:
        asks = ops.equal(labels[:, 1], QUERY)
        answers = ops.equal(labels[:, 1], DOCUMENT)
        found = asks[:, None] & answers[None, :]
    return asks, found & same, found & ops.logical_not(same)


def _mean(values, chosen):
    """Mean of the chosen ones of each row, zero where there are none."""
    chosen = ops.cast(chosen, values.dtype)
    count = ops.maximum(ops.sum(chosen, axis=1), 1.0)
    return ops.sum(ops.where(chosen > 0, values, 0.0), axis=1) / count


def _check_columns(shape):
    if len(shape) > 2 or (len(shape) == 2 and shape[1] not in (1, 2)):
        _refuse_rows(shape)


def _refuse_rows(shape):
    raise ValueError(
        "The labels of a contrastive loss are the number of the group of each "
        "input: of one-hot rows pass `y.argmax(axis=1)`. "
        f"Received: labels of shape {tuple(shape)}"
    )
