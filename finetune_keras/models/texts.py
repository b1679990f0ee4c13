"""Raw texts for a model on token ids: tokenised once, each batch to its length.

What `FineTuneModel` does where it has an encoder.
"""

import keras
import numpy as np

from finetune_keras.data.buckets import Buckets
from finetune_keras.data.grouped import (
    GroupedBuckets,
    Rows,
    learns_groups,
    rows_of,
)
from finetune_keras.data.pairs import Pairs
from finetune_keras.data.source import Source, kind_of
from finetune_keras.data.source_batches import (
    Batches,
    Dataset,
    Loader,
    Sequence,
)
from finetune_keras.data.tf_data import is_augmented
from finetune_keras.models.text_encoder import is_raw


def tokenize(model, data, batch_size=None, training=False):
    """Does what `FineTuneModel.tokenize` does, for a model with an encoder."""
    bucket = _in_groups if learns_groups(model.task, data) else _bucket
    if isinstance(data, Pairs):
        return bucket(model, lambda: data, batch_size or 32)
    if isinstance(data, (tuple, list)) and is_raw(data[0]):
        _check_labelled(model.encoder, data)
        changes = training and model.encoder.is_random
        return bucket(model, lambda: data, batch_size or 32, changes)
    if _is_text_dataset(data):
        size = batch_size or _batch_size(data)
        if training and is_augmented(data):
            return bucket(model, lambda: _gather(data), size, True)
        return tokenize(model, _gather(data), size, training)
    _check_no_text(data)
    return data


def arrays(model, x):
    """Dict of integer arrays, which the inputs of a model take, from texts."""
    return _for_inputs(model, model.encoder.prepare(x)[0])


def fit_arguments(model, x=None, y=None, batch_size=None, **kwargs):
    """Dict of the arguments of `fit`, texts tokenised."""
    data = _packed(x, y, kwargs.get("sample_weight"))
    train = tokenize(model, data, batch_size, training=True)
    validation = kwargs.get("validation_data")
    if validation is not None:
        validation = tokenize(model, validation, batch_size)
    if isinstance(validation, Buckets):
        kwargs["validation_data"] = validation.dataset()
    if not isinstance(train, Buckets):
        return {"x": x, "y": y, "batch_size": batch_size, **kwargs}
    kwargs.pop("sample_weight", None)
    if kwargs.pop("validation_split", 0):
        raise ValueError(
            "Split the texts before `fit`, for instance by "
            "`ft.from_arrays`. Received: validation_split"
        )
    dataset = train.dataset(shuffle=kwargs.pop("shuffle", True))
    if kwargs.get("steps_per_epoch"):
        dataset = dataset.repeat()
    return {"x": dataset, "shuffle": False, **kwargs}


def evaluate_arguments(model, x=None, y=None, batch_size=None, **kwargs):
    """Dict of the arguments of `evaluate`, texts tokenised."""
    data = _packed(x, y, kwargs.get("sample_weight"))
    data = tokenize(model, data, batch_size)
    if not isinstance(data, Buckets):
        return {"x": x, "y": y, "batch_size": batch_size, **kwargs}
    kwargs.pop("sample_weight", None)
    return {"x": data.dataset(), **kwargs}


def predict(model, function, x, batch_size=None, verbose="auto", **kwargs):
    """Predicts texts by a function that predicts arrays, in their order."""
    if _is_text_dataset(x):
        batch_size = batch_size or _batch_size(x)
        x = _gather(x)[0]
    if not is_raw(x):
        return function(x, batch_size=batch_size, verbose=verbose, **kwargs)
    x = [x] if isinstance(x, (str, bytes)) else x
    buckets = _bucket(model, lambda: (x,), batch_size or 32)
    size = buckets.batch_size
    outputs = [
        function(part[0], batch_size=size, verbose=0, **kwargs)
        for part in buckets.parts
    ]
    return model.encoder.finish(buckets.restore(outputs), x)


def _check_labelled(encoder, data):
    alone = isinstance(data[0], (str, bytes))
    if encoder.task and not encoder.task.has_labels and not alone:
        return
    if alone or len(data) == 1 or data[1] is None:
        raise ValueError(
            "Texts to learn from or to judge on must hold labels: pass "
            "(texts, labels). Texts alone, (texts,), are for a "
            "`masked_language_model`, and for `predict` as they are. "
            f"Received: a {type(data).__name__} of {len(data)} with "
            f"{'texts' if alone else 'no labels'} in it"
        )


def _check_no_text(data):
    """Refuses batches of texts, which are not tokenised on their way."""
    if kind_of(data) not in (Sequence, Loader, Batches):
        return
    batch = Source.of(data).example()
    if isinstance(batch, (tuple, list)) and batch and is_raw(batch[0]):
        raise ValueError(
            "Texts are tokenised once, before training: pass a tuple "
            "(texts, labels) of lists or arrays, or a `tf.data.Dataset` of "
            "batches of them, which may augment them anew in each epoch. "
            f"Received: a {type(data).__name__} of batches of texts"
        )


def _in_groups(model, read, batch_size, changes=False):
    """Buckets in whose batches are several of each group."""

    def make():
        rows = rows_of(read(), batch_size)
        _check_lengths(model.encoder, rows.x, *rows.labels)
        x, lengths, labels = model.encoder.prepare(rows.x, *rows.labels)
        x, renew = _for_inputs(model, x), make if changes else None
        return GroupedBuckets.of_rows(
            x, lengths, labels, batch_size, rows, renew
        )

    return make()


def _bucket(model, read, batch_size, changes=False):
    encoder = model.encoder

    def make():
        data = read()
        _check_lengths(encoder, *data)
        x, lengths, labels = encoder.prepare(*data)
        x = _for_inputs(model, x)
        renew = make if changes else None
        size = encoder.together(data[0]) if labels else 1
        if size > 1:
            units = np.repeat(np.arange(len(lengths) // size), size)
            rows = Rows(None, (), units, size)
            return GroupedBuckets.of_rows(
                x, lengths, labels, batch_size * size, rows, renew
            )
        cut = encoder.task is not None and encoder.task.are_sequences
        return Buckets.sort(x, lengths, labels, batch_size, renew, cut)

    return make()


def _for_inputs(model, found):
    names = {tensor.name for tensor in model.inputs}
    return {name: found[name] for name in found if name in names}


def _check_lengths(encoder, x, *labels):
    count = encoder.count(x)
    if not count:
        raise ValueError("There is no text. Received: x=[]")
    names = ("labels", "sample weights")
    for name, part in zip(names, labels, strict=False):
        if part is not None and len(part) != count:
            raise ValueError(
                f"Each text needs one of the {name}, in the same order. "
                f"Received: {count} texts and {len(part)} {name}"
            )


def _packed(x, y, sample_weight):
    """A data set out of the arguments of `fit`."""
    if not is_raw(x):
        return x
    if sample_weight is not None:
        return x, y, sample_weight
    return (x, y)


def _is_text_dataset(data):
    if kind_of(data) is not Dataset:
        return False
    first = keras.tree.flatten(data.element_spec)[0]
    return getattr(first, "dtype", None) == "string"


def _batch_size(dataset):
    first = next(iter(dataset.take(1)))
    return len(keras.tree.flatten(first)[0])


def _gather(dataset):
    """Reads a whole dataset of texts: a tuple of arrays."""
    batches = [b if isinstance(b, tuple) else (b,) for b in dataset]
    return tuple(_join(column) for column in zip(*batches, strict=True))


def _join(parts):
    return keras.tree.map_structure(
        lambda *a: np.concatenate([x.numpy() for x in a]), *parts
    )
