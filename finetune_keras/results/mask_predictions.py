"""Masks that a bundle predicts, in the size of the pictures."""

import numpy as np

from finetune_keras.data.images import load_image, size_of
from finetune_keras.data.layout import Pictures, Shown, Table
from finetune_keras.data.previews import thumbnail
from finetune_keras.data.several import inputs_by_name
from finetune_keras.engine.packages import PIL, pandas
from finetune_keras.results.calibration import find_calibration
from finetune_keras.results.raw_inputs import as_model_takes, file_names, listed

# How many pictures are shown.
_SHEET = 12


class MaskPredictions(Shown):
    """Masks, one for each picture. Made by `Bundle.predict`.

    Attributes:
        labels: List of uint8 arrays (height, width) of class ids, each in the
            size of its picture.
        confidence: List of float32 arrays (height, width), the probability of
            what was predicted of each pixel.
        classes: List of strings, the names of the ids.
        names: List of strings, the names of the files that were read, or
            `None`.
    """

    def __init__(self, masks, task, names, pictures):
        self.labels, self.confidence = map(list, zip(*masks, strict=True))
        self.task, self.classes, self.names = task, task.classes, names
        self._pictures = pictures

    def __len__(self):
        return len(self.labels)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        """Returns one prediction as a dict."""
        found = {} if self.names is None else {"name": self.names[index]}
        return {
            **found,
            "label": self.labels[index],
            "confidence": self.confidence[index],
            "shares": self._shares(self.labels[index]),
        }

    def _shares(self, mask):
        counts = np.bincount(mask.ravel(), minlength=len(self.classes))
        shares = (counts / mask.size).tolist()
        return dict(zip(self.classes, shares, strict=True))

    def overlay(self, index):
        """The picture at a place under the colours of its mask.

        Returns:
            uint8 array (height, width, 3).
        """
        picture = self._pictures[index]
        image = load_image(picture, size_of(picture))
        return self.task.picture(image, self.labels[index])

    def figure(self):
        """Draws the first pictures under their masks.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.
        """
        from finetune_keras.results.render_figures import draw_sheet

        return draw_sheet(
            [(self.overlay(i), self._words(i)) for i in self._first()]
        )

    def to_frame(self):
        """Returns a `pandas.DataFrame`: name, and the share of each class."""
        columns = {} if self.names is None else {"name": self.names}
        shares = [self._shares(mask) for mask in self.labels]
        columns |= {c: [one[c] for one in shares] for c in self.classes}
        return pandas.DataFrame(columns)

    def _first(self):
        return range(min(len(self._pictures), _SHEET))

    def _words(self, i):
        name = str(i) if self.names is None else self.names[i]
        return "\n".join([name, *self.task.plain(self.labels[i])])

    def _layout(self):
        rows = [
            [
                i if self.names is None else self.names[i],
                f"{mask.shape[1]} x {mask.shape[0]}",
                ", ".join(self.task.plain(mask)),
                f"{self.confidence[i].mean():.3f}",
            ]
            for i, mask in enumerate(self.labels)
        ]
        table = Table(["input", "size", "mask", "confidence"], rows)
        return [table, Pictures("", self._sheet)]

    def _sheet(self):
        return [
            (thumbnail(self.overlay(i)), self._words(i)) for i in self._first()
        ]


def predict_masks(bundle, inputs, batch_size, verbose, overlap):
    """The `MaskPredictions` of a bundle for some pictures."""
    if len(bundle.model.inputs) > 1:
        if overlap is not None:
            raise ValueError(
                "Windows are cut out of one picture, and the model takes "
                f"several inputs. Leave `overlap` out. Received: {overlap=}"
            )
        pictures = _first_pictures(bundle.model, inputs)
        found = _of_several(bundle, inputs, pictures, batch_size, verbose)
    else:
        pictures = inputs
        reader = _Reader(bundle, batch_size, verbose)
        read = reader.whole if overlap is None else reader.windows
        more = () if overlap is None else (overlap,)
        found = read(listed(pictures), *more)
    calibration = find_calibration(bundle.model)
    thresholds = getattr(calibration, "thresholds", None)
    cut = thresholds[0] if thresholds else None
    masks = [_decide(bundle.task, scores, cut) for scores in found]
    names = file_names(pictures)
    return MaskPredictions(masks, bundle.task, names, _to_draw(pictures))


def _first_pictures(model, inputs):
    """What is passed for the first input that takes pictures."""
    tensors = inputs_by_name(model)
    place, name = next(
        (place, name)
        for place, (name, tensor) in enumerate(tensors.items())
        if len(tensor.shape) == 4
    )
    return inputs[name if hasattr(inputs, "keys") else place]


def _of_several(bundle, inputs, pictures, batch_size, verbose):
    """Probabilities in the sizes of the pictures, of a model of many inputs."""
    x = bundle.prepare(inputs)
    outputs = bundle.task.predict(bundle.model, x, batch_size, verbose)
    scores = bundle.task.scores(outputs)
    for one, found in zip(listed(pictures), scores, strict=True):
        is_array = isinstance(one, np.ndarray)
        yield resized(found, one.shape[:2] if is_array else size_of(one))


def _to_draw(pictures):
    """Pictures to be drawn; none where their values are no pixels."""
    pictures = listed(pictures)
    try:
        size_of(pictures[0])
    except ValueError:
        return ()
    return pictures


def _decide(task, scores, threshold):
    chosen = task.decide(scores, threshold)
    sure = np.take_along_axis(scores, chosen[..., None], axis=-1)[..., 0]
    return chosen.astype("uint8"), sure.astype("float32")


class _Reader:
    """Reads pictures for a model, and gives probabilities in their sizes."""

    def __init__(self, bundle, batch_size, verbose):
        self.model, self.task = bundle.model, bundle.task
        size = bundle.facts["image_size"] or self.model.inputs[0].shape[1:3]
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if None in self.size:
            raise ValueError(
                "The bundle does not know the size of its images: it was saved "
                "without `data`, and the model takes any size. Save it again, "
                "`ft.save_bundle(model, path, data)`. "
                f"Received: a model of inputs {self.model.inputs[0].shape}"
            )
        self.batch_size, self.verbose = batch_size, verbose

    def whole(self, pictures):
        """Probabilities (height, width, classes) of pictures, resized."""
        for some in _batched(pictures, self.batch_size):
            pixels = [load_image(one, self.size) for one in some]
            for one, scores in zip(some, self._predict(pixels), strict=True):
                yield resized(scores, size_of(one))

    def windows(self, pictures, overlap):
        """Probabilities of pictures, read through windows at their scale."""
        for picture in pictures:
            height, width = size_of(picture)
            pixels = load_image(picture, (height, width))
            # Mirrored where a picture is smaller than a window.
            down, across = np.maximum(
                np.subtract(self.size, pixels.shape[:2]), 0
            )
            pixels = np.pad(
                pixels, ((0, down), (0, across), (0, 0)), "symmetric"
            )
            yield self._blended(pixels, overlap)[:height, :width]

    def _blended(self, pixels, overlap):
        """Means of what windows say, nearer to the middle the weightier."""
        places = [
            (top, left)
            for top in _starts(pixels.shape[0], self.size[0], overlap)
            for left in _starts(pixels.shape[1], self.size[1], overlap)
        ]
        weight = np.outer(*map(_ramp, self.size))[..., None]
        sums = np.zeros((*pixels.shape[:2], len(self.task.classes)))
        total = np.zeros((*pixels.shape[:2], 1))
        for some in _batched(places, self.batch_size):
            cuts = [self._cut(*place) for place in some]
            found = self._predict([pixels[cut] for cut in cuts])
            for cut, scores in zip(cuts, found, strict=True):
                sums[cut] += scores * weight
                total[cut] += weight
        return sums / total

    def _cut(self, top, left):
        height, width = self.size
        return slice(top, top + height), slice(left, left + width)

    def _predict(self, pixels):
        x = as_model_takes(pixels, self.model.inputs[0])
        outputs = self.model.predict(x, self.batch_size, verbose=self.verbose)
        scores = self.task.scores(outputs)
        if scores.shape[1:3] != self.size:
            scores = [resized(one, self.size) for one in scores]
        return scores


def _batched(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


def _ramp(length):
    """Weights that fall from the middle to both ends."""
    places = np.arange(length) + 0.5
    return np.minimum(places, length - places)


def resized(scores, size):
    """Probabilities (height, width, classes) in another size, bilinear."""
    if scores.shape[:2] == tuple(size):
        return scores
    height, width = size
    maps = [
        PIL.Image.fromarray(one).resize(
            (width, height), PIL.Image.Resampling.BILINEAR
        )
        for one in np.ascontiguousarray(np.moveaxis(scores, -1, 0))
    ]
    return np.stack([np.asarray(one) for one in maps], axis=-1)


def _starts(length, window, overlap):
    """Where windows begin that cover a length, spread evenly."""
    step = max(int(window * (1 - overlap)), 1)
    count = 1 + max(-(-(length - window) // step), 0)
    return np.linspace(0, length - window, count).astype(int).tolist()
