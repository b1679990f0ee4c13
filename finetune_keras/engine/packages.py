"""Packages beside Keras, NumPy and the backend, each imported when it is used.

They stand at the head of a file, as modules do:

    from finetune_keras.engine.packages import sklearn

Where one is missing, the first use of it says what to install.
"""

import importlib.util


class Package:
    """A package that is imported when something of it is asked for.

    Args:
        module: String, the name in Python.
        need: String, what it is for, with its verb: the begin of the message.
        pip: String, the name that pip knows. Defaults to `module`.
        extra: String, the extra of this library that brings it. Defaults to
            `None`: the usual installation brings it.
        instead: String, a sentence, what goes without it. Defaults to none.
    """

    def __init__(self, module, need, pip=None, extra=None, instead=""):
        self._module, self._need, self._pip = module, need, pip or module
        self._extra, self._instead = extra, instead

    def __getattr__(self, name):
        # To ask what kind of object this is imports nothing.
        if name.startswith("__"):
            raise AttributeError(name)
        module = self._import(self._module)
        try:
            return getattr(module, name)
        except AttributeError:
            part = f"{self._module}.{name}"
            if importlib.util.find_spec(part) is None:
                raise
            return self._import(part)

    def _import(self, name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ImportError(self._message(error.name)) from error

    def _message(self, missing):
        """What to install, which may be what the package itself lacks."""
        own = not missing or missing.partition(".")[0] == self._module
        pip = self._pip if own else missing
        all_of_it = f"finetune_keras[{self._extra}]"
        extra = f', or `pip install "{all_of_it}"`' if self._extra else ""
        return (
            f"{self._need} the package {pip}, which is not installed. Install "
            f"it with `pip install {pip}`{extra}.{self._instead}"
        )


def require(*packages):
    """Raises where a package is missing, before any work is done.

    Args:
        *packages: `Package`s.

    Raises:
        ImportError: If one is not installed. The message says what to install.
    """
    for package in packages:
        package._import(package._module)


PIL = Package("PIL", "Photos need", pip="pillow")
grpc = Package("grpc", "Searches by several processes need", "grpcio")
keras_hub = Package("keras_hub", "Transformers need", "keras-hub", "text")
keras_tuner = Package("keras_tuner", "Searches need", "keras-tuner")
matplotlib = Package("matplotlib", "Figures need", extra="plots")
onnxruntime = Package("onnxruntime", "To run an ONNX file needs")
pandas = Package("pandas", "Frames need")
safetensors = Package(
    "safetensors",
    "Files of adapters need",
    extra="text",
    instead=" `model.save` keeps the whole model without it.",
)
scipy = Package(
    "scipy", "Solved heads, calibration, sounds, intervals and a D-FINE need"
)
sklearn = Package("sklearn", "Splits and many metrics need", "scikit-learn")
soundfile = Package(
    "soundfile",
    "FLAC and OGG files need",
    extra="audio",
    instead=" WAV files are read without it.",
)
# What scikit-learn brings along.
threadpoolctl = Package("threadpoolctl", "Single threads need")
tensorflow = Package(
    "tensorflow",
    "Data from files and by `tf.data`, raw texts and `tf.distribute` need",
    instead=" `fine_tune` takes arrays, as `(x, y)`, without it.",
)
tensorflow_datasets = Package(
    "tensorflow_datasets", "Data sets by name need", "tensorflow-datasets"
)
tensorflow_hub = Package(
    "tensorflow_hub",
    "Handles of models need",
    "tensorflow-hub",
    "hub",
    " Or download and unpack the model, and pass the path of its folder.",
)
yaml = Package("yaml", "Plans as YAML need", "pyyaml")
