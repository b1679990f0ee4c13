"""The model class of ours: ordinary models whose file keeps all of them."""

import functools
import warnings

import keras

from finetune_keras.data.outputs import is_detector
from finetune_keras.data.task import Task
from finetune_keras.engine import graph
from finetune_keras.models import texts
from finetune_keras.models.adapters_by_path import (
    adapters_by_name,
    check_compiled,
    describe_adapters,
    place_described,
    without_inner_adapters,
)
from finetune_keras.models.text_encoder import is_raw
from finetune_keras.models.trainable_set import (
    FLAGS,
    built_by_call,
    describe_flags,
    flags_that_keras_loses,
    quantize_again,
    quantized_layers,
    set_flags,
)


class _KeepsAll:
    """What a functional and a sequential model of ours have in common."""

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        check_compiled(self)
        return super().fit(*args, **kwargs)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args, **kwargs):
        check_compiled(self)
        return super().train_on_batch(*args, **kwargs)

    def get_config(self):
        config = built_by_call(self, super().get_config())
        adapters = describe_adapters(self)
        if adapters:
            config["adapters"] = adapters
        if "task" in vars(self):
            config["task"] = self.task.get_config()
        return {**without_inner_adapters(config), **describe_flags(self)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        flags = {name: config.pop(name, ()) for name in FLAGS}
        adapters, task = config.pop("adapters", {}), config.pop("task", None)
        model = super().from_config(config, custom_objects=custom_objects)
        quantize_again(model, flags)
        place_described(model, adapters, flags["leaf_layers"], custom_objects)
        set_flags(model, flags)
        if task is not None:
            model.task = Task.from_config(task)
        return model


class _OfEncoder:
    """What the encoder says, unless a person sets it on the model."""

    def __init__(self, name):
        self.name = name

    def __get__(self, model, kind):
        return getattr(encoder_of(model), self.name, None)


@keras.saving.register_keras_serializable(package="finetune_keras")
# What files of before call it.
@keras.saving.register_keras_serializable("finetune_keras", "AdapterModel")
@keras.saving.register_keras_serializable("finetune_keras", "AdapterTextModel")
@keras.saving.register_keras_serializable("finetune_keras", "TextModel")
class FineTuneModel(_KeepsAll, graph.Functional):
    """A functional model whose `.keras` file keeps all that is done to it.

    Keras saves the flag of a layer, but not those of the layers inside a
    composite one such as `MultiHeadAttention`: they all come back trainable,
    and those in int8 cannot be loaded; it knows of no adapters and of no
    tokeniser. The file of this class keeps them, by path. `freeze` and
    `add_adapters` turn a functional model into it where that is needed;
    `merge_adapters` and `remove_adapters` turn it back where nothing is left
    to keep.

    With an encoder, as `text_backbone`, `text_classifier` and their like give
    it, the inputs are arrays of token ids, so that it can be cut, exported and
    combined like any functional model, and `fit`, `evaluate` and `predict`
    take raw texts: they tokenise them once, sort them into few lengths, and
    pad each batch to its own length only.

    Attributes:
        encoder: The `TextEncoder`, tokeniser and packing, or `None`.
        task: The `Task` that it was made for, or `None` where its head tells.
        class_names: List of strings, or `None`.

    Example:

    ```python
    import keras, finetune_keras as ft

    inputs = keras.Input((4, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    ft.freeze(model, "attention")
    model.save("model.keras")
    print(len(keras.models.load_model("model.keras").trainable_variables))  # 2
    ```
    """

    encoder = None
    task = _OfEncoder("task")
    class_names = _OfEncoder("classes")

    # === Texts ===

    def tokenize(self, data, batch_size=None, training=False):
        """Tokenises a data set of raw texts, once for all epochs.

        Args:
            data: Tuple `(x, y)` or `(x, y, sample_weight)` of texts and
                labels, a `tf.data.Dataset` of batches of them, or `Buckets`.
                Anything else is returned as it is.
            batch_size: Integer. Defaults to that of the dataset, or `32`.
            training: Boolean, whether texts that are augmented, and words that
                are masked, are drawn anew in each epoch. Defaults to `False`.

        Returns:
            `Buckets`.
        """
        return texts.tokenize(self, data, batch_size, training)

    def arrays(self, x):
        """Tokenises texts into what the functional model takes.

        Args:
            x: Texts, as for `predict`.

        Returns:
            Dict of integer arrays, padded to the longest.
        """
        return texts.arrays(self, x)

    # === Keras ===

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        if self.encoder is not None:
            args, kwargs = (), texts.fit_arguments(self, *args, **kwargs)
        return super().fit(*args, **kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args, **kwargs):
        if self.encoder is not None:
            args, kwargs = (), texts.evaluate_arguments(self, *args, **kwargs)
        return super().evaluate(*args, **kwargs)

    @functools.wraps(keras.Model.predict)
    def predict(self, x, *args, **kwargs):
        if self.encoder is None:
            return super().predict(x, *args, **kwargs)
        return texts.predict(self, super().predict, x, *args, **kwargs)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x):
        if self.encoder is not None and is_raw(x):
            return self.predict(x, verbose=0)
        return super().predict_on_batch(x)

    def save_assets(self, folder):
        """Writes the vocabulary; called by `save`."""
        if self.encoder is not None:
            self.encoder.tokenizer.save_assets(folder)

    def load_assets(self, folder):
        """Reads the vocabulary; called by `load_model`."""
        if self.encoder is not None:
            self.encoder.tokenizer.load_assets(folder)

    def get_config(self):
        config = super().get_config()
        if self.encoder is not None:
            encoder = keras.saving.serialize_keras_object(self.encoder)
            config["encoder"] = encoder
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        encoder = config.pop("encoder", None)
        model = super().from_config(config, custom_objects=custom_objects)
        if encoder is not None:
            model.encoder = keras.saving.deserialize_keras_object(encoder)
        return model


@keras.saving.register_keras_serializable(package="finetune_keras")
@keras.saving.register_keras_serializable("finetune_keras", "AdapterSequential")
class FineTuneSequential(_KeepsAll, keras.Sequential):
    """A `keras.Sequential` whose file keeps what `FineTuneModel` keeps."""


def text_model(inputs, outputs, encoder, name):
    """A functional model on token ids that takes raw texts."""
    model = FineTuneModel(inputs, outputs, name=name)
    model.encoder = encoder
    return model


def encoder_of(model):
    """The `TextEncoder` of a model that takes raw texts, else `None`."""
    return model.encoder if isinstance(model, FineTuneModel) else None


# === Classes ===

_KINDS = {graph.Functional: FineTuneModel, keras.Sequential: FineTuneSequential}


def _keeps_all(model):
    """Turns a model of Keras's own classes into ours; tells if it is ours."""
    if type(model) in _KINDS:
        graph.change_class(model, _KINDS[type(model)])
    return isinstance(model, _KeepsAll)


def give_class_back(model):
    """Gives a model the class of Keras again if that is enough for its file."""
    plain = {kind: own for own, kind in _KINDS.items()}
    more = encoder_of(model) is not None or adapters_by_name(model)
    more = more or "task" in vars(model) or flags_that_keras_loses(model)
    more = more or quantized_layers(model)
    if type(model) in plain and not more:
        graph.change_class(model, plain[type(model)])


def keep_trainable_set(model, stacklevel=4):
    """Makes sure that the flags of a model survive its `.keras` file.

    Warns where they do not; `stacklevel` leads to the line of the user.
    """
    if isinstance(model, _KeepsAll):
        return
    lost = flags_that_keras_loses(model)
    if not (lost or quantized_layers(model)) or _keeps_all(model) or not lost:
        return
    cure = "freeze them again after loading"
    if graph.graph_of(model) is model and not is_detector(model):
        # Opened, it keeps what it does before its graph.
        nested = any(map(graph.graph_of, model.layers))
        plain = "keras.Model(model.inputs, model.outputs)"
        cure += (
            ", or train the functional model "
            f"`{'ft.inline_models(model)' if nested else plain}`, whose file "
            "keeps it"
        )
    warnings.warn(
        f"The file of {type(model).__name__} does not keep the frozen state of "
        f"layers such as {lost[0]!r}: loaded, they train. So {cure}.",
        stacklevel=stacklevel,
    )


def keep_task(model, task):
    """Makes sure that the file of a model keeps its task and classes."""
    if task is not None and _keeps_all(model):
        model.task = task


def keep_adapters(model):
    """Makes sure that the adapters of a model survive its `.keras` file."""
    if not _keeps_all(model):
        warnings.warn(
            f"{type(model).__name__} does not write adapters into its `.keras` "
            "file: keep them with `save_adapters`, or add them to a functional "
            "model, such as `ft.replace_head` or `ft.inline_models` makes.",
            stacklevel=4,
        )
