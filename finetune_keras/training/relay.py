"""The user's callbacks, for which a run is one `fit`."""

import functools

import keras

from finetune_keras.training.observer import Observer

_PASSED_ON = (
    "on_train_batch_begin",
    "on_test_begin",
    "on_test_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)


class Relay(keras.callbacks.Callback):
    """Tells an observer what happens in one `fit`.

    Args:
        target: The `keras.Model` that `fit` is called on.
        observer: An `Observer`.
        callbacks: List of the user's callbacks, for the hooks that no observer
            has.
    """

    def __init__(self, target, observer, callbacks):
        super().__init__()
        self.target, self.observer = target, observer
        # Keras waits for each batch where there is a hook, used or not.
        for name in _PASSED_ON if callbacks else ():
            setattr(self, name, functools.partial(_call, callbacks, name))

    def on_epoch_begin(self, epoch, logs=None):
        self.observer.begin_epoch(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.observer.end_batch(batch, logs)
        if self.observer.ends_run:
            self.target.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self.observer.end_epoch(epoch, {} if logs is None else logs)
        ends = self.observer.ends_phase or self.observer.ends_run
        self.target.stop_training = ends


class UserCallbacks(Observer):
    """Tells the user's callbacks of a run as of one `fit`.

    Training begins and ends once for them, however many phases and calls of
    `fit` there are. They are the last to see a beginning and the first to see
    an end: what they write into the logs can be monitored, and what they
    assign to the rate holds.

    Args:
        callbacks: List of `keras.callbacks.Callback`s.
        model: A `keras.Model`.
        rates: The `RateClock` of the run.
        epochs: Integer, epochs of the whole plan.
        steps: Integer, steps of an epoch, or `None`.
    """

    def __init__(self, callbacks, model, rates, epochs, steps):
        self.callbacks, self.model, self.rates = callbacks, model, rates
        self.params = {"epochs": epochs, "steps": steps, "verbose": 0}
        self.logs, self.ends_run = None, False

    def begin(self):
        self.model.stop_training = False
        for callback in self.callbacks:
            callback.set_model(self.model)
            callback.set_params(self.params)
        _call(self.callbacks, "on_train_begin")

    def begin_epoch(self, epoch):
        _call(self.callbacks, "on_epoch_begin", epoch, logs={})
        self.rates.adopt()

    def end_batch(self, batch, logs):
        _call(self.callbacks, "on_train_batch_end", batch, logs=logs)
        if self.callbacks:
            self.rates.adopt_in_epoch()
        self._look_for_a_stop()

    def end_epoch(self, epoch, logs):
        _call(self.callbacks, "on_epoch_end", epoch, logs=logs)
        self.logs = dict(logs)
        self.rates.adopt()
        self._look_for_a_stop()

    def end(self):
        _call(self.callbacks, "on_train_end", logs=self.logs)

    def _look_for_a_stop(self):
        self.ends_run |= bool(getattr(self.model, "stop_training", False))


def _call(callbacks, name, *what, logs=None):
    # Keras passes logs by place or by name.
    what = what if logs is None else (*what, logs)
    for callback in callbacks:
        getattr(callback, name)(*what)
