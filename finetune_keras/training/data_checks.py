"""The form of training data, before anything looks into it."""

import keras

from finetune_keras.arguments import nearest
from finetune_keras.data.box_checks import check_format
from finetune_keras.data.outputs import is_detector
from finetune_keras.data.source import kind_of
from finetune_keras.data.source_batches import Dataset
from finetune_keras.engine.private import flat_inputs


def has_labels(spec):
    """Tells whether elements of data are `(x, y)`, with weights or not."""
    # A loader of torch gives lists.
    return isinstance(spec, (tuple, list)) and len(spec) in (2, 3)


def check_tuple(arrays, name):
    """Refuses a tuple of arrays that holds no labels."""
    if not has_labels(arrays):
        raise ValueError(
            f"`{name}` must hold labels: a tuple (x, y) or (x, y, "
            f"sample_weight). Received: a {type(arrays).__name__} of "
            f"{len(arrays)}"
        )


def labels_of(batch, name):
    """Labels of a batch, or what a spec says of them; refuses others."""
    if not has_labels(batch):
        raise ValueError(
            f"`{name}` must hold labels: its elements must be tuples (x, y) "
            f"or (x, y, sample_weight). Received: elements of {batch!r:.300}"
        )
    return batch[1]


def check_given(data, name):
    """Refuses inputs without labels, as `fit(x, y)` of Keras takes them.

    Such as an array, a frame, a dict, or data with all of its splits.
    """
    if hasattr(data, "train") and hasattr(data, "validation"):
        raise ValueError(
            f"`{name}` is one of the splits: pass `data.train` for training, "
            "and `data.validation` as `validation`. "
            f"Received: {name}={type(data).__name__}"
        )
    if hasattr(data, "iloc"):
        raise ValueError(
            f"`{name}` must name inputs and labels: pass a tuple of columns, "
            "such as (frame['text'], frame['label']), or make the data by "
            f"`ft.from_frame`. Received: a {type(data).__name__} with columns "
            f"{list(getattr(data, 'columns', []))}"
        )
    alone = hasattr(data, "shape") or isinstance(data, (dict, str, bytes))
    if isinstance(data, (list, tuple)):
        # Texts alone, (texts,), are what a masked language model learns from.
        alone = len(data) not in (1, 2, 3) or isinstance(data[0], (str, bytes))
    if alone:
        size = f" of {len(data)}" if isinstance(data, (list, tuple)) else ""
        raise ValueError(
            f"`{name}` must hold labels: data and labels are one argument, a "
            "tuple (x, y) or (x, y, sample_weight), as in `fine_tune(model, "
            f"plan, (x, y))`. Received: a {type(data).__name__}{size}"
        )


def check_boxes_fit(model, data, name):
    """Refuses boxes in another format than that of a detector."""
    if is_detector(model):
        check_format(data, model.bounding_box_format, name)


def check_batched(data, model, name):
    """Refuses a `tf.data.Dataset` of single examples."""
    spec = data.element_spec if kind_of(data) is Dataset else None
    if not has_labels(spec):
        return
    ranks = [
        getattr(s.shape, "rank", None) for s in keras.tree.flatten(spec[1])
    ]
    if 0 in ranks or _lacks_batch(spec[0], model):
        raise ValueError(
            f"`{name}` has single examples, and must have batches of them: "
            f"pass `{name}.batch(32)`. Received: elements of {spec}"
        )


def _lacks_batch(spec, model):
    """Tells whether each input has the shape of a single one of the model."""
    given = keras.tree.flatten(spec)
    # In the order of the structure, in which a dict of data comes too.
    wanted = flat_inputs(model)
    return len(given) == len(wanted) > 0 and all(
        one.dtype.name != "string" and _is_single(one.shape, tensor.shape[1:])
        for one, tensor in zip(given, wanted, strict=True)
    )


def _is_single(shape, wanted):
    # Keras adds a last axis of one: images of one channel may come without.
    return shape.rank == len(wanted) and all(
        size in (given, None) for given, size in zip(shape, wanted, strict=True)
    )


def check_names(model, y, name):
    """Refuses labels for outputs that the model does not have."""
    outputs = getattr(model, "output_names", None) or ()
    struct = getattr(model, "output", None)
    known = [*(struct if isinstance(struct, dict) else ()), *outputs]
    if not isinstance(y, dict) or not known:
        return
    for key in y:
        if key not in known:
            raise ValueError(
                f"`{name}` has labels for {key!r}, and the model has no such "
                f"output.{nearest(key, known)} Its outputs are "
                f"{list(dict.fromkeys(known))}. Received: labels for {list(y)}"
            )
