"""The user's callbacks, for which a run is one `fit`."""

import functools

import keras

_PASSED_ON = (
    "on_train_batch_begin",
    "on_test_begin",
    "on_test_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)


class Relay(keras.callbacks.Callback):
    """Passes on what happens in each `fit` of a run.

    Training begins and ends once for the user's callbacks, however many
    phases and calls of `fit` there are. The run sets the rate of an epoch
    before they see its beginning, and judges an epoch after they have seen its
    end: what they write into the logs can be monitored.

    Args:
        run: A `Run`.
        callbacks: List of the user's callbacks.
    """

    def __init__(self, run, callbacks):
        super().__init__()
        self.run, self.callbacks = run, callbacks
        # Keras waits for each batch where there is a hook, used or not.
        for name in _PASSED_ON if callbacks else ():
            setattr(self, name, functools.partial(self._pass_on, name))

    def begin(self, model, epochs, steps):
        """Lets training begin."""
        model.stop_training = False
        params = {"epochs": epochs, "steps": steps, "verbose": 0}
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(params)
        self._pass_on("on_train_begin", None)

    def end(self, logs):
        """Lets training end."""
        self._pass_on("on_train_end", logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.run.begin_epoch(epoch)
        self._pass_on("on_epoch_begin", epoch, logs)
        self.run.rates.adopt()

    def on_train_batch_end(self, batch, logs=None):
        self.run.end_batch(batch, logs)
        self._pass_on("on_train_batch_end", batch, logs)
        if self.callbacks:
            self.run.rates.adopt_in_epoch()
        self.run.look_for_a_stop()

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        self._pass_on("on_epoch_end", epoch, logs)
        self.run.rates.adopt()
        self.run.end_epoch(epoch, logs)

    def _pass_on(self, name, *args, **logs):
        for callback in self.callbacks:
            getattr(callback, name)(*args, **logs)
