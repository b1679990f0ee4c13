"""A functional model that takes raw texts, and is quick with them."""

import functools

import keras
import numpy as np

from finetune_keras.data.buckets import Buckets
from finetune_keras.models.text_encoder import is_raw
from finetune_keras.models.tf_data import is_augmented
from finetune_keras.models.trainable_set import FineTuneModel


@keras.saving.register_keras_serializable(package="finetune_keras")
class TextModel(FineTuneModel):
    """A functional model on token ids that `fit`s and `predict`s raw texts.

    Its inputs are arrays of token ids, so that it can be cut, exported and
    combined like any functional model. Given raw texts, `fit`, `evaluate` and
    `predict` tokenise them once, sort them into few lengths, and pad each
    batch to its own length only. The tokeniser is part of the `.keras` file.
    Made by `text_backbone`, `text_classifier` and their like.

    Attributes:
        encoder: The `TextEncoder`: tokeniser and packing.

    Example:

    ```python
    import keras_hub, finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    tokenizer = keras_hub.tokenizers.BertTokenizer(words)
    model = ft.text_classifier(backbone, ["neg", "pos"], tokenizer=tokenizer)
    print(model.predict(["good", "bad bad good"], verbose=0).shape)  # (2, 2)
    ```
    """

    encoder = None
    # What is frozen is computed once, and dropout there left out: it guards
    # against overfitting of weights that do not learn.
    quiet_where_frozen = True

    @property
    def task(self):
        """The `Task` of its tokens, `None` where its head tells it."""
        return self.encoder and self.encoder.task

    @property
    def class_names(self):
        """List of strings, or `None`."""
        return self.encoder and self.encoder.classes

    # === Texts ===

    def tokenize(self, data, batch_size=None, training=False):
        """Tokenises a data set of raw texts, once for all epochs.

        Args:
            data: Tuple `(x, y)` or `(x, y, sample_weight)` of texts and
                labels, a `tf.data.Dataset` of batches of them, or `Buckets`.
                Anything else is returned as it is.
            batch_size: Integer. Defaults to that of the dataset, or `32`.
            training: Boolean, whether texts that are augmented, and words that
                are masked, are drawn anew in each epoch. Defaults to `False`.

        Returns:
            `Buckets`.
        """
        if isinstance(data, (tuple, list)) and is_raw(data[0]):
            self._check_labelled(data)
            changes = training and self.encoder.is_random
            return self._bucket(lambda: data, batch_size or 32, changes)
        if _is_text_dataset(data):
            size = batch_size or _batch_size(data)
            if training and is_augmented(data):
                return self._bucket(lambda: _gather(data), size, True)
            return self.tokenize(_gather(data), size, training)
        return data

    def _check_labelled(self, data):
        alone = isinstance(data[0], (str, bytes))
        if self.task and not self.task.has_labels and not alone:
            return
        if alone or len(data) == 1 or data[1] is None:
            raise ValueError(
                "Texts to learn from or to judge on must hold labels: pass "
                "(texts, labels). Texts alone, (texts,), are for a "
                "`masked_language_model`, and for `predict` as they are. "
                f"Received: a {type(data).__name__} of {len(data)} with "
                f"{'texts' if alone else 'no labels'} in it"
            )

    def _bucket(self, read, batch_size, changes=False):
        def make():
            data = read()
            self._check_lengths(*data)
            x, lengths, labels = self.encoder.prepare(*data)
            names = {tensor.name for tensor in self.inputs}
            x = {name: x[name] for name in x if name in names}
            renew = make if changes else None
            cut = self.task is not None and self.task.are_sequences
            return Buckets.sort(x, lengths, labels, batch_size, renew, cut)

        return make()

    def _check_lengths(self, x, *labels):
        count = self.encoder.count(x)
        if not count:
            raise ValueError("There is no text. Received: x=[]")
        names = ("labels", "sample weights")
        for name, part in zip(names, labels, strict=False):
            if part is not None and len(part) != count:
                raise ValueError(
                    f"Each text needs one of the {name}, in the same order. "
                    f"Received: {count} texts and {len(part)} {name}"
                )

    def arrays(self, x):
        """Tokenises texts into what the functional model takes.

        Args:
            x: Texts, as for `predict`.

        Returns:
            Dict of integer arrays, padded to the longest.
        """
        found, _, _ = self.encoder.prepare(x)
        names = {tensor.name for tensor in self.inputs}
        return {name: found[name] for name in found if name in names}

    # === Keras ===

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, y=None, batch_size=None, **kwargs):
        data = _packed(x, y, kwargs.get("sample_weight"))
        train = self.tokenize(data, batch_size, training=True)
        validation = kwargs.get("validation_data")
        if validation is not None:
            validation = self.tokenize(validation, batch_size)
        if isinstance(validation, Buckets):
            kwargs["validation_data"] = validation.dataset()
        if not isinstance(train, Buckets):
            return super().fit(x, y, batch_size=batch_size, **kwargs)
        kwargs.pop("sample_weight", None)
        shuffle = kwargs.pop("shuffle", True)
        if kwargs.pop("validation_split", 0):
            raise ValueError(
                "Split the texts before `fit`, for instance by "
                "`ft.from_arrays`. Received: validation_split"
            )
        dataset = train.dataset(shuffle=shuffle)
        if kwargs.get("steps_per_epoch"):
            dataset = dataset.repeat()
        return super().fit(dataset, shuffle=False, **kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        data = _packed(x, y, kwargs.get("sample_weight"))
        data = self.tokenize(data, batch_size)
        if not isinstance(data, Buckets):
            return super().evaluate(x, y, batch_size=batch_size, **kwargs)
        kwargs.pop("sample_weight", None)
        return super().evaluate(data.dataset(), **kwargs)

    @functools.wraps(keras.Model.predict)
    def predict(self, x, batch_size=None, verbose="auto", **kwargs):
        if _is_text_dataset(x):
            batch_size = batch_size or _batch_size(x)
            x = _gather(x)[0]
        if not is_raw(x):
            return super().predict(
                x, batch_size=batch_size, verbose=verbose, **kwargs
            )
        x = [x] if isinstance(x, (str, bytes)) else x
        buckets = self._bucket(lambda: (x,), batch_size or 32)
        outputs = [
            super(TextModel, self).predict(
                part[0], batch_size=buckets.batch_size, verbose=0, **kwargs
            )
            for part in buckets.parts
        ]
        return self.encoder.finish(buckets.restore(outputs), x)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x):
        if is_raw(x):
            return self.predict(x, verbose=0)
        return super().predict_on_batch(x)

    def save_assets(self, folder):
        """Writes the vocabulary; called by `save`."""
        self.encoder.tokenizer.save_assets(folder)

    def load_assets(self, folder):
        """Reads the vocabulary; called by `load_model`."""
        self.encoder.tokenizer.load_assets(folder)

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        encoder = config.pop("encoder")
        model = super().from_config(config, custom_objects=custom_objects)
        model.encoder = keras.saving.deserialize_keras_object(encoder)
        return model


def _packed(x, y, sample_weight):
    """A data set out of the arguments of `fit`."""
    if not is_raw(x):
        return x
    if sample_weight is not None:
        return x, y, sample_weight
    return (x, y)


def _is_text_dataset(data):
    spec = getattr(data, "element_spec", None)
    leaves = keras.tree.flatten(spec) if spec is not None else [None]
    return getattr(leaves[0], "dtype", None) == "string"


def _batch_size(dataset):
    first = next(iter(dataset.take(1)))
    return len(keras.tree.flatten(first)[0])


def _gather(dataset):
    """Reads a whole dataset of texts: a tuple of arrays."""
    batches = [b if isinstance(b, tuple) else (b,) for b in dataset]
    columns = [_join(column) for column in zip(*batches, strict=True)]
    return tuple(columns)


def _join(parts):
    arrays = keras.tree.map_structure(
        lambda *a: np.concatenate([x.numpy() for x in a]), *parts
    )
    return arrays
