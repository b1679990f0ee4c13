"""What is predicted of each pixel: masks."""

import keras
import numpy as np

from finetune_keras.data.label_checks import check_no_255, mask_ids
from finetune_keras.data.labels import check_class_ids, ids_of_names
from finetune_keras.data.outputs import activation_of, loss_of
from finetune_keras.data.task_kinds import Classification

# What pixels of no class are in the masks that this library reads.
IGNORED = 255
# How much of a picture still shows under the colour of a class.
_SEEN_THROUGH = 0.45


class Segmentation(Classification):
    """One class for each pixel. One output, of a sigmoid, tells two apart.

    Attributes:
        ignore_class: Integer, the label of pixels that are not judged, as that
            of the loss, or `None`.
    """

    name, fewest = "segmentation", 1
    main_metric, noun = "mean_iou", "classes"
    more_metrics = ("mean_dice", "pixel_accuracy")
    class_metric = ("iou", 1)
    is_dense, is_flat, is_explained = True, False, False
    ignore_class = None

    def mark(self, dataset):
        dataset.ignore_class = self.ignore_class

    def ask(self, model):
        super().ask(model)
        if self.logits is None and activation_of(model) == "linear":
            self.logits = True
        self.ignore_class = getattr(loss_of(model), "ignore_class", None)

    def compile_arguments(self, one_hot=False):
        count, ignored = self.count, self.ignore_class
        if self.is_single:
            if ignored is not None:
                raise ValueError(
                    "Of one output no pixels can be left out: its loss knows "
                    "no `ignore_class`. Give the model two outputs: "
                    "`ft.replace_head(model, num_classes=2)`. "
                    f"Received: masks with ignore_class={ignored}"
                )
            # A logit of 0 is a probability of one half.
            metric = keras.metrics.BinaryIoU(
                threshold=0.0 if self.logits else 0.5, name="mean_iou"
            )
            loss = keras.losses.BinaryCrossentropy(from_logits=self.logits)
            return {"loss": loss, "metrics": [metric]}
        metric = keras.metrics.MeanIoU(
            count,
            name="mean_iou",
            ignore_class=ignored,
            sparse_y_true=not one_hot,
            sparse_y_pred=False,
        )
        kind = "" if one_hot else "Sparse"
        options = {} if one_hot else {"ignore_class": ignored}
        loss = getattr(keras.losses, f"{kind}CategoricalCrossentropy")
        return {
            "loss": loss(from_logits=bool(self.logits), **options),
            "metrics": [metric],
        }

    # === Labels ===

    @classmethod
    def encode(cls, labels, classes=None):
        raise ValueError(
            "Masks are read by `ft.mask_folder`, or passed to the verbs as "
            'arrays `(x, y)`. Received: task="segmentation" for labels of '
            f"shape {np.shape(labels)}"
        )

    def labels(self, labels, name="data"):
        """Masks as class ids (n, height, width), those ignored as they are."""
        labels = mask_ids(np.asarray(labels), self.count)
        if labels.dtype.kind in "OSU":
            labels = ids_of_names(labels, self.classes, name)
        known = labels
        if self.ignore_class is not None:
            known = labels[labels != self.ignore_class]
        check_no_255(known, self.count, name)
        check_class_ids(known, self.count, name)
        return labels.astype("int64")

    def strata(self, y):
        """The rarest class of each mask, by pixels (n, classes)."""
        rarity = np.where(y > 0, 1 / np.maximum((y > 0).sum(0), 1), 0)
        return rarity.argmax(1)

    def counts(self, y):
        """Dict from class to the number of masks in which it is."""
        return self._named((y > 0).sum(axis=0))

    def class_weight(self, y, balanced):
        """Weights as scikit-learn's `"balanced"`, of pixels."""
        pixels = y.sum(axis=0)
        fair = pixels.sum() / np.count_nonzero(pixels)
        weights = np.where(pixels > 0, fair / np.maximum(pixels, 1), 1.0)
        return dict(enumerate(weights.tolist()))

    # === Outputs ===

    def rows(self, outputs):
        return np.asarray(outputs).astype("float32")

    def plain(self, label):
        """The classes of a mask, each with its share of the pixels."""
        label = np.asarray(label)
        count = len(self.classes)
        inside = label[(label >= 0) & (label < count)]
        shares = np.bincount(inside, minlength=count) / max(label.size, 1)
        named = zip(self.classes, shares, strict=True)
        return [f"{name} {share:.1%}" for name, share in named if share > 0]

    def picture(self, image, mask):
        """An image of uint8 under the colours of its mask."""
        if image.shape[-1] == 1:
            image = np.repeat(image, 3, axis=-1)
        mask = mask.astype("int64")
        colors = _COLORS[mask & 255]
        mixed = image * _SEEN_THROUGH + colors * (1 - _SEEN_THROUGH)
        # The first class is most often the background.
        plain = (mask == 0) | (mask >= self.count)
        return np.rint(np.where(plain[..., None], image, mixed)).astype("uint8")


def _colors():
    """Colours that differ, those of Pascal VOC: one for each class id."""
    ids = np.arange(256)
    found = np.zeros((256, 3), "uint8")
    for place in range(8):
        for channel in range(3):
            bit = (ids >> (3 * place + channel)) & 1
            found[:, channel] |= (bit << (7 - place)).astype("uint8")
    return found


_COLORS = _colors()
