"""Runs a plan: freeze, cache, fit, audit, phase after phase."""

from finetune_keras.arguments import check, one_of
from finetune_keras.cache.activation_store import cache_options
from finetune_keras.engine.fit_state import strategy_scope
from finetune_keras.models.layer_groups import as_groups
from finetune_keras.models.readable import warn_if_unreadable
from finetune_keras.plans.plan import check_plan
from finetune_keras.training.compiled import ensure_compiled
from finetune_keras.training.data_checks import check_given
from finetune_keras.training.fit_options import check_fit, check_with_model
from finetune_keras.training.inputs import labels_rank
from finetune_keras.training.pixel_weights import with_pixel_weights
from finetune_keras.training.rematerialized import rematerialized
from finetune_keras.training.run import Run
from finetune_keras.training.set_loss import learns_sets


def fine_tune(
    model,
    plan,
    train,
    validation=None,
    checkpoint_dir=None,
    cache="auto",
    batch_size=None,
    callbacks=None,
    class_weight=None,
    sample_weight=None,
    shuffle=True,
    steps_per_epoch=None,
    validation_steps=None,
    validation_batch_size=None,
    validation_freq=1,
    monitor=None,
    mode="auto",
    stop_after=None,
    remat=False,
    verbose="auto",
):
    """Fine-tunes a model by a plan, phase after phase.

    Each phase sets what trains and at which rates, keeps the optimizer's state
    of what goes on training, runs the frozen part of the model once instead of
    every epoch where that does not change the result, and proves afterwards
    that frozen weights are bit-equal and trained ones have moved. With
    validation data the model ends with the weights of its best epoch over all
    phases. Where a layer could not be read from the model's `.keras` file, a
    warning says so first.

    Args:
        model: A `keras.Model`, or its `LayerGroups`, which the plan then means
            by its groups. Where it is not compiled, loss, metrics and
            Adam follow from its output and the labels.
        plan: A `Plan`.
        train: Tuple of arrays `(x, y)` or `(x, y, sample_weight)`, a
            `tf.data.Dataset`, or a `keras.utils.PyDataset`; for an embedder
            also `pairs`.
        validation: The same, or `None`. Phases with `patience` need it.
            Defaults to `None`.
        checkpoint_dir: String, folder in which the run keeps its last two
            states. The same call goes on where it was killed, and ends with
            the same weights; another one is refused. Defaults to `None`.
        cache: What becomes of the activations of the frozen part: `"auto"`
            (in memory, on disk, or off, by their size), `"memory"`, `"disk"`,
            `"off"`, or a dict with `storage` (one of these), `dtype`
            (`"float32"` or `"bfloat16"`), `views` (integer, how many augmented
            passes to store), `budget` (integer, bytes) and `shared` (a
            `SharedActivations`, for runs on the same data). What was done is
            in the history. Defaults to `"auto"`.
        batch_size: Integer, examples of a batch, for arrays and texts.
            Defaults to `None`, 32.
        callbacks: List of `keras.callbacks.Callback`s, of the whole run.
            Defaults to `None`.
        class_weight: Dict from the number of each class to its weight.
            Defaults to `None`.
        sample_weight: Array, a weight for each example of arrays `(x, y)`.
            Defaults to `None`.
        shuffle: Boolean, whether arrays have a new order in each epoch, also
            for a task of KerasHub, whose own `fit` gives them none. Defaults
            to `True`.
        steps_per_epoch: Integer, batches of an epoch, for data without an end.
            Defaults to `None`.
        validation_steps: Integer, batches of a validation. Defaults to `None`.
        validation_batch_size: Integer. Defaults to `None`, `batch_size`.
        validation_freq: Integer or list, as in `model.fit`. Defaults to `1`.
        monitor: String, the metric by which the best epoch is chosen. Defaults
            to `None`, `"val_loss"` where there is validation data.
        mode: `"min"`, `"max"` or `"auto"`, as the metric itself or its name
            says, whether it is to fall or rise. Defaults to `"auto"`.
        stop_after: Integer, epochs after which the run stops; with
            `checkpoint_dir`, a later call with more goes on. Defaults to
            `None`.
        remat: Boolean, whether blocks, layers with layers inside, are computed
            again in the backward pass, by `keras.remat`, where they would keep
            all that is within: less memory for more time, and the same
            gradients. For blocks without dropout. Defaults to `False`.
        verbose: `"auto"`, 0, 1 or 2, as in `model.fit`. Defaults to `"auto"`.

    Returns:
        A `FineTuneHistory`.

    Raises:
        ValueError: If plan, data or model do not fit together; before the
            first epoch.
        FloatingPointError: If the loss, or a weight, is no number any more.
        RuntimeError: If the audit finds a frozen weight that moved.

    Warns:
        UserWarning: If a group that trains has not moved in a phase.

    Whatever ends a run, these or an error of the disk, the data or a
    callback: the model has the weights of the best epoch until then and its
    optimizer the state that belongs to them, and the error has the history as
    `error.history`.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="relu", name="lower")(inputs)
    x = keras.layers.Dense(6, activation="relu", name="upper")(x)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    plan = ft.Plan([
        ft.Phase("head", epochs=2, learning_rate=1e-2),
        ft.Phase(1, epochs=2, learning_rate=1e-3),
    ])
    x, y = np.random.normal(size=(32, 8)), np.arange(32) % 2
    history = ft.fine_tune(model, plan, (x, y), (x, y), verbose=0)
    print(history)
    ```
    """
    check_plan(plan, train, validation)
    check(remat=(remat, one_of(True, False)))
    check_given(train, "train")
    check_given(validation, "validation")
    groups = as_groups(model)
    model = groups.model
    plan.check(groups)
    fit = {
        "batch_size": batch_size,
        "callbacks": callbacks,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
        # Data that has an order of its own keeps it.
        "shuffle": None if shuffle is True else shuffle,
        "steps_per_epoch": steps_per_epoch,
        "validation_steps": validation_steps,
        "validation_batch_size": validation_batch_size,
        "validation_freq": validation_freq,
        "monitor": monitor,
        "mode": mode,
        "stop_after": stop_after,
        "verbose": verbose,
    }
    fit = {name: value for name, value in fit.items() if value is not None}
    train, fit = check_fit(fit, train, validation)
    options = cache_options(cache)
    warn_if_unreadable(model)
    # What is made on the way, an optimizer or a suffix, belongs to it too.
    with (
        strategy_scope(model),
        rematerialized(model, remat),
        learns_sets(model),
    ):
        ignored = getattr(train, "ignore_class", None)
        ensure_compiled(model, plan, labels_rank(train), ignored)
        check_with_model(model, fit)
        train, fit = with_pixel_weights(model, train, fit)
        run = Run(groups, plan, train, validation, options, fit, checkpoint_dir)
        return run.run()
