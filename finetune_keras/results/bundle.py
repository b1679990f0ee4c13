"""One saved file that predicts from raw input."""

import json
import pathlib
import zipfile

import keras
import numpy as np

from finetune_keras.arguments import check, check_model, maybe, one_of, part
from finetune_keras.data.atomic import replacing
from finetune_keras.data.several import (
    values_by_name,
)
from finetune_keras.engine.configs import whole_configs
from finetune_keras.engine.graph import all_layers
from finetune_keras.engine.versions import refuse_unknown_format
from finetune_keras.models.detectors import (
    BoxFinder,
    in_pictures,
)
from finetune_keras.models.model import keep_trainable_set
from finetune_keras.results.box_predictions import BoxPredictions
from finetune_keras.results.bundle_facts import facts_of
from finetune_keras.results.bundle_file import (
    MEMBER,
    read_bundle,
    task_of,
)
from finetune_keras.results.calibration import find_calibration
from finetune_keras.results.exported import RUNNERS, sample
from finetune_keras.results.mask_predictions import predict_masks
from finetune_keras.results.predictions import Predictions
from finetune_keras.results.raw_inputs import (
    file_names,
    pictures_of,
    read_inputs,
)


def save_bundle(model, path, data=None, classes=None, plan=None):
    """Saves a model with all that it takes to predict from raw input.

    The file is a plain `.keras` file with one member more: the names of the
    classes, how inputs are read, the plan and the environment. Calibration
    and the scaling of pixels are layers of the model. Plain
    `keras.models.load_model` reads it as well.

    Args:
        model: A `keras.Model` with one prediction for each input, or a class
            for each pixel, from one or several inputs, or with several outputs
            of one prediction each; a model for raw texts, such as
            `text_classifier`; or a detector of KerasHub. With `data` of a table
            of several kinds its inputs are columns of it.
        path: String, where to save, ending in `.keras`. An old file is
            replaced only once the new one is whole.
        data: `DataSplits` that the model was trained on: its classes, task,
            image size, sampling rate and columns are kept. Defaults to `None`.
        classes: List of strings, in the order of the outputs, where there is
            no `data`; a dict of such lists by the names of several outputs.
            Defaults to `None`.
        plan: `Plan` by which it was trained. Defaults to `None`.

    Returns:
        String, the path.

    Raises:
        ValueError: If the path does not end in `.keras`, the classes do not go
            with the outputs, or the model does not predict from raw input: it
            has values for each pixel, or nothing tells what an output is.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Dense(2, activation="softmax")(inputs)
    )
    ft.save_bundle(model, "animals.keras", classes=["cat", "dog"])
    bundle = ft.load_bundle("animals.keras")
    print(bundle.predict(np.random.normal(size=(3, 4))))
    ```
    """
    path = pathlib.Path(path)
    if path.suffix != ".keras":
        raise ValueError(
            "A bundle is a Keras file: give it a name that ends in `.keras`. "
            f"Received: path={str(path)!r}"
        )
    check_model(model)
    facts = facts_of(model, data, classes, plan)
    keep_trainable_set(model)
    with replacing(path) as new:
        preprocessor = getattr(model, "preprocessor", None)
        with whole_configs([*all_layers(model), preprocessor]):
            model.save(new.name)
        _read_back(model, new.name)
        with zipfile.ZipFile(new.name, "a") as file:
            file.writestr(MEMBER, json.dumps(facts))
    return str(path)


def _read_back(model, path):
    """Loads what was saved: some layers write what they cannot read."""
    try:
        # It is our own file.
        loaded = keras.models.load_model(path, compile=False, safe_mode=False)
    except Exception as error:
        raise ValueError(
            "The model was saved, but its file cannot be read, so there is no "
            "bundle. Give its layers a `get_config` with all that their "
            "constructor takes, and register classes of your own by "
            "`keras.saving.register_keras_serializable`. Received: "
            f"model={model.name!r}; {type(error).__name__}: {error}"
        ) from error
    pairs = zip(model.weights, loaded.weights, strict=False)
    same = len(model.weights) == len(loaded.weights) and all(
        np.array_equal(*map(keras.ops.convert_to_numpy, pair), equal_nan=True)
        for pair in pairs
    )
    if not same:
        raise ValueError(
            "The model was saved, but its file gives other weights, so there "
            "is no bundle. Adapters in a model that does not write them, such "
            "as a task of KerasHub, are merged first: `ft.merge_adapters`. "
            f"Received: model={model.name!r}"
        )


def load_bundle(path, safe_mode=True):
    """Loads what `save_bundle` saved, in safe mode.

    In safe mode no file can run code, or have another file read or fetched,
    which a `HubLayer` and a `Lambda` layer do.

    Args:
        path: String.
        safe_mode: Boolean, as for `keras.models.load_model`. Pass `False` only
            for a file that you trust. Defaults to `True`.

    Returns:
        A `Bundle`.

    Raises:
        ValueError: If the file is no bundle, is damaged, or cannot be loaded
            in safe mode.

    Warns:
        UserWarning: If the loss, a metric or the optimizer cannot be read: the
            bundle predicts, and its model is not compiled.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Dense(2, activation="softmax")(inputs)
    )
    ft.save_bundle(model, "animals.keras", classes=["cat", "dog"])
    print(ft.load_bundle("animals.keras").classes)
    ```
    """
    return Bundle(*read_bundle(path, safe_mode))


class Bundle:
    """A model that predicts from raw input. Made by `load_bundle`.

    Attributes:
        model: The `keras.Model`.
        classes: List of strings, or `None` where none have names.
        task: The task, which equals its name, such as `"classification"`.
        facts: Dict of plain data: `task`, `image_size`, `plan`,
            `environment`, `data`.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Dense(1, activation="sigmoid")(inputs)
    )
    ft.save_bundle(model, "spam.keras", classes=["no", "yes"])
    bundle = ft.load_bundle("spam.keras")
    print(bundle.predict(np.ones((2, 4))).labels)
    bundle.export("served")
    ```
    """

    def __init__(self, model, facts):
        self.model = model
        self.facts = facts
        self.classes = facts["classes"]
        self.task = task_of(model, facts)
        self._find = None

    def __repr__(self):
        facts = self.facts
        return (
            f"<Bundle {self.model.name!r}: {facts['task']}, "
            f"classes={self.classes}>"
        )

    def prepare(self, inputs):
        """Reads raw inputs as the model was trained on them.

        Args:
            inputs: See `predict`.

        Returns:
            Array, or dict of arrays, what `model.predict` takes.

        Raises:
            ValueError: If an input cannot be read; the message names it.
        """
        return read_inputs(inputs, self.model, self.facts)

    def predict(self, inputs, batch_size=32, verbose=0, overlap=None):
        """Predicts from raw inputs.

        Args:
            inputs: One input or a list of them. For images: paths, bytes of
                files, `PIL.Image`s or arrays of any size. For sounds: paths or
                bytes of files of any rate and length. For texts: strings.
                Pairs of texts, and questions with their contexts: a tuple
                of two lists. Sentences to tag: lists of words.
                For tables: a `pandas.DataFrame`, a dict of columns, one row
                as a dict, or a list of such, with strings as a CSV file has
                them, and, of columns of several kinds, `None`, NaN or `""`
                for what is missing. Of several inputs a dict or a frame by
                their names, or one row of it. Or an array of what the model
                takes.
            batch_size: Integer. Defaults to `32`.
            verbose: 0 or 1, as for `model.predict`. Defaults to `0`.
            overlap: Float in [0, 1), for masks of large pictures: they are
                read at their own scale through windows of the size that the
                model takes, and this is the share of its side that a window
                has in common with the next. Defaults to `None`: pictures are
                resized as a whole.

        Returns:
            `Predictions`, one for each input, a dict of them by the names of
            several outputs; of a `token_classifier` a list of
            tags, of a `question_answerer` a dict, and of a model that writes
            a text for each, the prompt left out; of an embedder
            the array of vectors. Of masks, their `labels` are arrays of class
            ids (height, width) in the size of each picture, `confidence` the
            probabilities of these, and `figure()` draws them. Those of a
            detector have, for each picture, `boxes`, an array of (left, top,
            right, bottom) in its pixels, and `scores` beside `labels`.

        Raises:
            ValueError: If an input cannot be read; the message names it.
        """
        check(overlap=(overlap, maybe(part)))
        if self.task.is_dense:
            return predict_masks(self, inputs, batch_size, verbose, overlap)
        if overlap is not None:
            raise ValueError(
                "Windows that overlap are for masks of large pictures. "
                f"Received: overlap={overlap} for {self.task}"
            )
        x = self.prepare(inputs)
        if self.task == "detection":
            return self._boxes(inputs, x, batch_size)
        outputs = self.task.predict(self.model, x, batch_size, verbose)
        if self.task == "several":
            outputs = values_by_name(self.model, outputs)
            return {
                name: Predictions(outputs[name], task)
                for name, task in self.task.parts.items()
            }
        if isinstance(outputs, list) or self.task.is_compared:
            return outputs
        calibration, names = find_calibration(self.model), None
        if getattr(x, "ndim", 0) == 4 or self.facts["sampling_rate"]:
            names = file_names(inputs)
        seen = x if isinstance(x, np.ndarray) else ()
        return Predictions(outputs, self.task, calibration, names, seen)

    def _boxes(self, inputs, x, batch_size):
        if self._find is None:
            self._find = BoxFinder(self.model)
        rows = self._find(x, batch_size)
        pictures = pictures_of(inputs)
        sizes = [picture.size for picture in pictures]
        rows = in_pictures(self.model, rows, x, sizes)
        return BoxPredictions(rows, self.task, file_names(inputs), pictures)

    def export(self, path, format="tf_saved_model"):
        """Exports the model for serving, and checks what was written.

        What is exported takes the arrays that `prepare` returns and gives what
        the model gives, logits if these are logits; scaling of pixels and
        calibration are inside.

        Args:
            path: String: a folder for a SavedModel, a file that ends in
                `.onnx` or `.tflite` for the others.
            format: `"tf_saved_model"`, `"onnx"` (needs onnx, tf2onnx and
                onnxruntime) or `"litert"`, as in `model.export`. Defaults to
                `"tf_saved_model"`.

        Returns:
            String, the path.

        Raises:
            ValueError: If the exported model gives other outputs, or this
                Keras does not write the format.
        """
        check(format=(format, one_of(*RUNNERS)))
        refuse_unknown_format(format)
        if self.task == "detection":
            raise ValueError(
                "What Keras exports of a detector are offsets of its anchors, "
                "and no boxes. Serve `bundle.predict` itself. Received: "
                f"model={self.model.name!r}"
            )
        path, x = str(path), sample(self.model, format)
        # Before the export: a loaded model has not been called yet.
        expected = self.model.predict(x, verbose=0)
        self.model.export(path, format=format, verbose=False)
        outputs = RUNNERS[format](path, x)
        difference = float(np.abs(outputs - expected).max())
        if not difference <= 1e-4:
            raise ValueError(
                "The exported model gives other outputs than this one: they "
                f"differ by {difference:.2g}. Received: path={path!r}"
            )
        return path
