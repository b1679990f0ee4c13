"""Labels of data that comes in batches, looked at on their way into `fit`."""

import contextlib

from finetune_keras.training.data_checks import labels_of


class LabelWatch:
    """Looks at the labels of every batch that is read, with `check`.

    Before training only a batch can be looked at, of data that shuffles not
    even one. On JAX a class that the model does not have would be learnt as
    none, without a word. From within a `tf.data.Dataset` an error comes as one
    of TensorFlow: it is kept as `error`.
    """

    def __init__(self, check, name):
        self.check, self.name = check, name
        self.error = None

    def look(self, labels):
        """Checks the labels of a batch, and remembers what is wrong."""
        try:
            self.check(labels)
        except ValueError as error:
            self.error = error
            raise

    def over(self, source):
        """Returns data that is the same, and looked at as it is read."""
        return source.watched(self.look, lambda b: labels_of(b, self.name))

    @contextlib.contextmanager
    def telling(self):
        """Raises what was found instead of what TensorFlow makes of it."""
        try:
            yield
        except Exception:
            if self.error is None:
                raise
            error, self.error = self.error, None
            raise error from None
