"""The learning-rate finder: a short sweep that leaves the model as it was."""

import functools
import itertools

import keras
import numpy as np

from finetune_keras.arguments import check_model
from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.data.buckets import Buckets
from finetune_keras.data.outputs import writes_text
from finetune_keras.data.prompts import Prompts
from finetune_keras.data.source import Source
from finetune_keras.engine.private import inner_optimizer
from finetune_keras.models.layer_groups import as_groups
from finetune_keras.models.model import encoder_of
from finetune_keras.text.generation import for_answers
from finetune_keras.text.prompt_tokens import as_prompts, tokenize
from finetune_keras.training.compiled import fitted
from finetune_keras.training.data_checks import check_batched, has_labels
from finetune_keras.training.inputs import check_labels
from finetune_keras.training.learning_rate_sweep import LearningRateSweep
from finetune_keras.training.set_loss import learns_sets
from finetune_keras.training.twin_fit import (
    batch_arguments,
    compiled_twin,
    left_as_it_was,
    step_of,
)

SMOOTHING = 0.98
# One lucky batch at the start would make all that follow look like divergence.
SETTLING_STEPS = 5


def find_learning_rate(
    model,
    data,
    min_learning_rate=1e-7,
    max_learning_rate=10.0,
    num_steps=100,
    batch_size=32,
    verbose=1,
):
    """Finds a learning rate by a short sweep, and leaves the model as it was.

    The model trains for `num_steps` batches with the loss and the kind of
    optimizer that it is compiled with, while the learning rate grows from one
    bound to the other by a constant factor. The sweep ends early when the
    smoothed loss is four times its best or a loss is not finite. Afterwards the
    weights, the random seeds, the metrics, the optimizer with its state and the
    compiled train step are what they were, also when the sweep is interrupted.

    Two rates are read off the smoothed loss. `valley` (the default, from
    fastai) is halfway down the longest stretch on which the loss falls: it is
    robust to noise. `steepest` is where the loss falls fastest: it is the older
    rule, near the upper end of what works in short runs. What is frozen stays
    frozen, so run it again after unfreezing.

    Args:
        model: A compiled `keras.Model` with weights.
        data: A batched `tf.data.Dataset`, a tuple of arrays `(x, y)` or
            `(x, y, sample_weight)`, a `keras.utils.PyDataset`, or any iterable
            of batches; `prompts` for a `CausalLM`. It is repeated where it is
            too short.
        min_learning_rate: Float > 0, the first learning rate. Defaults to
            `1e-7`.
        max_learning_rate: Float, the last learning rate. Defaults to `10.0`.
        num_steps: Integer >= 2, number of learning rates. Defaults to `100`.
        batch_size: Integer, for arrays only. Defaults to `32`.
        verbose: 0 for silence or 1 for a progress bar. Defaults to `1`.

    Returns:
        A `LearningRateSweep` with `suggestion`, `valley`, `steepest`,
        `learning_rates`, `losses`, `smoothed_losses` and `plot()`.

    Raises:
        ValueError: If the model is not compiled, has no weights or nothing to
            train, if `data` is empty, or if the first loss is not finite.

    Example:

    ```python
    import keras
    import numpy as np
    import finetune_keras as ft

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    x = np.random.default_rng(0).normal(size=(64, 4))
    sweep = ft.find_learning_rate(model, (x, x.sum(1)), verbose=0)
    model.optimizer.learning_rate = sweep.suggestion
    ```

    Reference:

    - [Smith, 2015](https://arxiv.org/abs/1506.01186)
    """
    _check_model(model)
    _check_range(min_learning_rate, max_learning_rate, num_steps)
    if isinstance(data, list) and not all(map(has_labels, data)):
        # Of arrays, and not of batches.
        data = tuple(data)
    data, fits = as_prompts(data) if writes_text(model) else data, None
    check_batched(data, model, "data")
    if isinstance(data, Prompts):
        fits = functools.partial(for_answers, packing=data.packing)
        data = tokenize(model, data, batch_size)
    elif encoder_of(model) is not None:
        data = model.tokenize(data, batch_size, training=True)
    parts = data.parts if isinstance(data, Buckets) else [data]
    for part in parts if isinstance(parts[0], tuple) else []:
        check_labels(model, part[1] if len(part) > 1 else None, "data")
    rates = np.geomspace(min_learning_rate, max_learning_rate, num_steps)
    with left_as_it_was(model), learns_sets(model):
        batches = _checked(model, _endless(data, batch_size))
        if fits is not None:
            model = fitted(FlatModel(as_groups(model), fits))
        return _sweep(compiled_twin(model), rates, batches, verbose)


def _sweep(model, rates, batches, verbose):
    bar = keras.utils.Progbar(
        len(rates), verbose=verbose, stateful_metrics=["learning_rate", "loss"]
    )
    losses, smoothed, average = [], [], 0.0
    diverged = False
    for step, rate in enumerate(rates, start=1):
        loss = _train(model, float(rate), batches)
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        current = average / (1 - SMOOTHING**step)
        settled = smoothed[SETTLING_STEPS:]
        diverged = not np.isfinite(loss) or _is_divergence(current, settled)
        if np.isfinite(loss):
            losses.append(loss)
            smoothed.append(current)
        values = [("learning_rate", rate), ("loss", current)]
        bar.update(step, values, finalize=diverged or step == len(rates))
        if diverged:
            break
    if not losses:
        raise ValueError(
            "The loss is not finite at the lowest learning rate already: look "
            "at the data and the loss, not at the learning rate. "
            f"Received: loss={loss}, min_learning_rate={rates[0]}"
        )
    return LearningRateSweep(rates[: len(losses)], losses, smoothed, diverged)


def _train(model, learning_rate, batches):
    """Makes one update and returns the loss before it."""
    optimizer = model.optimizer
    optimizer.learning_rate = learning_rate
    inner = inner_optimizer(optimizer)
    losses, train = [], step_of(model, "train_on_batch")
    for _ in range(inner.gradient_accumulation_steps or 1):
        batch = batch_arguments(next(batches))
        logs = train(*batch, return_dict=True)
        losses.append(float(logs["loss"]))
    return float(np.mean(losses))


def _is_divergence(loss, earlier):
    # Four times the best, written so that it holds for negative losses too.
    best = min(earlier, default=loss)
    return loss > best + 3 * abs(best)


def _checked(model, batches):
    """The batches, whose labels are looked at one batch after the other."""
    for batch in batches:
        if has_labels(batch):
            check_labels(model, batch[1], "data")
        yield batch


def _endless(data, batch_size):
    """Yields batches for ever, pass after pass over the data."""
    for number in itertools.count():
        is_empty = True
        for batch in _one_pass(data, batch_size, number):
            is_empty = False
            yield batch
        if is_empty:
            raise ValueError(
                "There are no batches left to train on. Pass data that is not "
                "empty and, if it is a generator, that lasts for all steps. "
                f"Received: data={data!r}"
            )


def _one_pass(data, batch_size, number):
    if isinstance(data, Buckets):
        return iter(data.dataset(shuffle=True))
    if isinstance(data, tuple) or hasattr(data, "shape"):
        return _slices(data, batch_size, np.random.default_rng(number))
    batches = isinstance(data, list)
    return iter(data) if batches else Source.of(data).batches()


def _slices(arrays, batch_size, rng):
    """Yields shuffled batches of arrays, all of one size."""
    arrays = keras.tree.map_structure(
        lambda x: None if x is None else np.asarray(x), arrays
    )
    sizes = {len(x) for x in keras.tree.flatten(arrays) if x is not None}
    if len(sizes) != 1:
        raise ValueError(
            "All arrays of `data` must have the same number of rows. "
            f"Received: {sorted(sizes)} rows"
        )
    order = rng.permutation(*sizes)
    size = min(batch_size, len(order))
    for start in range(0, len(order) - size + 1, size or 1):
        rows = order[start : start + size]
        if len(rows):
            yield keras.tree.map_structure(
                lambda x, rows=rows: None if x is None else x[rows], arrays
            )


def _check_model(model):
    check_model(model)
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(
            "The sweep trains with the optimizer and the loss of the model. "
            "Call `model.compile(optimizer, loss)` first. "
            f"Received: model={model!r}, not compiled"
        )
    if not model.trainable_variables:
        what = "all weights are frozen" if model.weights else "no weights yet"
        raise ValueError(
            "The sweep has nothing to train. Unfreeze some layers, or build "
            f"the model by a call on data. Received: model={model!r}, {what}"
        )


def _check_range(low, high, num_steps):
    if not 0 < low < high < float("inf"):
        raise ValueError(
            "The learning rates must be positive and grow. Received: "
            f"min_learning_rate={low!r}, max_learning_rate={high!r}"
        )
    if num_steps < 2:
        raise ValueError(
            f"`num_steps` must be at least 2. Received: num_steps={num_steps!r}"
        )
