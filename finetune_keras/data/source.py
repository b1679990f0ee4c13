"""From what a model learns: data in any form, with one face."""


class Source:
    """Data in one of the forms that `fit` takes; each form is a subclass.

    Args:
        data: The data.
        batch_size: Integer, of data that does not come in batches.

    Attributes:
        num_batches: Integer, batches of a pass; `math.inf` of what never
            ends, or may not, and `None` where it is not known.
        is_shuffled: Boolean, whether each pass has an order of its own.
        fit_shuffles: Boolean, whether `fit` gives it one.
        remembers_passes: Boolean, whether a pass hangs on those before.
        is_exhausted: Boolean, whether there is only one pass.
    """

    is_shuffled = fit_shuffles = remembers_passes = is_exhausted = False
    num_batches = None

    def __init__(self, data, batch_size=None):
        self.data = data
        self.batch_size = batch_size

    @staticmethod
    def fits(data):
        """Whether data are of this form."""
        return False

    @staticmethod
    def of(data, batch_size=None, name="data"):
        """The source of data of any form; raises where it has none."""
        kind = kind_of(data)
        if kind is not None:
            return kind(data, batch_size)
        if hasattr(data, "flow_from_directory"):
            raise ValueError(
                f"`{name}` must hold examples, and a generator of images makes "
                "some: pass what its `flow_from_directory` or `flow` returns. "
                "`ft.image_folder` looks at every file first, and "
                '`ft.image_classifier(..., augmentation="medium")` varies '
                f"images. Received: {name} of type {type(data).__name__}"
            )
        raise ValueError(
            f"`{name}` must hold labels: pass a tuple of arrays (x, y), a "
            "batched `tf.data.Dataset`, a `keras.utils.PyDataset` or another "
            "iterable of batches. Of data with splits pass one, such as "
            f"`data.test`. Received: {name} of type {type(data).__name__}"
        )

    def held(self, epoch):
        """The source with the order and draws of an epoch, where it can."""
        return self

    def batches(self):
        """Iterates once over the batches."""
        return iter(self.data)

    def example(self):
        """A batch for its shapes, or `None` where a look would cost order."""
        return None if self.is_exhausted else next(iter(self.data))

    def spec(self):
        """What tells the shapes of a batch with no look at it, or `None`."""

    def first(self):
        """The first batch; `None` where it differs, or a look costs it."""

    def fit_arguments(self):
        """Dict of what `fit` takes."""
        # Keras warns of asking what has an order for another.
        return {"x": self.data, "shuffle": False}

    def watched(self, look, pick, every=True):
        """What `fit` reads of it; `look` sees what `pick` takes of batches.

        Of every batch, or at least of the first of a pass.
        """
        return self.seen(lambda batch: look(pick(batch)))

    def seen(self, look):
        """What `fit` reads of it; `look` sees its batches, where it can."""
        return self.data

    def facts(self, digest):
        """What tells it from other data, as plain data."""
        return {"class": type(self.data).__name__, "first batch": None}


def kind_of(data):
    """The class of source that data is, or `None`."""
    from finetune_keras.data import source_batches, source_examples

    kinds = (*source_examples.KINDS, *source_batches.KINDS)
    return next((kind for kind in kinds if kind.fits(data)), None)
