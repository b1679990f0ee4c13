"""Examples to batches: a `tf.data.Dataset` over indexes."""

import concurrent.futures
import os

import keras
import numpy as np

from finetune_keras.arguments import check, one_of
from finetune_keras.data.epochs import Epochs, random_of, with_draws
from finetune_keras.data.files import check_images
from finetune_keras.data.images import check_image_size, load_image
from finetune_keras.data.mask_augmentation import augmented
from finetune_keras.engine.packages import tensorflow as tf


class Store:
    """Examples by index, as arrays of a `shape` and `dtype`."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)

    def batch(self, indexes):
        """Some of the examples."""
        raise NotImplementedError


class FileStore(Store):
    """Examples in files, each read when first asked for.

    `cache` is `True` to keep what was read in memory, `False` to read it each
    time, or `"auto"` to keep it where it fits in a third of the free memory.
    A subclass says how a file is checked and read.
    """

    def __init__(self, paths, shape, dtype, cache="auto"):
        super().__init__(shape, dtype)
        self.paths, self.cache = paths, cache
        size = len(paths) * int(np.prod(shape)) * self.dtype.itemsize
        check(cache=(cache, one_of(True, False, "auto")))
        keep = size < free_memory() / 3 if cache == "auto" else cache
        # Memory that is not yet written to costs nothing.
        self.kept = np.empty((len(paths), *shape), dtype) if keep else None
        self.loaded = np.zeros(len(paths), bool)
        self.pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def batch(self, indexes):
        if self.kept is None:
            return np.stack(list(self.pool.map(self.load, indexes)))
        missing = indexes[~self.loaded[indexes]]
        for i, one in zip(
            missing, self.pool.map(self.load, missing), strict=True
        ):
            self.kept[i] = one
            self.loaded[i] = True
        return self.kept[indexes]


class ImageStore(FileStore):
    """Images in files, uint8."""

    check = staticmethod(check_images)

    def __init__(
        self, paths, image_size, crop_to_aspect_ratio=False, cache="auto"
    ):
        super().__init__(paths, (*check_image_size(image_size), 3), "u1", cache)
        self.image_size = image_size
        self.crop_to_aspect_ratio = crop_to_aspect_ratio

    def of(self, paths):
        """A store of other files, which are read alike."""
        crop = self.crop_to_aspect_ratio
        return ImageStore(paths, self.image_size, crop, self.cache)

    def load(self, index):
        return load_image(
            self.paths[index], self.image_size, self.crop_to_aspect_ratio
        )


def free_memory():
    """Bytes of memory that can be had; a guess where nothing tells."""
    found = [_available(), _limit()]
    return min([n for n in found if n], default=2**31)


def _available():
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _limit():
    """Limit of the container."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def make_dataset(
    x,
    y,
    indexes,
    batch_size,
    seed=None,
    class_ids=None,
    augmentation=None,
    crop=None,
):
    """Makes float32 batches of `(x, y)` of arrays or a `Store`.

    A `seed` draws a new order of the `indexes` each epoch. With `class_ids`,
    aligned with `y`, each class is drawn as often. The layers of an
    `augmentation` change images with their masks or boxes. A `crop` that is
    `"random"` draws another stretch of each sound.
    """
    with tf.device("CPU"):
        if seed is None:
            order = tf.data.Dataset.from_tensor_slices(indexes)
        else:
            order = Epochs().dataset(
                lambda epoch: _draw(indexes, class_ids, seed, epoch),
                [len(indexes)],
            )
        batches = order.batch(batch_size)
        if crop == "random":
            batches, read = with_draws(batches, seed), _cropper(x, y)
        else:
            read = _reader(x, y) if isinstance(x, Store) else _taker(x, y)
        batches = batches.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        if augmentation is not None:
            batches = augmented(batches, augmentation, seed)
        return batches.prefetch(tf.data.AUTOTUNE)


def _draw(indexes, class_ids, seed, epoch):
    """The order of an epoch."""
    random = random_of(seed, epoch)
    if class_ids is not None:
        indexes = _balanced(indexes, class_ids[indexes], random)
    return random.permutation(indexes)


def _balanced(indexes, class_ids, random):
    """As many indexes as there are, in turns from each class."""
    classes = np.unique(class_ids)
    rounds = -(-len(indexes) // len(classes))
    columns = []
    for c in classes:
        members = indexes[class_ids == c]
        times = -(-rounds // len(members))
        draws = [random.permutation(members) for _ in range(times)]
        columns.append(np.concatenate(draws)[:rounds])
    return np.stack(columns, axis=1).reshape(-1)[: len(indexes)]


def rows_of(x, places):
    """Some examples of arrays or of a `Store`, as they come in batches."""
    if isinstance(x, dict):
        return {name: rows_of(column, places) for name, column in x.items()}
    x = x.batch(places) if isinstance(x, Store) else x[places]
    return x.astype("float32") if x.dtype == np.uint8 else x


def _taker(x, y):
    if isinstance(x, dict):
        columns, labels = _gatherer(x), _gatherer(y)
        return lambda i: (columns(i), labels(i))
    # As images from files: what follows may not expect uint8.
    dtype = tf.float32 if x.dtype == np.uint8 else None
    x, labels = tf.constant(x), _gatherer(y)

    def take(i):
        batch = tf.gather(x, i)
        batch = batch if dtype is None else tf.cast(batch, dtype)
        return batch, labels(i)

    return take


def _reader(store, y):
    masks = hasattr(store, "labels")
    labels = None if masks else _gatherer(y)

    def look_up(function, i, shape, dtype):
        found = tf.numpy_function(function, [i], dtype, stateful=False)
        return tf.ensure_shape(found, (None, *shape))

    def read(i):
        dtype = tf.as_dtype(store.dtype)
        x = look_up(store.batch, i, store.shape, dtype)
        x = tf.cast(x, tf.float32)
        if masks:
            return x, look_up(store.labels, i, store.shape[:2], tf.uint8)
        return x, labels(i)

    return read


def _cropper(store, y):
    labels = _gatherer(y)

    def read(i, draw):
        # By TensorFlow, so that the graph tells that passes differ.
        places = tf.random.stateless_uniform(
            tf.shape(i), [draw, 0], dtype=tf.float64
        )
        x = tf.numpy_function(
            store.stretches, [i, places], tf.float32, stateful=False
        )
        return tf.ensure_shape(x, (None, *store.shape)), labels(i)

    return read


def _gatherer(y):
    """Takes some of an array, or of each in a dict."""
    y = keras.tree.map_structure(tf.constant, y)
    return lambda i: keras.tree.map_structure(lambda a: tf.gather(a, i), y)
