"""MixUp and CutMix over a `tf.data.Dataset`."""

import random

from finetune_keras.arguments import check, integer, maybe, one_of, positive
from finetune_keras.data.epochs import Epochs, random_of
from finetune_keras.engine.packages import tensorflow as tf

_METHOD = one_of("mixup", "cutmix", "both")


def mix_examples(dataset, num_classes, method="mixup", alpha=0.2, seed=None):
    """Mixes the examples of each batch, and their labels with them.

    MixUp blends two examples, x = s a + (1 - s) b, for images, sequences and
    tables of any shape. CutMix puts a rectangle of one image into the other.
    The share s of each pair comes from Beta(alpha, alpha), and their labels are
    mixed by it; for CutMix, by the area that is left. Each epoch mixes anew.

    Compile the model for labels with one column a class, for example with
    `"categorical_crossentropy"`; for multi-label tasks, `"binary_crossentropy"`
    (MixUp only). Mix the training data only, after `batch`.

    Sample weights stay exact: the mixed label leans towards the example with
    the larger weight, so that the loss is the mixture of both weighted losses.

    Args:
        dataset: Batched `tf.data.Dataset` of (x, y) or (x, y, weights). x is a
            tensor, or a structure of them, of floats or of uint8 pixels, which
            become float32. y holds integers, `(batch,)` or `(batch, 1)`, or
            one column a class: one-hot, multi-hot or probabilities.
        num_classes: Integer, number of classes. `None` where y holds values of
            a regression, which are blended as they are (MixUp only).
        method: String, `"mixup"`, `"cutmix"` or `"both"`, one of the two for
            each batch by chance. Defaults to `"mixup"`.
        alpha: Positive float. Small values leave most examples nearly as they
            are, 1 mixes evenly. Defaults to `0.2`; CutMix often uses `1.0`.
        seed: Integer: the same seed gives the same batches, in each epoch.
            Defaults to `None`, a random one.

    Returns:
        A `tf.data.Dataset` of the same structure, with float32 labels.

    Raises:
        ValueError: If the dataset is not batched, x cannot be mixed, or an
            argument is out of range.

    Example:

    ```python
    import numpy as np
    import tensorflow as tf
    from finetune_keras.data.mixing import mix_examples

    images = np.random.randint(0, 256, (8, 16, 16, 3), "uint8")
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(8) % 3))
    mixed = mix_examples(dataset.batch(4), num_classes=3, method="both", seed=0)
    for x, y in mixed:
        print(x.dtype.name, y.numpy().round(2)[0])
    ```

    Reference:

    - [Zhang et al., 2017](https://arxiv.org/abs/1710.09412)
    - [Yun et al., 2019](https://arxiv.org/abs/1905.04899)
    """
    _check_arguments(num_classes, method, alpha)
    _check_dataset(dataset, num_classes, method)
    seed = random.randint(0, 2**31 - 1) if seed is None else int(seed)
    # Other numbers in each pass, and the same in a run that goes on.
    seeds = _seeds(seed)

    def mix_batch(batch, seeds):
        x, y, *weights = batch
        y = _columns(y, num_classes)
        draws = _Draws(seeds, tf.shape(y)[0], alpha)
        x, share = _mix_inputs(x, draws, method)
        if weights:
            share, weights = _lean(share, weights[0], draws.partner)
        y = _blend(y, tf.gather(y, draws.partner), share)
        return (x, y, weights) if len(batch) == 3 else (x, y)

    return tf.data.Dataset.zip(dataset, seeds).map(
        mix_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _seeds(seed):
    """Two numbers for each batch of each pass, without end."""

    def draw(epoch):
        return random_of(seed, epoch).integers(2**62, size=(1, 2))

    starts = Epochs(shuffles=False).dataset(draw, [1, 2])

    def count(start):
        return tf.data.Dataset.counter(dtype=tf.int64).map(
            lambda step: tf.random.stateless_uniform(
                [2], start + step, None, None, tf.int64
            )
        )

    endless = tf.data.experimental.assert_cardinality(
        tf.data.INFINITE_CARDINALITY
    )
    return starts.flat_map(count).apply(endless)


class _Draws:
    """The random numbers of one batch."""

    def __init__(self, seeds, size, alpha):
        self.seeds, self.used, self.size = seeds, 0, size
        self.partner = tf.argsort(self.uniform([size]))
        gammas = tf.random.stateless_gamma(
            [2, size], self.next_seed(), alpha, dtype="float64"
        )
        # Small gammas round to zero, both at once next to never.
        share = tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1])
        self.share = tf.cast(share, "float32")

    def next_seed(self):
        self.used += 1
        return self.seeds + self.used

    def uniform(self, shape):
        return tf.random.stateless_uniform(shape, self.next_seed())


def _mix_inputs(x, draws, method):
    """Returns the mixed inputs, and the share that each example keeps."""
    x = tf.nest.map_structure(_floats, x)
    if method == "mixup":
        return _mix_up(x, draws)
    if method == "cutmix":
        return _cut_mix(x, draws)
    return tf.cond(
        draws.uniform([]) < 0.5,
        lambda: _mix_up(x, draws),
        lambda: _cut_mix(x, draws),
    )


def _mix_up(x, draws):
    mixed = tf.nest.map_structure(
        lambda one: _blend(one, tf.gather(one, draws.partner), draws.share), x
    )
    return mixed, draws.share


def _cut_mix(images, draws):
    height, width = tf.unstack(tf.shape(images)[1:3])
    side = tf.sqrt(1.0 - draws.share)
    rows = _stripe(height, side, draws.uniform([draws.size]))
    columns = _stripe(width, side, draws.uniform([draws.size]))
    inside = rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]
    other = tf.gather(images, draws.partner)
    mixed = tf.where(inside[..., tf.newaxis], other, images)
    # By the pixels that are really left, not by those that were drawn.
    area = tf.reduce_mean(tf.cast(inside, "float32"), axis=[1, 2])
    return tf.ensure_shape(mixed, images.shape), 1.0 - area


def _stripe(size, side, center):
    """Marks the pixels along one axis that the rectangle covers."""
    pixels = tf.range(tf.cast(size, "float32")) + 0.5
    length = tf.cast(size, "float32")
    start = (center - side / 2) * length
    end = (center + side / 2) * length
    return (pixels >= start[:, tf.newaxis]) & (pixels < end[:, tf.newaxis])


def _blend(one, other, share):
    shape = [-1] + [1] * (one.shape.rank - 1)
    share = tf.cast(tf.reshape(share, shape), one.dtype)
    return tf.ensure_shape(share * one + (1 - share) * other, one.shape)


def _lean(share, weights, partner):
    """Returns the share of the labels, and the weight of the pair."""
    weights = tf.cast(weights, "float32")
    own = tf.reshape(share, tf.shape(weights)) * weights
    rest = tf.reshape(1.0 - share, tf.shape(weights))
    total = own + rest * tf.gather(weights, partner)
    leaning = tf.reshape(own / tf.where(total > 0, total, 1.0), tf.shape(share))
    positive = tf.reshape(total > 0, tf.shape(share))
    return tf.where(positive, leaning, share), total


def _floats(x):
    return tf.cast(x, "float32") if x.dtype == tf.uint8 else x


def _columns(y, num_classes):
    """Labels with one float column a class."""
    if num_classes is None or not _is_sparse(y, num_classes):
        return tf.cast(y, "float32")
    y = tf.reshape(y, [-1])
    check = tf.debugging.Assert(
        tf.reduce_all((y >= 0) & (y < num_classes)),
        [f"Labels must be from 0 to {num_classes - 1}. Received:", y],
    )
    with tf.control_dependencies([] if check is None else [check]):
        return tf.one_hot(y, num_classes)


def _is_sparse(y, num_classes):
    return y.dtype.is_integer and (
        y.shape.rank == 1 or (y.shape[-1] == 1 and num_classes != 1)
    )


def _check_arguments(num_classes, method, alpha):
    check(
        method=(method, _METHOD),
        num_classes=(num_classes, maybe(integer(1))),
        alpha=(alpha, positive),
    )
    if num_classes is None and method != "mixup":
        raise ValueError(
            'Values of a regression are mixed with `method="mixup"` only. Give '
            "the number of classes, or change the method. "
            f"Received: num_classes=None, method={method!r}"
        )


def _check_dataset(dataset, num_classes, method):
    spec = getattr(dataset, "element_spec", None)
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(
            "`dataset` must be a `tf.data.Dataset` of (x, y) or (x, y, "
            f"weights). Received: dataset={dataset!r}"
        )
    inputs = tf.nest.flatten(spec[0])
    wrong = [x for x in inputs if not _can_be_mixed(x)]
    if wrong:
        raise ValueError(
            "Only floats and uint8 pixels can be mixed, not token ids or "
            "texts. Cast measurements to float32, or mix what the embedding "
            f"gives. Received: inputs {wrong}"
        )
    if method != "mixup" and [x.shape.rank for x in inputs] != [4]:
        raise ValueError(
            "CutMix takes batches of images, (batch, height, width, channels). "
            f'For other data, use `method="mixup"`. Received: inputs {inputs}'
        )
    _check_labels(spec[1], num_classes)


def _can_be_mixed(spec):
    return spec.dtype.is_floating or spec.dtype == "uint8"


def _check_labels(y, num_classes):
    if not hasattr(y, "dtype"):
        raise ValueError(
            "Labels must be one tensor, for a model with one output. "
            f"Received: labels {y!r}"
        )
    if y.shape.rank is None:
        raise ValueError(
            "The rank of the labels is unknown. Set it with "
            f"`tf.ensure_shape` in a `map`. Received: labels {y}"
        )
    if y.shape.rank == 0:
        raise ValueError(
            "`dataset` must be batched: examples of a batch are mixed with "
            f"each other. Call `dataset.batch(32)` before. Received: labels {y}"
        )
    if num_classes is None or _is_sparse(y, num_classes):
        return
    if y.shape.rank != 2 or y.shape[-1] not in (num_classes, None):
        raise ValueError(
            "Labels must be integers, or have one column a class: "
            f"(batch, {num_classes}). Received: labels {y}"
        )
