"""The form of training data, before anything looks into it."""

import keras

from finetune_keras.training.phase import nearest


def has_labels(spec):
    """Tells whether elements of a dataset are `(x, y)`, with weights or not."""
    return isinstance(spec, tuple) and len(spec) in (2, 3)


def check_given(data, name):
    """Refuses inputs without labels, as `fit(x, y)` of Keras takes them.

    Args:
        data: What was given as training or validation data, or `None`.
        name: String, what messages call it.

    Raises:
        ValueError: If it is an array, a frame, a dict or a list of examples.
    """
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


def check_batched(data, model, name):
    """Refuses a `tf.data.Dataset` of single examples.

    Args:
        data: Data in any form.
        model: A `keras.Model`.
        name: String, what messages call the data.

    Raises:
        ValueError: If labels or inputs have no axis for the batch.
    """
    spec = getattr(data, "element_spec", None)
    if not has_labels(spec):
        return
    ranks = [
        getattr(s.shape, "rank", None) for s in keras.tree.flatten(spec[1])
    ]
    x = keras.tree.flatten(spec[0])
    inputs = getattr(model, "inputs", None) or []
    if len(x) == len(inputs) == 1 and x[0].dtype.name != "string":
        rank = getattr(x[0].shape, "rank", None)
        ranks.append(0 if rank == len(inputs[0].shape) - 1 else rank)
    if 0 in ranks:
        raise ValueError(
            f"`{name}` has single examples, and must have batches of them: "
            f"pass `{name}.batch(32)`. Received: elements of {spec}"
        )


def check_names(model, y, name):
    """Refuses labels for outputs that the model does not have.

    Args:
        model: A `keras.Model`.
        y: Labels, array or structure of arrays.
        name: String, what messages call the data.

    Raises:
        ValueError: If a key of a dict of labels names no output.
    """
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
