"""Images and their masks by index, read when first asked for."""

import numpy as np

from finetune_keras.data.images import check_image_size
from finetune_keras.data.mask_files import open_mask
from finetune_keras.data.pipeline import ImageStore
from finetune_keras.engine.packages import PIL


class MaskStore(ImageStore):
    """An `ImageStore` that knows the mask of each image, uint8 class ids."""

    def __init__(self, paths, masks, classes, by_color, image_size, cache):
        super().__init__(paths, image_size, cache=cache)
        self.mask_paths, self.classes = masks, classes
        self.by_color = by_color
        kept = self.kept is not None
        shape = (len(paths), *self.shape[:2])
        self.ids = np.empty(shape, "u1") if kept else None
        self.read = np.zeros(len(paths), bool)

    def labels(self, indexes):
        """Masks of some images, uint8 class ids."""
        if self.ids is None:
            return np.stack(list(self.pool.map(self.load_mask, indexes)))
        missing = indexes[~self.read[indexes]]
        masks = self.pool.map(self.load_mask, missing)
        for i, mask in zip(missing, masks, strict=True):
            self.ids[i] = mask
            self.read[i] = True
        return self.ids[indexes]

    def load_mask(self, index):
        values = open_mask(self.mask_paths[index], self.by_color)
        height, width = check_image_size(self.image_size)
        image = PIL.Image.fromarray(self.classes.ids(values))
        # The pixel under the middle of each, as the image is resized.
        nearest = PIL.Image.Resampling.NEAREST
        return np.asarray(image.resize((width, height), nearest))
