"""SavedModels, of TF-Hub or of your own, as a layer that can be fine-tuned."""

import functools
import inspect
import os

import keras

from finetune_keras.engine import backend
from finetune_keras.engine.layers import live_in
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.engine.packages import tensorflow_hub
from finetune_keras.engine.private import in_safe_mode


@keras.saving.register_keras_serializable(package="finetune_keras")
class HubLayer(keras.layers.Layer):
    """A TensorFlow SavedModel as a Keras layer.

    It takes reusable SavedModels of TF-Hub, whose object can be called, what
    `keras.Model.export` writes, and anything else with a signature. Variables
    that are trainable there are weights of this layer: they are frozen,
    trained and saved with the model. The SavedModel itself stays where it is:
    a `.keras` file holds its path and the weights, and is loaded where the
    path still leads to it.

    A SavedModel is a program: load only those that you trust. A `.keras` file
    could name any, so that Keras's safe mode, which is the default of
    `load_model`, refuses this layer before anything is read or fetched. Load
    files of your own by `keras.models.load_model(path, safe_mode=False)` or
    `ft.load_bundle(path, safe_mode=False)`.

    TensorFlow backend only. Under mixed precision the layer stays in float32.

    Args:
        handle: String, path of the folder with `saved_model.pb`; or a handle
            of TF-Hub, which the package tensorflow_hub then resolves.
        signature: String, name of the signature to call. Defaults to `None`,
            the object itself, its `serve`, or else `"serving_default"`.
        output_key: String, or integer where outputs have places and no names:
            which of several outputs to return. Defaults to `None`, all of
            them.
        per_example: Boolean, whether the SavedModel takes one example without
            an axis for the batch, as YAMNet takes one waveform. It is then
            called for one after the other. Defaults to `False`.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If there is no SavedModel, or it lacks the signature.
        ImportError: If a handle needs tensorflow_hub and it is not installed.

    Example:

    ```python
    import keras, finetune_keras as ft

    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    inner.export("saved", format="tf_saved_model", verbose=False)
    inputs = keras.Input((4,))
    layer = ft.HubLayer("saved")
    model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
    print(len(layer.trainable_variables))  # 2
    ```
    """

    def __init__(
        self,
        handle,
        signature=None,
        output_key=None,
        per_example=False,
        **kwargs,
    ):
        if not backend.on("tensorflow"):
            raise ValueError(
                "A SavedModel runs on TensorFlow only. Set KERAS_BACKEND="
                "tensorflow before Keras is imported. Received: "
                f"backend={backend.name()!r}"
            )
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.handle = os.fspath(handle)
        self.signature = signature
        self.output_key = output_key
        self.per_example = per_example
        self._load(_resolve(self.handle))
        self.built = True

    def _load(self, folder):
        with tf.init_scope():
            # Held by a tuple, where Keras does not look for parts to track.
            self._loaded = (tf.saved_model.load(folder),)
        self._function = (self._pick_function(folder),)
        names = set()
        for i, variable in enumerate(self._variables()):
            name = variable.name.split(":")[0].replace("/", "_")
            name = f"{name}_{i}" if name in names else name
            names.add(name)
            self._adopt(variable, name)

    def _variables(self):
        """Lists the variables of the SavedModel, each once."""
        found = getattr(self._loaded[0], "variables", None)
        if found is None:
            function = self._function[0]
            if function is self._loaded[0]:
                function = function.__call__
            functions = getattr(function, "concrete_functions", [function])
            found = [v for one in functions for v in one.variables]
        return list({id(variable): variable for variable in found}.values())

    def _adopt(self, variable, name):
        """Makes a weight of this layer that lives in the variable."""
        weight = self.add_weight(
            variable.shape,
            "zeros",
            variable.dtype.name,
            trainable=variable.trainable,
            name=name,
        )
        live_in(weight, variable)

    def _pick_function(self, folder):
        loaded = self._loaded[0]
        signatures = getattr(loaded, "signatures", {})
        if self.signature is None:
            for function in (loaded, getattr(loaded, "serve", None)):
                if callable(function):
                    return function
        name = self.signature or "serving_default"
        if name not in signatures:
            raise ValueError(
                f"The SavedModel has no signature {name!r}, but "
                f"{sorted(signatures)}. Received: handle={folder!r}"
            )
        return signatures[name]

    def call(self, inputs, training=False):
        if not self.per_example:
            return self._run(inputs, training)
        run = functools.partial(self._run, training=training)
        one = tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape[1:], x.dtype), inputs
        )
        found = tf.function(run).get_concrete_function(one)
        outputs = tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype), found.structured_outputs
        )
        return tf.map_fn(run, inputs, fn_output_signature=outputs)

    def _run(self, inputs, training):
        function = self._function[0]
        if self._takes_training():
            # Frozen, its batch norms and dropouts are those of inference.
            training = bool(training) and self.trainable
            outputs = function(inputs, training=training)
        elif isinstance(inputs, dict) and self._is_signature():
            outputs = function(**inputs)
        else:
            outputs = function(inputs)
        if self.output_key is None:
            return outputs
        several = isinstance(outputs, (list, tuple))
        keys = list(range(len(outputs)) if several else outputs)
        if self.output_key not in keys:
            raise ValueError(
                f"The SavedModel gives the outputs {sorted(keys)}. "
                f"Received: output_key={self.output_key!r}"
            )
        return outputs[self.output_key]

    def _is_signature(self):
        signatures = getattr(self._loaded[0], "signatures", {})
        return any(self._function[0] is f for f in signatures.values())

    def _takes_training(self):
        function = self._function[0]
        if function is self._loaded[0]:
            function = function.__call__
        specification = getattr(function, "function_spec", None)
        if specification is None:
            specification = getattr(function, "_function_spec", None)
        names = getattr(specification, "arg_names", None)
        if names is None:
            try:
                names = inspect.signature(function).parameters
            except (TypeError, ValueError):
                names = ()
        return "training" in names

    def get_config(self):
        config = super().get_config()
        del config["dtype"]
        return {
            **config,
            "handle": self.handle,
            "signature": self.signature,
            "output_key": self.output_key,
            "per_example": self.per_example,
        }

    @classmethod
    def from_config(cls, config):
        if in_safe_mode():
            raise ValueError(
                "The file holds a `HubLayer`: loading it would read or fetch a "
                "SavedModel that the file names, and run it. If you trust the "
                "file and that SavedModel, load it by "
                "`keras.models.load_model(path, safe_mode=False)` or "
                "`ft.load_bundle(path, safe_mode=False)`. "
                f"Received: handle={config.get('handle')!r}"
            )
        return super().from_config(config)


def _resolve(handle):
    """The folder of a SavedModel."""
    folder = os.path.expanduser(handle)
    if os.path.isdir(folder):
        files = os.listdir(folder)
        if not {"saved_model.pb", "saved_model.pbtxt"} & set(files):
            raise ValueError(
                "The folder holds no SavedModel: it has no saved_model.pb. "
                f"Received: handle={handle!r} with {sorted(files)[:10]}"
            )
        return folder
    if "://" not in handle:
        raise ValueError(
            "There is no such folder. Put the SavedModel (saved_model.pb and "
            "the folder `variables`) there, or pass the path of one. "
            f"Received: handle={handle!r}, seen from {os.getcwd()}"
        )
    resolve = tensorflow_hub.resolve
    try:
        return resolve(handle)
    except Exception as error:  # of the network, of the disk, of an archive
        raise ValueError(
            "The SavedModel could not be fetched: is there a network? Fetch it "
            "where there is one (`tensorflow_hub.resolve(handle)` gives its "
            "folder), copy the folder here and pass its path. Received: "
            f"handle={handle!r}; {type(error).__name__}: {str(error)[:300]}"
        ) from error
