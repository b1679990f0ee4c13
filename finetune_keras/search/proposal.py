"""The models that an advice chooses among: one backbone, several heads."""

import contextlib

from finetune_keras.engine.graph import graph_of
from finetune_keras.models.backbones import backbone as make_backbone
from finetune_keras.models.heads import rebuild, replace_head
from finetune_keras.models.image_size import (
    resized,
    sides,
    size_of_weights,
    with_sides,
)
from finetune_keras.models.layer_groups import layer_groups
from finetune_keras.models.model import encoder_of
from finetune_keras.models.outside_graph import prepares_inputs
from finetune_keras.models.tasks import image_classifier
from finetune_keras.text.text_tasks import text_classifier, text_regressor
from finetune_keras.training.closed_form_head import (
    input_of,
    linear_head,
    targets_of,
)
from finetune_keras.training.linear_probe import LOSSES


class Proposal:
    """One backbone on the inputs of the data, under heads of several depths.

    Args:
        backbone: Name of an application, or a `keras.Model`.
        data: `DataSplits`.
        dropout: Float, before the head.

    Attributes:
        resized: `(given, wanted)`, sizes of photos as texts, or `None`.
        is_text: Boolean, whether inputs are texts.
        loss: String, what `solve_probe` calls the loss.
    """

    def __init__(self, backbone, data, dropout):
        self.task, self.classes = str(data.task), data.classes
        self.outputs = data.task.outputs or len(data.classes or [1])
        self.loss, self.dropout = LOSSES[self.task], dropout
        spec = data.train.element_spec[0]
        shape = tuple(getattr(spec, "shape", ()))
        self.is_text = "string" in str(getattr(spec, "dtype", ""))
        self.is_image = _is_image(backbone, shape)
        self.resized = None
        if self.is_image:
            backbone = self._on_photos(backbone, shape[1:])
        self.backbone = backbone

    def _on_photos(self, backbone, given):
        if isinstance(backbone, str):
            size = size_of_weights(backbone, given[0])
            wanted = with_sides(given, size, size)
            backbone = make_backbone(backbone, input_shape=wanted)
        else:
            backbone = make_backbone(backbone)
        wanted = sides(graph_of(backbone).inputs[0].shape[1:])
        if None in wanted or wanted == sides(given):
            return backbone
        self.resized = _text(sides(given)), _text(wanted)
        return resized(backbone, given)

    def model(self, features, augmentation=None):
        """A model with a new head on so many layer groups."""
        names = self.classes if self.task != "regression" else None
        options = {"dropout": self.dropout, "features": features}
        if self.is_text and self.task == "regression":
            return text_regressor(self.backbone, self.outputs, **options)
        options["task"] = self.task
        count = names or self.outputs
        if self.is_text:
            return text_classifier(self.backbone, count, **options)
        if self.is_image:
            return image_classifier(
                self.backbone, count, augmentation, **options
            )
        return replace_head(self.backbone, self.outputs, **options)

    def reader(self, features):
        """A model of what the head reads."""
        model = self.model(features)
        return rebuild(model, input_of(model, linear_head(model)))

    def width(self, features):
        """How many numbers the head reads."""
        return linear_head(self.model(features)).kernel.shape[0]

    def targets(self, labels):
        return targets_of(labels, self.outputs, self.loss)

    @contextlib.contextmanager
    def as_it_was(self):
        """Gives the backbone its weights and flags back in the end."""
        leaves = layer_groups(self.backbone).leaves
        flags = [leaf.trainable for leaf in leaves]
        weights = self.backbone.get_weights()
        try:
            yield
        finally:
            self.backbone.set_weights(weights)
            for leaf, flag in zip(leaves, flags, strict=True):
                leaf.trainable = flag


def _is_image(backbone, shape):
    if isinstance(backbone, str):
        return True
    graph = graph_of(backbone)
    takes = graph.inputs if graph is not None else ()
    one = len(takes) == 1 and len(takes[0].shape) == 4 and len(shape) == 4
    plain = encoder_of(backbone) is None and not prepares_inputs(backbone)
    return one and plain


def _text(sides):
    return " x ".join(map(str, sides))
