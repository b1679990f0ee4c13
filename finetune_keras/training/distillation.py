"""Distillation: what a teacher says of the data is part of the labels."""

import math

import keras
import numpy as np
from keras import ops

from finetune_keras.arguments import check, check_model, positive, share
from finetune_keras.data.labels import check_class_ids, one_column
from finetune_keras.data.outputs import (
    activation_of,
    class_names_of,
    columns_of,
    writes_text,
)
from finetune_keras.data.source import Source
from finetune_keras.training.distillation_loss import (
    DistillationLoss,
    agreement,
)
from finetune_keras.training.token_distillation import taught


def distill(student, teacher, data, temperature=2.0, weight=0.5):
    """Prepares a student to learn from labels and from a teacher.

    What the teacher says of the data is computed once, here, and becomes part
    of the labels; the student is compiled with a loss that reads both. Then it
    is trained as any model is, by `fine_tune` or `fit`, and `evaluate` judges
    it on plain labels. Data for validation are prepared by a second call.

    The loss is `1 - weight` of the cross-entropy with the label, and `weight`
    of the cross-entropy with the teacher where both are softened by the
    temperature, times its square. The metric `agreement` is the share of
    examples of which the student says what the label says.

    Of models that write, each token of the answers is such an example. What
    the teacher says of it, a number for each of the vocabulary, is computed
    once as `fine_tune` begins, and kept in memory or on disk. The metric is
    `token_agreement`.

    Args:
        student: A `keras.Model` that tells two or more classes apart, one
            output a class, with a softmax or logits at its end; or a
            `CausalLM` or `Seq2SeqLM` of KerasHub with a preprocessor.
        teacher: A `keras.Model` with the same inputs and classes, or one that
            reads and writes the same tokens.
        data: Tuple `(x, y)` of arrays, `y` of the numbers of classes; or
            batches of them, a `tf.data.Dataset` or `keras.utils.PyDataset`,
            which are read into memory, augmented as they come. For models
            that write, what `prompts` returns.
        temperature: Float above 0: the higher, the more counts what the
            teacher thinks of classes that it does not choose. Defaults to
            `2.0`.
        weight: Float from 0 to 1, the share of the teacher. Defaults to
            `0.5`.

    Returns:
        Tuple `(x, y)`, `y` a float array of shape `(examples, 2, classes)`:
        probabilities of the teacher, and the label. For models that write,
        prompts for `fine_tune`.

    Raises:
        ValueError: If models, data or arguments do not fit.

    Example:

    ```python
    import keras, numpy as np, finetune_keras as ft

    def classifier(units):
        return keras.Sequential([
            keras.Input((4,)), keras.layers.Dense(units, "relu"),
            keras.layers.Dense(3, "softmax", name="head"),
        ])

    teacher, student = classifier(32), classifier(4)
    x, y = np.random.normal(size=(32, 4)), np.arange(32) % 3
    train = ft.distill(student, teacher, (x, y))
    plan = ft.Plan([ft.Phase("all", epochs=2, learning_rate=1e-2)])
    history = ft.fine_tune(student, plan, train, verbose=0)
    ```

    Reference:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """
    check(temperature=(temperature, positive), weight=(weight, share))
    if writes_text(student):
        return taught(student, teacher, data, temperature, weight)
    models = {"student": student, "teacher": teacher}
    classes = [_classes(name, model) for name, model in models.items()]
    if len(set(classes)) > 1:
        raise ValueError(
            "Student and teacher must tell the same classes apart. Received: "
            f"a student of {classes[0]} and a teacher of {classes[1]} outputs"
        )
    names = [class_names_of(model) for model in models.values()]
    if None not in names and list(names[0]) != list(names[1]):
        raise ValueError(
            "Student and teacher must have the same classes in the same order. "
            f"Received: a student of {names[0]} and a teacher of {names[1]}"
        )
    x, labels = _parts(data)
    check_class_ids(labels, classes[0], "data")
    said = np.asarray(teacher.predict(x, verbose=0), "float32")
    if _ends_in_logits(teacher):
        said = np.array(ops.convert_to_numpy(ops.softmax(said)))
    known = np.eye(classes[0], dtype="float32")[labels.astype(int)]
    loss = DistillationLoss(temperature, weight, _ends_in_logits(student))
    student.compile("adam", loss, metrics=[agreement])
    return x, np.stack([said, known], axis=1)


def _ends_in_logits(model):
    return activation_of(model) != "softmax"


def _classes(name, model):
    check_model(model)
    outputs = getattr(model, "outputs", None) or ()
    columns = columns_of(model) if len(outputs) == 1 else None
    flat = columns is not None and len(outputs[0].shape) == 2
    if not flat or columns < 2 or activation_of(model) not in _ENDS:
        raise ValueError(
            f"`{name}` must have one output for each of two or more classes, "
            "with a softmax or logits at its end. Received: "
            f"{name}={model.name!r} with outputs of "
            f"{[tuple(x.shape) for x in outputs]}, which ends in "
            f"{activation_of(model)!r}"
        )
    return columns


_ENDS = ("softmax", "linear", None)


def _parts(data):
    if not isinstance(data, (tuple, list)):
        data = _gathered(data)
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    labels = one_column(np.asarray(data[1])) if pair else None
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            "`data` must be a tuple `(x, y)` of arrays, or batches of them, "
            "with the number of its class for each example. Received: data of "
            f"type {type(data).__name__}"
            + ("" if labels is None else f", labels of {labels.shape}")
        )
    return data[0], labels


def _gathered(data):
    """Batches, read into memory as one."""
    source = Source.of(data, name="data")
    if source.num_batches == math.inf:
        raise ValueError(
            "What the teacher says is computed once, of all of `data`, and "
            "these never end. Leave out `repeat()`, or end them by "
            f"`data.take(n)`. Received: data={data!r}"
        )
    batches = [
        keras.tree.map_structure(np.asarray, batch)
        for batch in source.batches()
    ]
    return keras.tree.map_structure(
        lambda *parts: np.concatenate(parts), *batches
    )
