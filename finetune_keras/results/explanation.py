"""Why this prediction: what in a photo or a text speaks for a class."""

import keras
import numpy as np

from finetune_keras.arguments import nearest
from finetune_keras.data.figure import to_png
from finetune_keras.data.labels import as_text
from finetune_keras.data.layout import Pictures, Shown
from finetune_keras.data.outputs import activation_of, as_columns
from finetune_keras.data.task import Task
from finetune_keras.results.attribution import Attribution
from finetune_keras.results.bundle import Bundle
from finetune_keras.results.bundle_facts import told_task
from finetune_keras.results.explained_inputs import Texts, seen_by
from finetune_keras.results.explanation_figure import draw

_BATCH = 32


def explain(model, x, class_name=None):
    """Shows what in photos or texts speaks for a prediction.

    For photos it is Grad-CAM: the last maps of features that the head reads,
    times the gradient at each place, laid over the photo. Behind average
    pooling that is Grad-CAM as published; behind a flatten or max pooling,
    where Grad-CAM points at places that the head does not look at, it is
    HiResCAM. All maps of a head that reads several depths, and of all members
    of an ensemble, are added up. Where no map lies over the photo, as in a
    transformer of patches, a subclassed model, behind several views or a crop,
    they are integrated gradients: each pixel, less the mean color of the
    photo, times the gradient on the way from there, summed over patches of a
    20th of each side. So are they for texts: the embedding of each token, less
    that of the mask (or zero), times the gradient on the way from there.

    The gradient is that of the log-odds of the class against all others: that
    of the logit of a sigmoid, and in the direction of that of the probability.
    Nothing random is on, and the model stays as it is.

    Args:
        model: A `keras.Model` on photos, or one that takes texts, such as
            `text_classifier`, with one prediction an example; or a `Bundle`.
        x: One example or a batch of them, a few: what `model.predict` takes,
            or for a `Bundle` what its `predict` takes, such as paths.
        class_name: String, the class (label, value) to explain, or a list of
            them, one an example. A model without names has numbers, `"0"`.
            Defaults to `None`: the one of the highest probability.

    Returns:
        An `Explanation`.

    Raises:
        ValueError: If the class is unknown, or the model is none that can be
            explained so: of a table, quantised, not built, or of texts without
            embedded tokens.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    backbone = ft.backbone("MobileNet", input_shape=(64, 64, 3), weights=None,
                           alpha=0.25)
    model = ft.image_classifier(backbone, ["cat", "dog"])
    photos = np.random.randint(0, 256, size=(2, 64, 64, 3))
    why = ft.explain(model, photos, "dog")
    print(why.importances[0].shape)  # (64, 64)
    why.figure().savefig("why.png")
    ```

    Reference:

    - [Selvaraju et al., 2017](https://arxiv.org/abs/1610.02391), Grad-CAM
    - [Draelos and Carin, 2020](https://arxiv.org/abs/2011.08891), HiResCAM
    - [Sundararajan et al., 2017](https://arxiv.org/abs/1703.01365),
      integrated gradients
    """
    task, facts = None, isinstance(model, Bundle)
    if facts:
        task, x, model = model.task, model.prepare(x), model.model
    seen = seen_by(model, x)
    task = task or _told(seen)
    names = _asked(class_name, task, len(seen.shown))
    return explained(seen, task, names)


def _told(seen):
    """The task of a model; without a graph its outputs tell of logits."""
    task = Task.of(seen.model)
    unclear = task is not None and task.logits is None
    if not unclear or activation_of(seen.model) is not None:
        return told_task(seen.model)
    outputs = as_columns(seen.model.predict_on_batch(seen.x))
    task.logits = not task.are_scores(outputs)
    return task


def explained(seen, task, names=None):
    """The `Explanation` of what is seen; `names` has one an example."""
    attribution, rows = Attribution(seen.model, task, seen.taps), []
    # Through the whole of a large transformer few photos fit in memory.
    size = _BATCH if seen.taps else _BATCH // 4
    for start in range(0, len(seen.shown), size):
        part = slice(start, start + size)
        rows += _explained(attribution, seen, part, names and names[part])
    return Explanation(seen, task, rows)


def _explained(attribution, seen, part, names):
    """Lists `(importances, class, probability)` of a part of the examples."""
    x = keras.tree.map_structure(lambda array: array[part], seen.x)
    scores = attribution.scores(x)
    known = attribution.task.names()
    columns = scores.argmax(axis=1)
    if names is not None:
        columns = np.array([known.index(name) for name in names])
    found = seen.measure(attribution, x, columns, part)
    return [
        (one, known[column], float(row[column]))
        for one, column, row in zip(found, columns, scores, strict=True)
    ]


class Explanation(Shown):
    """What speaks for predictions. Made by `explain`; a sequence of examples.

    Attributes:
        importances: List of arrays, one an example. Of a photo `(height,
            width)`, at least 0: what each pixel adds to the log-odds of the
            class (to the value, of a regression). Of a text one number a
            token, what it adds where all were masked before; those below 0
            speak against the class.
        tokens: List of lists of strings, the tokens of each text, those that
            the tokeniser adds included; `None` of photos.
        inputs: List of what the model was given: arrays, or lists of tokens.
        classes: List of strings, the class explained of each example.
        probabilities: List of floats, that of this class (or the value).

    Example:

    ```python
    import keras_hub
    import finetune_keras as ft

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16,
    )
    tokenizer = keras_hub.tokenizers.BertTokenizer(words)
    backbone = ft.text_backbone(bert, tokenizer, sequence_length=16)
    model = ft.text_classifier(backbone, ["neg", "pos"])
    why = ft.explain(model, "good bad good", "pos")
    for token, importance in zip(why.tokens[0], why.importances[0]):
        print(token, importance)
    ```
    """

    def __init__(self, seen, task, rows):
        self.inputs = seen.shown
        self.tokens = seen.shown if isinstance(seen, Texts) else None
        self.task = task
        columns = zip(*rows, strict=True)
        self.importances, self.classes, self.probabilities = map(list, columns)

    def __len__(self):
        return len(self.inputs)

    def __repr__(self):
        kind = "photos" if self.tokens is None else "texts"
        return f"<Explanation of {len(self)} {kind}, classes {self.classes}>"

    __str__ = __repr__

    def _layout(self):
        return [Pictures(repr(self)[1:-1], self._drawn)]

    def _drawn(self):
        caption = "Red speaks for the class"
        if self.tokens is not None:
            caption += ", blue against it"
        return [(to_png(self.figure()), f"{caption}.")]

    def figure(self):
        """Draws photos under their heat maps, or texts with coloured tokens.

        Red speaks for the class; in texts blue speaks against it. Each example
        has a scale of its own.

        Returns:
            A `matplotlib.figure.Figure`; a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return draw(self)


def _asked(class_name, task, count):
    """The classes that are asked for, one an example, or `None`."""
    known = task.names()
    if class_name is None:
        if not task.has_chances and len(known) > 1:
            raise ValueError(
                f"The model predicts {len(known)} values: say by `class_name` "
                f"which of {known} to explain. Received: class_name=None"
            )
        return None
    several = isinstance(class_name, (list, tuple, np.ndarray))
    names = [as_text(x) for x in (class_name if several else [class_name])]
    names = names if several else names * count
    if len(names) != count:
        raise ValueError(
            "`class_name` must be one name, or one for each example. Received: "
            f"{len(names)} names for {count} examples"
        )
    for name in names:
        if name not in known:
            raise ValueError(
                f"`class_name` must be one of {known[:20]}."
                f"{nearest(name, known)} Received: class_name={name!r}"
            )
    return names


# === In a report ===


def explain_worst(report, model, most=5):
    """Explains what the worst examples of a report were predicted as.

    Of several labels, or values, it is the one that is furthest off. The model
    must be the one that was judged.
    """
    shape = np.shape(report.worst[0]["input"])
    worst = [x for x in report.worst if np.shape(x["input"]) == shape][:most]
    outcomes, task = report.predictions, report.predictions.task
    rows = [x["index"] for x in worst]
    scores = outcomes.scores[rows]
    if outcomes.y_true.ndim == 1:
        columns = outcomes.y_pred[rows]
    else:
        columns = np.abs(outcomes.y_true[rows] - scores).argmax(axis=1)
    seen = seen_by(model, _batch([x["input"] for x in worst]))
    names = [task.names()[column] for column in columns]
    found = explained(seen, task, names)
    wanted = scores[np.arange(len(rows)), columns]
    if not np.allclose(found.probabilities, wanted, rtol=0.02, atol=0.02):
        raise ValueError(
            "The model predicts something else than the report has. Pass the "
            "model that was judged, as it was, and the report that `evaluate` "
            "returned: one from a file has only previews of its inputs. "
            f"Received: model={model.name!r}, which gives "
            f"{found.probabilities} in place of {wanted.tolist()}"
        )
    return found


def _batch(inputs):
    if isinstance(inputs[0], tuple):
        return tuple(map(list, zip(*inputs, strict=True)))
    return inputs
