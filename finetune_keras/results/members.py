"""Models that predict together: what they must agree in, and one graph."""

import pathlib
import tempfile

import keras
import numpy as np

from finetune_keras.data.outputs import as_columns
from finetune_keras.engine import graph
from finetune_keras.models.heads import rebuild
from finetune_keras.models.model import (
    encoder_of,
    keep_task,
    text_model,
)
from finetune_keras.models.pixel_guard import (
    guard_like,
    guard_pixels,
    guards_pixels,
)
from finetune_keras.results.calibration import (
    compiled_like,
    with_probabilities,
)
from finetune_keras.results.predicted import predict_all
from finetune_keras.training.data_checks import check_batched


class Members:
    """Models of one task on the same inputs, which end in probabilities.

    Attributes:
        task: The `Task` that all of them have.
        inputs: New symbolic inputs, as the first model has them.
        layers: List of models, each a layer with a name of its own, which
            share their layers with the models.
    """

    def __init__(self, models, verb):
        self.models = models
        tasks, plain = zip(*[_plain(x, verb) for x in models], strict=True)
        self.task = _common_task(tasks, models)
        self.encoder = _common_encoder(plain, models)
        self.layers = _layers(plain)
        self.inputs = _new_inputs(plain[0])
        self._resized = [self._fitted(x) for x in self.layers]

    def outputs(self):
        """Lists the symbolic predictions of all members."""
        pairs = zip(self.layers, self._resized, strict=True)
        return [layer(inputs) for layer, inputs in pairs]

    def predictions(self, outputs, validation):
        """`(scores, labels, weights)` of symbolic outputs on data.

        The scores of each output are those that the task judges, in the shape
        (outputs, examples, columns).
        """
        model = self._model(keras.ops.stack(outputs, axis=1), "together")
        check_batched(validation, model, "validation")
        found, labels, weights = predict_all(model, validation, "validation")
        labels = self.task.labels(labels, "validation")
        found = [as_columns(found[:, i]) for i in range(found.shape[1])]
        return found, labels, weights

    def whole(self, outputs, name):
        """The model of symbolic outputs, with all that the members know."""
        new = self._model(outputs, name)
        keep_task(new, self.task)
        guarded = any(map(guards_pixels, self.models))
        new = guard_pixels(new) if guarded else new
        compiled = [x for x in self.models if getattr(x, "compiled", False)]
        return compiled_like(new, compiled[0]) if compiled else new

    def _model(self, outputs, name):
        if self.encoder is None:
            return keras.Model(self.inputs, outputs, name=name)
        return text_model(self.inputs, outputs, self.encoder, name)

    def _fitted(self, layer):
        """The inputs as a member takes them: images in its own size."""
        given, wanted = _specs(self.inputs), _specs(_inputs(layer))
        _check_order(self.inputs, _inputs(layer))
        if given == wanted:
            return self.inputs
        size = _other_size(given, wanted)
        if size is None:
            raise ValueError(
                "The models must take the same inputs: of one structure, shape "
                "and dtype; images alone may differ in size. Received: inputs "
                f"{given} and {wanted}"
            )
        if None in size:
            return self.inputs
        # As photos are read from their files, and as exactly.
        resizing = keras.layers.Resizing(*size, antialias=True, dtype="float32")
        return resizing(self.inputs)


def mean_loss(task, labels, outputs, weights):
    """Log loss of probabilities, or squared error of values."""
    return float(np.average(losses(task, labels, outputs), weights=weights))


def losses(task, labels, outputs):
    """The loss of each example."""
    return task.losses(labels, task.scores(outputs))


def copied(model):
    """A copy of a model that shares nothing with it, without its optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        # It is our own file.
        new = keras.models.load_model(path, compile=False, safe_mode=False)
    return guard_like(model, new)


def _plain(model, verb):
    """`(task, model)`, a new one of the same layers with probabilities."""
    if graph.graph_of(model) is None:
        raise ValueError(
            "Only a functional or sequential model that has been built has a "
            "graph. Give the model an `Input`, or call it on data once. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    plain, task = with_probabilities(model, verb)
    output = plain.outputs[0]
    if len(output.shape) == 1:
        output = keras.layers.Reshape((1,), name="column")(output)
    return task, rebuild(plain, output)


def _common_task(tasks, models):
    first = tasks[0]
    for task, model in zip(tasks, models, strict=True):
        if task != first or task.outputs != first.outputs:
            raise ValueError(
                "The models must have one task, and as many outputs. Received: "
                f"{models[0].name!r} for {first} with {first.outputs} outputs "
                f"and {model.name!r} for {task} with {task.outputs}"
            )
    named = [task for task in tasks if task.classes]
    for task in named:
        if list(task.classes) != list(named[0].classes):
            raise ValueError(
                "The models must have the same classes in the same order. "
                f"Received: {named[0].classes[:5]} and {task.classes[:5]}"
            )
    kind, classes = type(first), named[0].classes if named else None
    return kind(classes, first.outputs, False)


# === Texts ===


def _common_encoder(plain, models):
    encoders = list(map(encoder_of, plain))
    known = _known(encoders[0])
    for encoder, model in zip(encoders, models, strict=True):
        if encoder is not encoders[0] and _known(encoder) != known:
            raise ValueError(
                "Models that take texts must split them alike: by one "
                "tokeniser, to one `sequence_length`. Average what they "
                "predict instead: `a.predict(texts)`, `b.predict(texts)`. "
                f"Received: models={models[0].name!r}, {model.name!r}"
            )
    return encoders[0]


def _known(encoder):
    """All that makes arrays of texts: settings and vocabulary."""
    if encoder is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        encoder.tokenizer.save_assets(folder)
        files = sorted(pathlib.Path(folder).rglob("*"))
        vocabulary = [x.read_bytes() for x in files if x.is_file()]
    config = {**encoder.tokenizer.get_config(), "name": None}
    return type(encoder), encoder.sequence_length, str(config), vocabulary


# === Graph ===


def _layers(plain):
    """Each model as a layer; one that shares layers with another is copied.

    Keras cannot read layers back that stand in two inner models.
    """
    found, seen = [], set()
    for number, model in enumerate(plain, start=1):
        if seen & set(map(id, graph.all_layers(model))):
            model = copied(model)
        seen.update(map(id, graph.all_layers(model)))
        # Without the guard and the encoder, which the whole has.
        parts = _inputs(model), model.outputs[0]
        found.append(type(model)(*parts, name=f"member_{number}"))
    return found


def _inputs(model):
    inputs = graph.graph_of(model).input
    leaves = keras.tree.flatten(inputs)
    return (
        leaves[0] if isinstance(inputs, list) and len(leaves) == 1 else inputs
    )


def _new_inputs(model):
    return keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
        _inputs(model),
    )


def _check_order(inputs, others):
    """Refuses lists of the same names in another order."""
    if not (isinstance(inputs, list) and isinstance(others, list)):
        return
    names = [[x.name for x in part] for part in (inputs, others)]
    if names[0] != names[1] and set(names[0]) == set(names[1]):
        raise ValueError(
            "The models list the same inputs in another order. Make each of "
            "them with a dict of inputs by name. "
            f"Received: inputs {names[0]} and {names[1]}"
        )


def _specs(inputs):
    """What inputs are, in their structure."""
    if isinstance(inputs, keras.KerasTensor):
        return _spec(inputs)
    if isinstance(inputs, dict):
        return {name: _spec(x) for name, x in sorted(inputs.items())}
    return [_spec(x) for x in inputs]


def _spec(tensor):
    return tuple(tensor.shape), tensor.dtype


def _other_size(given, wanted):
    """Height and width, where these are images, and all else is the same."""
    images = [
        isinstance(x, tuple) and len(x[0]) == 4 and x[1] == given[1]
        for x in (given, wanted)
    ]
    if not all(images):
        return None
    first = keras.config.image_data_format() == "channels_first"
    sides = slice(2, 4) if first else slice(1, 3)
    channels = 1 if first else 3
    same = given[0][channels] == wanted[0][channels]
    return wanted[0][sides] if same else None
