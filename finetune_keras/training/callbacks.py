"""Unfreezing callbacks, for people who call `model.fit` themselves."""

import warnings

import keras

from finetune_keras.arguments import check, integer
from finetune_keras.engine.retrace import retrace
from finetune_keras.models.freezing import TrainOnly
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.model import keep_trainable_set
from finetune_keras.training.monitor import is_skipped, rises, weight_penalty


class UnfreezeCallback(keras.callbacks.Callback):
    """Changes what trains between epochs, without losing optimizer state.

    A fixed mechanism with one decision to override: `groups_to_train`. When
    its answer changes, the flags are set and the training step is renewed:
    slots of what goes on training keep their values, newly trained weights
    start with a fresh bias correction, step count and schedule go on.

    Args:
        batch_norm: `"frozen"`, `"train"` or `"synchronized"`, see `unfreeze`.
            Defaults to `"frozen"`.
        verbose: 0 or 1; whether a change is printed. Defaults to `0`.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    class HeadFirst(ft.UnfreezeCallback):
        def groups_to_train(self, epoch, logs=None):
            return "head" if epoch < 2 else "all"

    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, activation="relu")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.random.normal(size=(16, 4)), np.arange(16) % 2
    model.fit(x, y, epochs=4, callbacks=[HeadFirst()], verbose=0)
    ```
    """

    def __init__(self, batch_norm="frozen", verbose=0):
        super().__init__()
        self.batch_norm = batch_norm
        self.verbose = verbose

    def groups_to_train(self, epoch, logs=None):
        """Decides what trains in an epoch.

        Args:
            epoch: Integer, the epoch about to begin, from 0.
            logs: Dict, the metrics of the epoch before; empty at first.

        Returns:
            Any specification that `select_layers` takes: an integer n is the
            head and the last n groups before it.
        """
        raise RuntimeError(
            "`groups_to_train` says what trains, and must be overridden. "
            f"Received: {type(self).__name__} without it"
        )

    def on_train_begin(self, logs=None):
        self._logs = {}
        self._trained = None
        self._layer_groups = layer_groups(self.model)
        self._train_only = TrainOnly(self._layer_groups)

    def on_epoch_begin(self, epoch, logs=None):
        groups = self.groups_to_train(epoch, self._logs)
        layers = self._layer_groups.select(groups)
        if layers == self._trained:
            return
        self._trained = layers
        self._train_only(layers, self.batch_norm)
        changes = retrace(self.model)
        if self.verbose:
            print(
                f"\nEpoch {epoch + 1}: {len(changes['added'])} weights begin "
                f"to train, {len(changes['removed'])} are frozen, "
                f"{len(changes['kept'])} go on."
            )

    def on_epoch_end(self, epoch, logs=None):
        self._logs = dict(logs or {})

    def on_train_end(self, logs=None):
        keep_trainable_set(self.model)


class GradualUnfreeze(UnfreezeCallback):
    """Unfreezes one layer group after another, from the head down.

    Args:
        every: Integer, epochs from one group to the next. Defaults to `1`.
        start: Integer, groups that train from the beginning, the head
            included. Defaults to `1`.
        stop: Integer, groups that train in the end, or `None` for all.
            Defaults to `None`.
        batch_norm: See `UnfreezeCallback`. Defaults to `"frozen"`.
        verbose: 0 or 1. Defaults to `0`.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, activation="relu")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.random.normal(size=(16, 4)), np.arange(16) % 2
    unfreeze = ft.GradualUnfreeze(every=2)
    model.fit(x, y, epochs=4, callbacks=[unfreeze], verbose=0)
    ```

    Reference:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)
    """

    def __init__(
        self, every=1, start=1, stop=None, batch_norm="frozen", verbose=0
    ):
        super().__init__(batch_norm, verbose)
        check(every=(every, integer(1)), start=(start, integer(1)))
        if stop is not None and stop < start:
            raise ValueError(
                "`stop` is the number of groups in the end, and cannot be "
                f"under `start`. Received: start={start}, stop={stop}"
            )
        self.every = every
        self.start = start
        self.stop = stop

    def groups_to_train(self, epoch, logs=None):
        groups = layer_groups(self.model)
        count = self.start + epoch // self.every
        return groups[-min(count, self.stop or count) :]


class UnfreezeOnPlateau(UnfreezeCallback):
    """Unfreezes one more layer group when a metric stops improving.

    Epochs without validation are left out. Losses are compared without what
    the regularisers of weights add: Keras counts those of trainable weights
    alone, and unfreezing would look like a setback.

    Args:
        monitor: String, name of the metric. Defaults to `"val_loss"`.
        patience: Integer, epochs without improvement. Defaults to `2`.
        start: Integer, groups that train from the beginning, the head
            included. Defaults to `1`.
        min_delta: Float, the least change that counts. Defaults to `0.0`.
        batch_norm: See `UnfreezeCallback`. Defaults to `"frozen"`.
        verbose: 0 or 1. Defaults to `0`.
        mode: `"max"` if the metric is to rise, `"min"` if it is to fall, or
            `"auto"`: as the metric itself or its name says. Defaults to
            `"auto"`.

    Raises:
        ValueError: As training begins, if `mode` is `"auto"` and cannot be
            told; after an epoch, if there is no such metric.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, activation="relu")(inputs)
    model = ft.replace_head(keras.Model(inputs, x), 2)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.random.normal(size=(16, 4)), np.arange(16) % 2
    unfreeze = ft.UnfreezeOnPlateau("loss", patience=1)
    model.fit(x, y, epochs=4, callbacks=[unfreeze], verbose=0)
    ```
    """

    def __init__(
        self,
        monitor="val_loss",
        patience=2,
        start=1,
        min_delta=0.0,
        batch_norm="frozen",
        verbose=0,
        mode="auto",
    ):
        super().__init__(batch_norm, verbose)
        check(patience=(patience, integer(1)), start=(start, integer(1)))
        self.monitor = monitor
        self.patience = patience
        self.start = start
        self.min_delta = min_delta
        self.mode = mode

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._rising = rises(self.monitor, self.mode, self.model)
        self._count, self._best, self._wait = self.start, None, 0
        self._penalty, self._seen = 0.0, False

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._seen = self._seen or self.monitor in self._logs
        self._penalty = weight_penalty(self.monitor, self.model)

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if not self._seen:
            warnings.warn(
                "There was no epoch with the monitored metric, and nothing was "
                "unfrozen. Pass `validation_data`, or monitor a training "
                f"metric. Received: monitor={self.monitor!r}",
                stacklevel=2,
            )

    def groups_to_train(self, epoch, logs=None):
        if logs:
            self._judge(logs)
        return layer_groups(self.model)[-self._count :]

    def _judge(self, logs):
        if is_skipped(self.monitor, logs):
            return
        if self.monitor not in logs:
            raise ValueError(
                "The monitored metric is not among those of the model. "
                f"Received: monitor={self.monitor!r}, and the metrics are "
                f"{sorted(logs)}"
            )
        value = logs[self.monitor] - self._penalty
        value = -value if self._rising else value
        if self._best is None or value < self._best - self.min_delta:
            self._best, self._wait = value, 0
            return
        self._wait += 1
        if self._wait >= self.patience:
            self._count, self._wait = self._count + 1, 0
