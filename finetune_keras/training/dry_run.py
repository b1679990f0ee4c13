"""What a plan will train and how long it will take, before it runs."""

import itertools
import statistics
import time

from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.data.layout import Shown, Table
from finetune_keras.data.source_examples import TextBuckets
from finetune_keras.models.freezing import TrainOnly
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.summary import trainable_summary
from finetune_keras.plans.plan import check_plan
from finetune_keras.training.compiled import (
    compile_with,
    ensure_compiled,
    fitted,
)
from finetune_keras.training.data_checks import check_given
from finetune_keras.training.inputs import Inputs, graph_for, labels_rank
from finetune_keras.training.needed_bytes import (
    activation_bytes,
    weight_bytes,
)
from finetune_keras.training.set_loss import learns_sets
from finetune_keras.training.twin_fit import (
    batch_arguments,
    compiled_twin,
    left_as_it_was,
    step_of,
    twin,
)

_STEPS = 3


def dry_run(model, plan, train, validation=None, batch_size=None):
    """Tries each phase of a plan on a batch, and forecasts the whole.

    A few steps of each phase are timed on the first batch, after one that
    traces and compiles. The bytes of weights and of the optimizer's state are
    counted; those of activations are estimated, from the outputs of all layers
    for one batch, from the first that trains on: attention and fused layers
    may keep more or less. The forecast of seconds is for all batches and all
    epochs, and for one validation an epoch. It is an upper bound: it knows
    neither the prefix cache, which runs the frozen part once instead of every
    epoch, nor the patience that may end a phase. It leaves out tracing,
    reading the data and metrics.

    The model is as it was afterwards, also after an exception: weights,
    trainable flags, how it is compiled, optimizer, metrics and random seeds. A
    model that is not compiled stays so. Only a `tf.data.Dataset` that shuffles
    goes on to its next order, as with every look into it.

    Args:
        model: A `keras.Model`, built. Where it is not compiled, loss and
            optimizer are those that `fine_tune` would choose.
        plan: A `Plan`.
        train: Tuple of arrays `(x, y)` or `(x, y, sample_weight)`, a
            `tf.data.Dataset`, or a `keras.utils.PyDataset`, as in `fine_tune`.
        validation: The same, or `None`. Defaults to `None`.
        batch_size: Integer, batch size of arrays. `None` is 32. Defaults to
            `None`.

    Returns:
        A `DryRun`, which prints as a table.

    Raises:
        ValueError: If plan, data or model do not fit together, or the number
            of batches is not known.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="relu")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    plan = ft.plans.linear_probe_then_full()
    x, y = np.random.normal(size=(64, 8)), np.arange(64) % 2
    forecast = ft.dry_run(model, plan, (x, y), batch_size=16)
    print(forecast)
    print(forecast.seconds, forecast.rows[0]["optimizer_bytes"])
    ```
    """
    check_plan(plan, train, validation)
    check_given(train, "train")
    plan.check(layer_groups(model))
    with left_as_it_was(model), learns_sets(model):
        target = twin(model)
        groups = layer_groups(target)
        ignored = getattr(train, "ignore_class", None)
        ensure_compiled(target, plan, labels_rank(train), ignored)
        inputs = [Inputs(train, target, "train", batch_size)]
        if validation is not None:
            inputs.append(Inputs(validation, target, "validation", batch_size))
        flat, data = FlatModel(groups, graph_for(*inputs)), map(_read, inputs)
        data = list(data)
        return DryRun([_try(flat, plan, phase, *data) for phase in plan])


class DryRun(Shown):
    """What each phase of a plan trains, and how long it should take.

    Made by `dry_run`.

    Attributes:
        rows: List of dicts, one a phase: `name`, `epochs`, `trainable` (the
            number of parameters), `optimizer_bytes` (the size of the
            optimizer's state), `weight_bytes`, `activation_bytes`,
            `seconds_per_epoch` and `seconds`.
        seconds: Float, the forecast for the whole plan.
    """

    def __init__(self, rows):
        self.rows = rows
        self.seconds = sum(row["seconds"] for row in rows)

    def _layout(self):
        epochs = sum(row["epochs"] for row in self.rows)
        total = ("total", epochs, *[""] * 5, duration(self.seconds))
        return [Table(_COLUMNS, [*map(_cells, self.rows), total])]


_COLUMNS = (
    "trains",
    "epochs",
    "parameters",
    "weight bytes",
    "optimizer bytes",
    "activation bytes",
    "an epoch",
    "the phase",
)


def _cells(row):
    return (
        row["name"],
        row["epochs"],
        f"{row['trainable']:,}",
        f"{row['weight_bytes']:,}",
        f"{row['optimizer_bytes']:,}",
        f"{row['activation_bytes']:,}",
        duration(row["seconds_per_epoch"]),
        duration(row["seconds"]),
    )


def duration(seconds):
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


# === Trial ===


def _read(inputs):
    """Returns the first batch of data, and how many batches it has."""
    count, name, data = inputs.num_batches, inputs.name, inputs.given.data
    if count is None:
        raise ValueError(
            f"How many batches `{name}` has is not known, and so not how long "
            "an epoch takes. For a `tf.data.Dataset`, say it with "
            "`dataset.apply(tf.data.experimental.assert_cardinality(n))`; end "
            f"an endless one with `take(n)`. Received: {name}={data!r}"
        )
    # The middle one, of what may be sorted by length.
    skipped = count // 2 if isinstance(inputs.source, TextBuckets) else 0
    batch = next(itertools.islice(inputs.batches(), skipped, None))
    return batch_arguments(batch), count


def _try(flat, plan, phase, train, validation=None):
    groups = flat.groups
    if phase.optimizer:
        compile_with(groups.model, phase.make_optimizer(), plan)
    TrainOnly(groups)(phase.select(groups), phase.batch_norm)
    # A new one for each phase: JAX would use the trace of the one before.
    trial = compiled_twin(fitted(flat))
    summary = trainable_summary(trial)
    seconds = _seconds(step_of(trial, "train_on_batch"), *train)
    if validation is not None:
        step = step_of(trial, "test_on_batch")
        seconds += _seconds(step, *validation)
    return {
        "name": phase.name,
        "epochs": phase.epochs,
        "trainable": summary.num_trainable,
        "weight_bytes": weight_bytes(trial),
        "optimizer_bytes": summary.optimizer_bytes,
        "activation_bytes": activation_bytes(trial, train[0][0]),
        "seconds_per_epoch": seconds,
        "seconds": seconds * phase.epochs,
    }


def _seconds(step, batch, count):
    """Forecasts the seconds of so many steps."""
    step(*batch)  # traces
    times = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        step(*batch)
        times.append(time.perf_counter() - start)
    return count * statistics.median(times)
