"""Distillation: what a teacher says of the data is part of the labels."""

import keras
import numpy as np
from keras import ops

from finetune_keras.arguments import check, check_model, positive, share
from finetune_keras.data.labels import check_class_ids, one_column
from finetune_keras.data.outputs import (
    activation_of,
    class_names_of,
    columns_of,
)


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

    Args:
        student: A `keras.Model` that tells two or more classes apart, one
            output a class, with a softmax or logits at its end.
        teacher: A `keras.Model` with the same inputs and classes.
        data: Tuple `(x, y)` of arrays, `y` of the numbers of classes.
        temperature: Float above 0: the higher, the more counts what the
            teacher thinks of classes that it does not choose. Defaults to
            `2.0`.
        weight: Float from 0 to 1, the share of the teacher. Defaults to
            `0.5`.

    Returns:
        Tuple `(x, y)`, `y` a float array of shape `(examples, 2, classes)`:
        probabilities of the teacher, and the label.

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


@keras.saving.register_keras_serializable(package="finetune_keras")
class DistillationLoss(keras.losses.Loss):
    """The loss of `distill`, on labels that hold what the teacher says."""

    def __init__(
        self, temperature=2.0, weight=0.5, from_logits=False,
        name="distillation", **kwargs,
    ):  # fmt: skip
        super().__init__(name=name, **kwargs)
        self.temperature = temperature
        self.weight = weight
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        said, known = y_true[:, 0], y_true[:, 1]
        logits = y_pred if self.from_logits else _log(y_pred)
        soft = ops.softmax(_log(said) / self.temperature)
        by_teacher = -ops.sum(
            soft * ops.log_softmax(logits / self.temperature), axis=-1
        )
        by_label = -ops.sum(known * ops.log_softmax(logits), axis=-1)
        by_teacher = self.temperature**2 * by_teacher
        return self.weight * by_teacher + (1 - self.weight) * by_label

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "weight": self.weight,
            "from_logits": self.from_logits,
        }


@keras.saving.register_keras_serializable(package="finetune_keras")
def agreement(y_true, y_pred):
    """Whether the likeliest class is that of the label."""
    known = ops.argmax(y_true[:, 1], axis=-1)
    return ops.cast(ops.argmax(y_pred, axis=-1) == known, "float32")


def _log(probabilities):
    return ops.log(ops.maximum(probabilities, 1e-7))


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
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    labels = one_column(np.asarray(data[1])) if pair else None
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            "`data` must be a tuple `(x, y)` of arrays, with the number of its "
            "class for each example. Received: data of type "
            f"{type(data).__name__}"
            + ("" if labels is None else f", labels of {labels.shape}")
        )
    return data[0], labels
