"""`DataSplits`: training, validation and test data with what is known of it."""

import hashlib

import keras
import numpy as np

from finetune_keras.arguments import check, integer
from finetune_keras.data.describe import describe
from finetune_keras.data.layout import Pictures, Shown
from finetune_keras.data.pipeline import make_dataset, rows_of
from finetune_keras.data.previews import thumbnail
from finetune_keras.data.printable import outcome
from finetune_keras.data.splits import (
    NAMES,
    find_duplicates,
    merge_units,
    split_examples,
    straddling,
)
from finetune_keras.data.table_layers import make_feature_space
from finetune_keras.data.targets import encode

# How many pictures of the data are shown.
_SHEET = 8


class DataSplits(Shown):
    """Training, validation and test data. `print` shows what is in it.

    Made by `image_folder`, `mask_folder`, `box_folder`, `text_folder`,
    `audio_folder`, `from_csv`, `from_frame`, `from_series`, `from_arrays` and
    `from_tfds`. The splits are stratified, keep groups and exact copies whole,
    and depend on nothing but the data and the seed; those of a series are parts
    of its time. The training data has a new order in each pass, which depends
    on the seed and the number of the pass alone: a run that goes on after a
    kill takes up the order of its epoch.

    Attributes:
        train: Batched `tf.data.Dataset` of `(x, y)`, shuffled.
        validation: The same in a fixed order, or `None`.
        test: The same in a fixed order, or `None`.
        task: What is predicted: it equals `"classification"` (y are class
            ids), `"multi_label"` (rows of zeros and ones), `"regression"`
            (floats), `"segmentation"` (masks of class ids) or `"detection"` (a
            dict of boxes and labels).
        classes: List of strings, or `None` for a regression.
        counts: Dict from split to a dict from class to its examples.
        sizes: Dict from split to its examples.
        class_weight: Dict from class id to weight, for `fit`, as
            scikit-learn's `"balanced"`; all 1 with `balanced=True`, `None`
            where the task is no classification.
        bad_files: List of `(name, reason)`, left out.
        duplicates: List of pairs of names: equal content in two splits.
        notes: List of sentences on what is out of the ordinary.
        columns: Dict from split to a dict of arrays by name, in the order of
            the examples; of images, `"path"` is one.
        names: List of what each example is called, all splits together: files
            by their names in the folder, rows by their numbers.
        places: Dict from split to an integer array, where its examples stand
            in `names`.
        fingerprint: String, a hash of names, labels and contents.
        features: List of strings, the columns of a table that make the
            inputs, or `None`.
        groups: Dict from split to an array, what was kept together, or `None`.
        image_size: As given, or `None`.
        crop_to_aspect_ratio: Boolean, as given for images.
        sampling_rate, seconds: As given for sounds, or `None`.
        kinds: Dict from column to `"number"`, `"category"`, `"date"` or
            `"text"` of a table of several kinds, or `None`.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    x = np.random.normal(size=(60, 4)).astype("float32")
    data = ft.from_arrays(x, ["ant", "bee", "wasp"] * 20, seed=0)
    print(data)
    print(data.classes, data.counts["test"], data.train)
    ```
    """

    def __init__(self, examples, fractions, seed, options):
        check(batch_size=(options["batch_size"], integer(1)))
        targets = encode(examples.labels, options["task"], options["classes"])
        units, notes = _units(examples)
        given = examples.given
        if given is None:
            given = np.full(len(examples.names), "train")
        self.task, self.classes = targets.task, targets.task.classes
        self.task.take_options(options)
        strata = self.task.strata(targets.y)
        parts = split_examples(strata, units, given, fractions, seed)
        self.image_size, self.features = examples.image_size, examples.features
        groups = examples.groups
        self.groups = groups is not None and {
            name: np.array(groups)[parts[name]] for name in NAMES
        }
        self.groups = self.groups or None
        self.crop_to_aspect_ratio = options.get("crop_to_aspect_ratio", False)
        self.sampling_rate = options.get("sampling_rate")
        self.seconds = options.get("seconds")
        self.kinds = options.get("kinds")
        self.names, self.places = list(examples.names), parts
        self.sizes = {name: len(parts[name]) for name in NAMES}
        self.counts = {
            name: self.task.counts(targets.y[parts[name]]) for name in NAMES
        }
        self.bad_files = list(examples.bad_files)
        self.duplicates = [
            (examples.names[a], examples.names[b])
            for a, b in find_duplicates(examples.digests, parts)
        ]
        self.columns = {
            name: {k: v[parts[name]] for k, v in examples.columns.items()}
            for name in NAMES
        }
        self.fingerprint = _fingerprint(examples, targets)
        self.notes = [
            *examples.notes,
            *notes,
            *self._findings(examples, targets, parts),
        ]
        self._described = describe(self, examples)
        self._source = examples.x, self.task.targets(targets.y)
        # What data with more examples is made of.
        self.made_of = examples, targets.y, seed, options
        self._make_datasets(targets, parts, seed, options)

    def _layout(self):
        return [*self._described, Pictures("", self._sheet)]

    def _sheet(self):
        """Lists some images of the training data with name and label."""
        places = self.places["train"]
        some = places[:: max(len(places) // _SHEET, 1)][:_SHEET]
        try:
            x, y = self.examples(some)
        except (OSError, ValueError):
            # The files are gone or have changed: there is no sheet of them.
            return []
        if isinstance(x, dict):
            return []
        if not self.task.is_dense:
            # As they are judged, and not as batches have them.
            y = self.made_of[1][some]
        pairs = zip(x, y, strict=True)
        pictures = [thumbnail(self.task.picture(*pair)) for pair in pairs]
        labels = [outcome(self.task.plain(np.atleast_1d(one))) for one in y]
        return [
            (picture, f"{self.names[i]}\n{label}")
            for i, picture, label in zip(some, pictures, labels, strict=True)
            if picture is not None
        ]

    def arrays(self, split):
        """Reads a split as arrays, in the order of `columns` and `groups`.

        Args:
            split: `"train"`, `"validation"` or `"test"`.

        Returns:
            `(x, y)`, NumPy arrays; images as float32 pixels.
        """
        batches = list(make_dataset(*self._source, self.places[split], 64))
        return keras.tree.map_structure(
            lambda *parts: np.concatenate([part.numpy() for part in parts]),
            *batches,
        )

    def feature_space(self):
        """Makes a `keras.utils.FeatureSpace` of a table of several kinds.

        It takes the columns by their names, as they come in `train`, and gives
        one row of floats: numbers standardised, and 0 where missing; dates as
        their place in time, year, week and day; a column for each category,
        and one for those that are missing, rare or not known; a column for
        each word. All that it knows it has from the training data, and is kept
        in the model. Its layers are new with each call.

        Returns:
            A `FeatureSpace`, with `get_inputs()` and
            `get_encoded_features()` for a functional model.

        Raises:
            ValueError: If the data are no table of several kinds, or hold
                strings on another backend than TensorFlow.

        Example:

        ```python
        import keras
        import finetune_keras as ft

        frame = {
            "age": [20.0, None, 40.0, 60.0] * 10,
            "city": ["Rome", "Oslo"] * 20,
            "ill": ["yes", "no"] * 20,
        }
        data = ft.from_frame(frame, ["age", "city"], "ill")
        space = data.feature_space()
        x = keras.layers.Dense(8, "relu")(space.get_encoded_features())
        model = ft.replace_head(keras.Model(space.get_inputs(), x), 2)
        print(model.predict(data.test, verbose=0).shape)
        ```
        """
        if self.kinds is None:
            raise ValueError(
                "A feature space is for a table with columns of several "
                "kinds, from `ft.from_frame` or `ft.from_csv`; columns of "
                'numbers alone are one too with `kinds="auto"`. Received: '
                f"features={self.features}"
            )
        x, rows = self._source[0], self.places["train"]
        return make_feature_space(
            self.kinds, {name: column[rows] for name, column in x.items()}
        )

    def examples(self, places):
        """Reads some examples of all splits, by their places in `names`.

        Args:
            places: Integer array.

        Returns:
            `(x, y)`, NumPy arrays; images as float32 pixels, texts as strings.
        """
        x, y = self._source
        places = np.asarray(places)
        if self.task.is_dense:
            y = x.labels(places)
        else:
            y = keras.tree.map_structure(lambda part: part[places], y)
        return rows_of(x, places), y

    def _make_datasets(self, targets, parts, seed, options):
        size, balanced = options["batch_size"], options["balanced"]
        if balanced and self.task != "classification":
            raise ValueError(
                "`balanced=True` draws as often from each class, and needs a "
                f"classification. Received: the task is {self.task!r}"
            )
        y = targets.y[parts["train"]]
        self.class_weight = self.task.class_weight(y, balanced)
        self.train = make_dataset(
            *self._source,
            parts["train"],
            size,
            seed,
            targets.y if balanced else None,
            options.get("augmentation"),
            options.get("crop"),
        )
        self.validation, self.test = (
            make_dataset(*self._source, parts[name], size)
            if len(parts[name])
            else None
            for name in ("validation", "test")
        )
        cropped = " cropped" * (options.get("crop") == "random")
        ways = {"train": " balanced" * bool(balanced) + cropped}
        for name in NAMES:
            if getattr(self, name) is not None:
                mark = self._mark(parts[name], seed, ways.get(name, ""))
                getattr(self, name).fingerprint = mark
                self.task.mark(getattr(self, name))
        for name in ("validation", "test"):
            # In their order, by which an example of them is found again.
            if getattr(self, name) is not None:
                getattr(self, name).names = [self.names[i] for i in parts[name]]

    def _mark(self, indexes, seed, way):
        """What tells a split from others to a run that goes on."""
        found = hashlib.blake2b(np.asarray(indexes).tobytes(), digest_size=8)
        return f"{self.fingerprint} {found.hexdigest()} {seed}{way}"

    def _findings(self, examples, targets, parts):
        """Sentences on labels, groups and classes."""
        yield from _contradictions(examples, targets)
        if examples.groups is not None:
            both = straddling(examples.groups, parts)
            if both:
                yield (
                    f"{len(both)} groups are in more than one of the given "
                    f"splits, such as {both[0]!r}."
                )
        for name in NAMES:
            empty = [c for c, n in self.counts[name].items() if not n]
            if empty and self.sizes[name]:
                more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
                yield f"No example in {name}: {empty[:5]}{more}."


def _units(examples):
    """Array of what stays together, and notes on it."""
    digests, count = examples.digests, len(examples.names)
    copies = count - len(set(digests))
    notes = []
    if _mostly_copies(digests):
        notes.append(
            "Most examples equal another, so equal ones are taken for "
            "different examples and may be in different splits."
        )
        digests = range(count)
    elif copies:
        plural = "s are copies" if copies > 1 else " is a copy"
        notes.append(
            f"{copies} example{plural} of another; splits that are cut here "
            "keep copies together."
        )
    keys = [digests] if examples.groups is None else [digests, examples.groups]
    return merge_units(*keys), notes


def _contradictions(examples, targets):
    """Equal content with different labels: one of them is wrong."""
    if targets.task == "regression" or _mostly_copies(examples.digests):
        return
    first, pairs = {}, []
    for i, digest in enumerate(examples.digests):
        j = first.setdefault(digest, i)
        if np.any(targets.y[i] != targets.y[j]):
            pairs.append((examples.names[j], examples.names[i]))
    if pairs:
        yield (
            f"{len(pairs)} copies have another label than the first, such as "
            f"{pairs[0][0]!r} and {pairs[0][1]!r}."
        )


def _mostly_copies(digests):
    return len(set(digests)) < len(digests) / 2


def _fingerprint(examples, targets):
    total = hashlib.sha256(repr((targets.task, targets.task.classes)).encode())
    for name, y, digest in zip(
        examples.names, targets.y, examples.digests, strict=True
    ):
        line = f"{name!r} {np.asarray(y).tolist()!r} {digest}\n"
        total.update(line.encode("utf-8", "surrogatepass"))
    for mark in examples.label_digests or ():
        total.update(mark.encode())
    return total.hexdigest()
