"""Backbones to choose from, and what each makes of the same examples."""

import contextlib
import logging
import time
import warnings

import keras
import numpy as np

from finetune_keras.data.examples import digest
from finetune_keras.data.labels import as_text
from finetune_keras.data.outputs import writes_text
from finetune_keras.data.task import Task
from finetune_keras.engine.graph import graph_of
from finetune_keras.models.backbones import backbone as make_backbone
from finetune_keras.models.head_split import split_head
from finetune_keras.models.heads import rebuild
from finetune_keras.models.image_size import too_small
from finetune_keras.models.model import encoder_of
from finetune_keras.models.outside_graph import prepares_inputs
from finetune_keras.models.pooling import padding_mask, pool
from finetune_keras.models.preprocessing import applications
from finetune_keras.models.text_encoder import is_raw
from finetune_keras.results.predicted import filled, open_data, predict_batch
from finetune_keras.text.text_backbones import text_backbone


def by_name(backbones):
    """Dict from the names of candidates to them; raises for no such."""
    if isinstance(backbones, dict):
        named = dict(backbones)
    elif isinstance(backbones, (list, tuple)):
        names = [getattr(one, "name", one) for one in backbones]
        named = dict(zip(map(str, names), backbones, strict=True))
        if len(named) < len(names):
            raise ValueError(
                "Two backbones have one name. Give each a name of its own: "
                '`{"small": first, "large": second}`. '
                f"Received: backbones of the names {names}"
            )
    else:
        named = {}
    kinds = (str, keras.Model)
    if not named or not all(isinstance(x, kinds) for x in named.values()):
        raise ValueError(
            "`backbones` must be a list of at least one name of a model in "
            "`keras.applications` or `keras.Model`, or a dict from names to "
            f"such. Received: backbones={backbones!r}"
        )
    return named


class Candidate:
    """A backbone that is asked for its pooled features.

    Args:
        name: String.
        model: Name of an application, or a `keras.Model`.
        x: The inputs of a batch, for their shape.

    Attributes:
        parameters: Integer, below the head.
        seconds: Float, what the features of all batches took.
        small: `(pixels, expected)` where the images are smaller than those
            that the weights were made for, or `None`.
    """

    def __init__(self, name, model, x):
        self.name, self.seconds = name, 0.0
        self.task = None if isinstance(model, str) else Task.of(model)
        if writes_text(model):
            model = text_backbone(model)
        whole = _for_images(model, x)
        application = model if model in list(applications()) else None
        flat, features = split_head(whole)
        vector = pool(features, "avg", padding_mask(flat))
        outputs = [vector]
        old = graph_of(flat).outputs[0]
        if self.task == "classification" and features is not old:
            outputs.append(old)
        self.model = rebuild(flat, outputs, whole=whole)
        self.small = too_small(whole, application)
        below = keras.Model(graph_of(flat).inputs, vector)
        self.parameters = below.count_params()
        self.found = []

    def read(self, x, count):
        """Takes the features of the first `count` examples of a batch."""
        begun = time.perf_counter()
        if encoder_of(self.model) is not None and is_raw(x):
            x = self.model.arrays(x)
        outputs = predict_batch(self.model, x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        outputs = [np.asarray(part).astype("float32") for part in outputs]
        self.found.append([part[:count] for part in outputs])
        self.seconds += time.perf_counter() - begun

    def features(self, rows):
        """Features of some examples, a row each."""
        features = np.concatenate([parts[0] for parts in self.found])[rows]
        if not np.isfinite(features).all():
            raise ValueError(
                f"The features of {self.name!r} are NaN or infinite. Look at "
                "its weights, and at the inputs. Received: such of "
                f"{(~np.isfinite(features).all(axis=1)).sum()} examples"
            )
        return features

    def old_classes(self, rows):
        """Probabilities of the old classes, or `None` without an old head."""
        if len(self.found[0]) == 1:
            return None
        outputs = np.concatenate([parts[1] for parts in self.found])
        return self.task.scores(outputs[rows])


def _for_images(model, x):
    """The backbone on raw pixels of the size of the data, if it takes any."""
    leaves = keras.tree.flatten(x)
    shapes = [tuple(np.shape(leaf)) for leaf in leaves]
    if isinstance(model, str):
        if len(shapes) != 1 or len(shapes[0]) != 4:
            raise ValueError(
                "The models of `keras.applications` take images, of shape "
                "(batch, height, width, channels). "
                f"Received: {model!r}, and inputs of shapes {shapes}"
            )
        return make_backbone(model, input_shape=shapes[0][1:])
    graph = graph_of(model)
    takes = graph.inputs if graph is not None else ()
    of_images = len(takes) == 1 and len(takes[0].shape) == 4
    if not of_images or prepares_inputs(model) or len(shapes[0]) != 4:
        return model
    return make_backbone(model, input_shape=shapes[0][1:])


def read_features(backbones, data, batch_size, verbose):
    """One pass over the data: `(candidates, labels, rows)`.

    All candidates see the same batches. `rows` are the places of different
    examples in an order that hangs on their contents alone, so that shuffled
    data gives the same folds in each run.
    """
    batches, size = open_data(data, batch_size)
    bar = keras.utils.Progbar(size) if verbose else None
    candidates, labels, keys = None, [], []
    for x, y, weight in batches:
        _check(x, y, weight)
        x = keras.tree.map_structure(_as_array, x)
        if candidates is None:
            candidates = [Candidate(*pair, x) for pair in backbones.items()]
            _warn_of_small(candidates)
            full = len(y)
        keys += _digests(x, y)
        labels.append(y)
        with no_word_of_traces():
            for candidate in candidates:
                # Another shape of the last batch would be traced for seconds.
                candidate.read(filled(x, full), len(y))
        if bar is not None:
            bar.update(len(labels), finalize=False)
    if bar is not None and labels:
        bar.update(len(labels), finalize=True)
    if not labels:
        raise ValueError("`data` has no example. Received: an empty data set")
    rows = np.unique(keys, return_index=True)[1]
    return candidates, np.concatenate(labels), rows


@contextlib.contextmanager
def no_word_of_traces():
    """Each backbone is traced, of which TensorFlow warns from the fifth on."""
    logger = logging.getLogger("tensorflow")

    def is_other(record):
        return "retracing" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _check(x, y, weight):
    if y is None or np.ndim(y) == 0:
        raise ValueError(
            "`data` must come in batches with labels: `dataset.batch(32)`. "
            f"Received: labels of shape {np.shape(y)}"
        )
    if weight is not None and np.ptp(weight) > 0:
        raise ValueError(
            "The scores count each example once, and know no sample weights. "
            "Leave them out: (x, y). Received: weights from "
            f"{weight.min()} to {weight.max()}"
        )


def _warn_of_small(candidates):
    small = {c.name: c.small for c in candidates if c.small}
    if small:
        told = [f"{n} {p} of {e}" for n, (p, e) in small.items()]
        warnings.warn(
            "Images are smaller than those that the weights were made for "
            f"(pixels on a side: {', '.join(told)}), which costs accuracy "
            "unless these weights are for smaller ones. Enlarged photos often "
            "do better: `image_size` of `ft.image_folder`.",
            stacklevel=4,
        )


def _digests(x, y):
    """A key of each example, whose order hangs on the inputs first."""
    leaves = [*keras.tree.flatten(x), y]
    return [
        "".join(digest(_plain(leaf[i])) for leaf in leaves)
        for i in range(len(y))
    ]


def _as_array(leaf):
    if keras.ops.is_tensor(leaf) and "string" not in str(leaf.dtype):
        return keras.ops.convert_to_numpy(leaf)
    return leaf.numpy() if hasattr(leaf, "numpy") else np.asarray(leaf)


def _plain(row):
    """A row of numbers as it is, of texts as one text."""
    if np.asarray(row).dtype.kind not in "OSU":
        return row
    return "\0".join(map(as_text, np.ravel(np.asarray(row, object))))
