"""The losses of `distill`: of labels that hold what a teacher says."""

import keras
from keras import ops


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
        logits = y_pred if self.from_logits else log(y_pred)
        by_label = -ops.sum(known * ops.log_softmax(logits), axis=-1)
        return self.mixed(log(said), logits, by_label)

    def mixed(self, teacher, logits, by_label):
        """The loss of both, from the logits of teacher and student."""
        soft = ops.softmax(teacher / self.temperature)
        by_teacher = -ops.sum(
            soft * ops.log_softmax(logits / self.temperature), axis=-1
        )
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
class TokenDistillationLoss(DistillationLoss):
    """The same of tokens: labels are the teacher's scores, and the token."""

    def __init__(
        self, temperature=2.0, weight=0.5, from_logits=True,
        name="token_distillation", reduction="mean_with_sample_weight",
        **kwargs,
    ):  # fmt: skip
        super().__init__(
            temperature, weight, from_logits, name,
            reduction=reduction, **kwargs,
        )  # fmt: skip

    def call(self, y_true, y_pred):
        by_label = ops.sparse_categorical_crossentropy(
            ops.cast(y_true[..., -1], "int32"), y_pred, from_logits=True
        )
        return self.mixed(y_true[..., :-1], y_pred, by_label)


@keras.saving.register_keras_serializable(package="finetune_keras")
def agreement(y_true, y_pred):
    """Whether the likeliest class is that of the label."""
    known = ops.argmax(y_true[:, 1], axis=-1)
    return ops.cast(ops.argmax(y_pred, axis=-1) == known, "float32")


@keras.saving.register_keras_serializable(package="finetune_keras")
def token_agreement(y_true, y_pred):
    """Whether the likeliest token is that of the label."""
    known = ops.cast(y_true[..., -1], "int32")
    found = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
    return ops.cast(found == known, "float32")


def log(probabilities):
    return ops.log(ops.maximum(probabilities, 1e-7))
