"""Folders of images and of their masks."""

import os
import re

import numpy as np

from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.examples import SPLIT_NAMES, Examples
from finetune_keras.data.files import check_bad_files, check_images
from finetune_keras.data.folders import groups_of
from finetune_keras.data.images import check_image_size
from finetune_keras.data.mask_augmentation import layers_of
from finetune_keras.data.mask_files import (
    classes_of,
    looked_at_alike,
    tells_colors,
)
from finetune_keras.data.mask_store import MaskStore
from finetune_keras.data.segmentation import IGNORED, Segmentation
from finetune_keras.data.splits import check_fractions
from finetune_keras.data.walk import list_folder

# What stands behind the name of an image in that of its mask.
_ENDINGS = ("", "_mask", "_gt", "_label")


def mask_folder(
    images,
    masks,
    image_size,
    classes=None,
    ignore_class=None,
    augmentation=None,
    validation_split=0.15,
    test_split=0.15,
    group_by=None,
    seed=0,
    batch_size=32,
    bad_files="skip",
    cache="auto",
    verbose=1,
):
    """Reads images from a folder, and a mask for each from another.

    A mask has the name of its image, with any ending of image files and with
    or without `_mask`, `_gt` or `_label` behind it, in the same place in its
    folder, and the size of its image. Every file is read before training: the
    pairs that cannot be used are left out and named. Both are squeezed to
    `image_size`, the masks with no value between those that they have.

    The values of a gray mask are its classes, also of 0 and 255, and of a
    palette its numbers; colours are classes where a mask has them.

    Folders `train`, `validation` (or `val`) and `test` within `images` are the
    splits; a missing one is cut from `train`.

    Args:
        images: String or path of the folder of images.
        masks: String or path of the folder of masks.
        image_size: Integer, or tuple `(height, width)`, in pixels.
        classes: List of names of the values 0, 1, ..., or of two for masks of
            0 and 255; or a dict from names to values, or to colours such as
            `(255, 0, 0)`. Defaults to `None`, a class for each value that is
            found, named by it.
        ignore_class: Integer or colour of pixels that are of no class, which
            are neither trained on nor judged; their label becomes 255.
            Defaults to `None`.
        augmentation: `"light"`, `"medium"` or `"strong"`, or an
            `Augmentation`, see `image_augmentation`: what changes images of
            the training data, by another draw in each epoch, moves their
            masks along. Defaults to `None`.
        validation_split, test_split, group_by, seed, batch_size: As in
            `image_folder`.
        bad_files, cache, verbose: As in `image_folder`.

    Returns:
        `DataSplits`, of float32 pixels and of masks of class ids, uint8 of
        shape (batch, height, width). `counts` are images in which a class is,
        `class_weight` weights of pixels.

    Raises:
        ValueError: If there are no pairs of images and masks, if a mask has
            values that are no class, or an option is out of range.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft
    from PIL import Image
    from pathlib import Path

    Path("cells").mkdir(), Path("masks").mkdir()
    for i in range(10):
        mask = np.zeros((40, 50), "uint8")
        mask[i : i + 9, 5 : 5 + i] = 255
        noise = np.random.randint(0, 99, (40, 50, 3)) + mask[..., None] // 2
        Image.fromarray(noise.astype("uint8")).save(f"cells/{i}.jpg")
        Image.fromarray(mask).save(f"masks/{i}.png")
    data = ft.mask_folder("cells", "masks", image_size=32, verbose=0,
                          classes=["background", "cell"])
    print(data)
    ```
    """
    fractions = check_fractions(validation_split, test_split)
    check_image_size(image_size)
    layers = layers_of(augmentation)
    pairs = _Pairs(images, masks)
    checks = check_images(pairs.folder, pairs.files, verbose)
    by_color = tells_colors(classes, ignore_class)
    by_color, looks = looked_at_alike(pairs.masks, by_color)
    bad = [*pairs.problems, *_bad(checks, looks)]
    check_bad_files(bad, bad_files)
    named = {name for name, _ in bad}
    good = [i for i, c in enumerate(checks) if c.name not in named]
    if not good:
        raise ValueError(
            f"None of the {len(checks)} images with a mask can be used: "
            f"{bad[:3]}. Received: images={pairs.folder!r}"
        )
    found = {int(v) for i in good for v in looks[i][0]}
    known = classes_of(classes, ignore_class, found)
    _check_values(known, good, looks, pairs)
    examples = pairs.examples(good, bad, group_by)
    checks, looks = [checks[i] for i in good], [looks[i] for i in good]
    paths = list(examples.columns["path"]), list(examples.columns["mask"])
    examples.x = MaskStore(*paths, known, by_color, image_size, cache)
    examples.kind, examples.image_size = "images", image_size
    examples.digests = [c.digest for c in checks]
    examples.label_digests = [look[3] for look in looks]
    examples.sizes = [(c.width, c.height) for c in checks]
    examples.notes = [f"{c.name!r}: {c.note}" for c in checks if c.note]
    examples.labels = np.array([known.counts(*look[:2]) for look in looks])
    examples.notes.append(_shares(known.names, examples.labels.sum(axis=0)))
    task = Segmentation(known.names, len(known.names))
    task.ignore_class = None if known.ignored is None else IGNORED
    options = {
        "batch_size": batch_size,
        "task": task,
        "classes": None,
        "balanced": False,
        "augmentation": layers,
    }
    return DataSplits(examples, fractions, seed, options)


class _Pairs:
    """Images with the masks that belong to them."""

    def __init__(self, images, masks):
        self.folder = _folder(images, "images")
        self.mask_folder = _folder(masks, "masks")
        if os.path.samefile(self.folder, self.mask_folder):
            raise ValueError(
                "Images and masks must be in two folders. "
                f"Received: images={self.folder!r}, masks={masks!r}"
            )
        files, _, problems = list_folder(self.folder)
        masks, lost = {}, list_folder(self.mask_folder)
        for name, *_ in lost.files:
            masks.setdefault(os.path.splitext(name)[0], []).append(name)
        self.problems = [*problems, *lost.problems]
        self.files, self.masks = [], []
        for file in files:
            self._find(file, masks)
        for name in [name for left in masks.values() for name in left]:
            self.problems.append((name, "a mask without an image"))
        if not self.files:
            raise ValueError(
                "No image has a mask: a mask has the name of its image, such "
                f"as `images/a/1.jpg` and `masks/a/1.png`.{self._several()} "
                "Received: "
                f"images={self.folder!r} with {len(files)} files, "
                f"masks={self.mask_folder!r} with {len(lost.files)}"
            )
        parts = [file[0].split("/") for file in self.files]
        folders = {each[0].lower() for each in parts if len(each) > 1}
        named = any(SPLIT_NAMES.get(name) == "train" for name in folders)
        self.given = [
            SPLIT_NAMES.get(each[0].lower(), "train") if named else "train"
            for each in parts
        ]

    def _find(self, file, masks):
        stem = os.path.splitext(file[0])[0]
        found = [key for end in _ENDINGS if (key := stem + end) in masks]
        names = [name for key in found for name in masks.pop(key)]
        if len(names) == 1:
            self.files.append(file)
            self.masks.append(os.path.join(self.mask_folder, names[0]))
        else:
            why = f"several masks: {names}" if names else "no mask of its name"
            self.problems.append((file[0], why))

    def _several(self):
        """Tells that images have several masks, if they have."""
        listed = [name for name, *_ in list_folder(self.mask_folder).files]
        for name, *_ in list_folder(self.folder).files[:5]:
            stem = os.path.splitext(name)[0]
            begins = re.compile(re.escape(stem) + r"[\W_]")
            found = [x for x in listed if begins.match(x)]
            if len(found) > 1:
                return (
                    f" {name!r} seems to have several, {found[:3]}: of things "
                    "apart or classes that overlap no masks are read. Draw "
                    "them into one, which has a class at each pixel."
                )
        return ""

    def examples(self, good, bad, group_by):
        """`Examples` of the usable pairs, all but their content."""
        names = [self.files[i][0] for i in good]
        groups = groups_of(names, group_by)
        paths = [os.path.join(self.folder, name) for name in names]
        masks = [self.masks[i] for i in good]
        columns = {"path": paths, "mask": masks}
        if groups is not None:
            columns["group"] = groups
        return Examples(
            x=None,
            names=names,
            labels=None,
            digests=[],
            source=f"Folder {self.folder!r}",
            columns={k: np.array(v, object) for k, v in columns.items()},
            given=[self.given[i] for i in good],
            groups=groups,
            bad_files=bad,
        )


def _shares(names, pixels):
    pairs = zip(names, pixels / max(pixels.sum(), 1), strict=True)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in pairs)
    return f"Of the pixels: {shares}."


def _folder(path, name):
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise ValueError(f"There is no such folder. Received: {name}={path!r}")
    return path


def _bad(checks, looks):
    """Names and reasons of pairs that cannot be used."""
    for check, (_, _, shape, _, problem) in zip(checks, looks, strict=True):
        size = check.height, check.width
        if check.problem or problem:
            yield check.name, check.problem or problem
        elif shape != size:
            yield (
                check.name,
                f"{size[1]} x {size[0]} pixels, and its mask has "
                f"{shape[1]} x {shape[0]}",
            )


def _check_values(known, good, looks, pairs):
    odd = {}
    for i in good:
        unknown = known.unknown(looks[i][0])
        if unknown:
            odd[os.path.basename(pairs.masks[i])] = unknown[:5]
    if odd:
        some = dict(list(odd.items())[:5])
        raise ValueError(
            f"{len(odd)} masks have values that are no class. Name the class "
            "of each value: `classes={'road': 0, 'car': 7}`, colours as "
            "`(255, 0, 0)`; what is to be left out, such as 255 at the edges, "
            "is `ignore_class=255`. Received: classes of the values "
            f"{known.values.tolist()}, and masks with {some}"
        )
