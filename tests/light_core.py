"""The core, where nothing is installed but Keras, NumPy and one backend.

`light_test.py` runs it in a process of its own, with a folder for its files.
"""

import importlib.machinery
import pathlib
import sys

import keras
import numpy as np

BACKEND = keras.backend.backend()
HIDDEN = {
    *("tensorflow", "tensorflow_datasets", "tensorflow_hub", "tensorboard"),
    *("tensorflow_text", "keras_tuner", "keras_hub", "sklearn", "joblib"),
    *("threadpoolctl", "scipy", "matplotlib", "PIL", "yaml", "pandas", "grpc"),
    *("safetensors", "tokenizers", "onnxruntime", "jax", "torch"),
} - {BACKEND}
if BACKEND == "jax":
    # It comes with JAX.
    HIDDEN.remove("scipy")


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in HIDDEN:
            return super().find_spec(name, path, target)


def hide():
    """Whatever has been imported before, it is not there any more."""
    place = sys.meta_path.index(importlib.machinery.PathFinder)
    sys.meta_path[place] = Finder
    for name in list(sys.modules):
        if name.partition(".")[0] in HIDDEN:
            del sys.modules[name]


def small_model():
    inputs = x = keras.Input((4,))
    for number in (1, 2):
        x = keras.layers.Dense(4, activation="relu", name=f"body{number}")(x)
    return keras.Model(inputs, x, name="backbone")


def kept(model, folder, x):
    """The model as its file has it, with the same outputs."""
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(model, x), 1e-5)
    return loaded


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x))


def main(folder):
    import finetune_keras as ft

    y = np.arange(8) % 2
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    train, validation = (x, y), (x[::-1], y[::-1])

    model = ft.replace_head(small_model(), num_classes=2)
    assert [group.name for group in ft.layer_groups(model)][-1] == "head"
    ft.freeze(model, "backbone")
    assert len(model.trainable_variables) == 2
    plan = ft.plans.linear_probe_then_full(1, 1)
    history = ft.fine_tune(
        model, plan, train, validation, cache="memory", verbose=0
    )
    print("cache", history.phases[0]["cache"], sep="\t")
    print("head", history.phases[0]["head_initializer"], sep="\t")
    model = kept(model, folder, x)

    ft.add_adapters(model, ft.LoRA(rank=2))
    before = {id(v): v.numpy() for v in model.variables}
    plan = ft.plans.adapters(epochs=2)
    ft.fine_tune(model, plan, train, batch_size=4, cache="off", verbose=0)
    moved = {v.path for v in model.variables if (before[id(v)] != v).any()}
    assert moved == {v.path for v in model.trainable_variables}, moved
    ft.merge_adapters(kept(model, folder, x))
    ft.save_bundle(model, folder / "bundle.keras")
    assert len(ft.load_bundle(folder / "bundle.keras").predict(x).labels) == 8

    (folder / "photos" / "ants").mkdir(parents=True)
    (folder / "photos" / "ants" / "1.jpg").write_bytes(b"a photo")
    wanted = {
        "keras-hub": lambda: ft.text_backbone("bert_tiny_en_uncased"),
        "keras-tuner": lambda: ft.tune,
        "matplotlib": history.plot,
        "pillow": lambda: ft.image_folder(folder / "photos", image_size=8),
        "pyyaml": lambda: plan.save(folder / "plan.yaml"),
        "safetensors": lambda: ft.save_adapters(model, folder / "adapters"),
        "scikit-learn": lambda: ft.from_arrays(x, y),
        "tensorflow-datasets": lambda: ft.from_tfds("mnist", image_size=8),
    }
    for name, ask in wanted.items():
        try:
            ask()
        except ImportError as error:
            print(name, error, sep="\t")


if __name__ == "__main__":
    hide()
    if BACKEND == "tensorflow":
        import tensorflow

        tensorflow.config.run_functions_eagerly(True)
    main(pathlib.Path(sys.argv[1]))
    assert HIDDEN.isdisjoint(name.partition(".")[0] for name in sys.modules)
