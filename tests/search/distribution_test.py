"""`distribution`, and plans under the strategies that it picks.

Devices and workers must be set before a backend starts, so the runs are made
by this file as a script, in processes of their own.
"""

import json
import os
import pathlib
import signal
import socket
import sys

import keras
import numpy as np
import pytest

from finetune_keras.engine.multi_worker import mend_fit
from finetune_keras.search import distribution as module
from finetune_keras.search.distribution import distribution
from finetune_keras.testing.processes import FreshProcess

ROOT = pathlib.Path(__file__).parents[2]
RUNS = ("auto", "off")
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute"
)


# === What is picked, and what is refused ===


@tensorflow_only
def test_one_device_is_picked_where_there_is_nothing_else(capsys):
    picked = distribution()
    assert "one device" in capsys.readouterr().out
    with picked as entered, picked:
        assert entered is picked.strategy
    assert picked.replicas == 1
    assert distribution("one_device", ["CPU:0"], verbose=0).replicas == 1
    assert capsys.readouterr().out == ""


@tensorflow_only
@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        (("parameter_server",), None, "is refused: Keras 3 does not support"),
        (("auto",), {"cluster": {"ps": ["a:1"]}}, "is refused"),
        (("miror",), None, "`kind` must be one of"),
        (("tpu",), None, "There is no TPU here"),
        (("mirrored",), None, "there is no GPU"),
        (("one_device", ["CPU:0", "CPU:1"]), None, "One device is asked"),
        (("multi_worker",), None, "named by the environment variable"),
        (("auto",), [1], "must be a JSON object"),
        (("auto",), {"cluster": {"worker": ["a:1", "b:1"]}}, "which worker"),
        (("auto",), {"cluster": []}, "a JSON object like"),
        (("auto",), {"cluster": {"worker": None}}, "a JSON object like"),
        (("auto",), {"cluster": {"worker": "a:1"}}, "a JSON object like"),
        (("auto", ["GPU:7", "GPU:8"]), None, "which has .'CPU:0'"),
        (("auto", ["CPU:9"]), None, "of different devices"),
        (("auto", ["CPU:0", "CPU:0"]), None, "of different devices"),
        (("auto", "CPU:0"), None, "must be a list"),
        (("auto", []), None, "must be a list"),
    ],
)
def test_refused(arguments, config, message, monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_gpus", lambda: [])
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match=message):
        distribution(*arguments)


@tensorflow_only
def test_refused_within_another():
    outer = distribution("one_device", ["CPU:0"], verbose=0)
    with outer, pytest.raises(ValueError, match="within another strategy"):
        distribution()


@tensorflow_only
def test_the_mend_is_put_on_once(monkeypatch):
    functions = _keras_functions()
    for name, (owner, function) in functions.items():
        monkeypatch.setattr(owner, name, function)  # to be undone
    assert mend_fit() == list(functions)
    assert mend_fit() == []
    assert np.isfinite(_run(_model())).all()


@pytest.mark.backends
def test_other_backends_are_told_what_to_use():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("it has tf.distribute")
    with pytest.raises(ValueError, match="keras.distribution.DataParallel"):
        distribution()


# === Runs in processes of their own ===


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Weights of one device and of two replicas, made in one process."""
    folder = tmp_path_factory.mktemp("one")
    _wait([_start("single", folder)])
    return dict(np.load(folder / "single0.npz"))


def _assert_equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@tensorflow_only
def test_two_replicas_equal_one_device(one_device):
    for name in RUNS:
        moved = np.abs(one_device[name] - one_device["start"])
        assert moved.max() > 1e-2
    _assert_equal(one_device["mirrored"], one_device["auto"])
    _assert_equal(*one_device["accuracies"])


@tensorflow_only
def test_adapters_train_alike_on_two_replicas(one_device):
    found = one_device["mirrored adapted"]
    _assert_equal(found, one_device["adapted"])
    assert len(found) > len(one_device["start"])


@tensorflow_only
def test_synchronized_norms_see_the_whole_batch(one_device):
    apart = {
        policy: np.abs(
            one_device[f"mirrored norms {policy}"] - one_device["norms"]
        ).max()
        for policy in ("train", "synchronized")
    }
    assert apart["train"] > 1e-2
    assert apart["synchronized"] < 1e-3


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Results of two workers that went on after one had been killed."""
    folder = tmp_path_factory.mktemp("two")
    chief, other = _start_two("killed", folder)
    try:
        assert other.wait(60) == -signal.SIGKILL
    finally:
        _end([chief, other])
    # The folder that the other worker was given is not even made.
    assert (folder / "folder0" / "state.npz").exists()
    assert not (folder / "folder1").exists()
    _wait(_start_two("restarted", folder))
    return [dict(np.load(folder / f"restarted{i}.npz")) for i in (0, 1)]


@tensorflow_only
def test_a_killed_worker_loses_nothing(one_device, two_workers):
    for found in two_workers:
        _assert_equal(found["resumed"], one_device["auto"])
        assert found["epochs"].tolist() == [2]


@tensorflow_only
def test_two_workers_equal_one_device(one_device, two_workers):
    for found in two_workers:
        _assert_equal(found["whole"], one_device["off"])


@tensorflow_only
def test_the_fit_of_keras_still_needs_the_mend(two_workers):
    """Once it fails, `multi_worker.py` can go."""
    assert [bool(found["fails"]) for found in two_workers] == [True, True]


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="keras.distribution"
)
def test_data_parallel_of_jax_equals_one_device(tmp_path):
    _wait([_start("jax_one", tmp_path)])
    _wait(_start_two("jax_two", tmp_path))
    one = dict(np.load(tmp_path / "jax_one0.npz"))
    assert np.abs(one["weights"] - one["start"]).max() > 1e-2
    _assert_equal(one["two devices"], one["weights"])
    _assert_equal(one["split"], one["weights"])
    for index in (0, 1):
        found = dict(np.load(tmp_path / f"jax_two{index}.npz"))
        _assert_equal(found["weights"], one["weights"])
    assert not (tmp_path / "folder1").exists()


def _start(job, folder, index=0, ports=()):
    addresses = [f"localhost:{port}" for port in ports]
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
        "WORKERS": ",".join(addresses),
    }
    environment.pop("TF_CONFIG", None)
    if addresses and keras.backend.backend() == "tensorflow":
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment["TF_CONFIG"] = json.dumps(config)
    return FreshProcess(__file__, job, folder, index, env=environment)


def _start_two(job, folder):
    ports = _free_ports(2)
    return [_start(job, folder, i, ports) for i in (0, 1)]


def _wait(processes):
    try:
        assert not any([process.wait(300) for process in processes])
    finally:
        _end(processes)


def _end(processes):
    for process in processes:
        process.kill()


def _free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


# === The script ===


def _model():
    keras.utils.set_random_seed(5)
    inputs = outputs = keras.Input((4,))
    for layer in ("stem", "low", "mid"):
        outputs = keras.layers.Dense(5, "tanh", name=layer)(outputs)
    outputs = keras.layers.Dense(3, "softmax", name="head")(outputs)
    return keras.Model(inputs, outputs)


def _data():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 4)).astype("float32")
    y = np.argmax(x[:, :3] + 0.3 * x[:, 1:], axis=1)
    return (x[:24], y[:24]), (x[24:], y[24:])


def _plan():
    import finetune_keras as ft

    return ft.Plan(
        [
            ft.Phase("head", learning_rate=1e-2),
            ft.Phase(2, epochs=2, learning_rate=5e-3, layerwise_lr_decay=0.5),
        ]
    )


def _run(model, own=None, **fit):
    """Trains, compiled by `fine_tune`; returns the weights."""
    import finetune_keras as ft

    train, validation = _data()
    if own is not None:
        train = tuple(_own(array, own) for array in train)
        validation = tuple(_own(array, own) for array in validation)
    fit = {"batch_size": 8, "verbose": 0, **fit}
    history = ft.fine_tune(model, _plan(), train, validation, **fit)
    assert len(history.epochs) == 3
    return _flat(model.get_weights())


def _own(array, index):
    """The part of each batch of 8 that is for one of two processes."""
    parts = array.reshape(-1, 2, 4, *array.shape[1:])[:, index]
    return parts.reshape(-1, *array.shape[1:])


def _flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


class _Watch(keras.callbacks.Callback):
    """Counts epochs; kills the process amid one, if it is told to."""

    # Those of this process: what an instance remembers outlasts a kill.
    epochs = []

    def __init__(self, killed):
        super().__init__()
        self.killed = killed

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if self.killed and self.epochs[-1] == 2 and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def _single(folder, index):
    import tensorflow as tf

    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, devices)
    mirrored = distribution(devices=["CPU:0", "CPU:1"])
    results = {"start": _flat(_model().get_weights())}
    for name in RUNS:
        options = {"cache": name}
        if name == "auto":
            options["checkpoint_dir"] = os.path.join(folder, "one")
        results[name] = _run(_model(), **options)
    options = {"checkpoint_dir": os.path.join(folder, "mirrored")}
    with mirrored:
        model = _model()
    results["mirrored"] = _run(model, **options)
    results["accuracies"] = _accuracies(model)
    results["adapted"] = _train_adapters(_model())
    with mirrored:
        model = _model()
    results["mirrored adapted"] = _train_adapters(model)
    results["norms"] = _train_norm("train")
    for policy in ("train", "synchronized"):
        with mirrored:
            results[f"mirrored norms {policy}"] = _train_norm(policy)
    return results


def _train_adapters(model):
    """Trains LoRA, put in outside of any scope; returns its weights."""
    import finetune_keras as ft

    keras.utils.set_random_seed(6)
    ft.add_adapters(model, ft.LoRA(rank=2))
    plan = ft.plans.adapters(epochs=2, learning_rate=1e-2)
    ft.fine_tune(model, plan, *_data(), batch_size=8, verbose=0)
    return _flat(model.get_weights())


def _train_norm(policy):
    """Trains a model with BatchNorm; returns its weights."""
    import finetune_keras as ft

    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, name="low")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    outputs = keras.layers.Dense(3, "softmax", name="head")(x)
    model = keras.Model(inputs, outputs)
    phase = ft.Phase("all", 2, learning_rate=1e-2, batch_norm=policy)
    data = _data()
    ft.fine_tune(model, ft.Plan([phase]), *data, batch_size=8, verbose=0)
    return _flat(model.get_weights())


def _accuracies(model):
    """What this library and Keras make of one model."""
    import finetune_keras as ft

    x, y = _data()[1]
    judged = ft.evaluate(model, (x, y), verbose=0).metrics["accuracy"]
    return [
        judged,
        model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"],
    ]


def _killed(folder, index, killed=True):
    watch = _Watch(killed and index == 1)
    folder = os.path.join(folder, f"folder{index}")
    several = distribution()
    with several:
        model = _model()
    weights = _run(model, checkpoint_dir=folder, callbacks=[watch])
    return several, {"resumed": weights, "epochs": np.array(watch.epochs)}


def _restarted(folder, index):
    before = _keras_functions()
    several, results = _killed(folder, index, killed=False)
    with several:
        model = _model()
    results["whole"] = _run(model, cache="off")
    results["fails"] = _fit_fails(several, before)
    return results


def _keras_functions():
    """The functions of Keras as they are now, and where they belong."""
    from keras.src.backend.tensorflow import trainer

    owners = {
        "_maybe_symbolic_build": trainer.TensorFlowTrainer,
        "reduce_per_replica": trainer,
    }
    return {name: (owner, vars(owner)[name]) for name, owner in owners.items()}


def _fit_fails(several, functions):
    """Tells whether `fit` fails without the mend."""
    for name, (owner, function) in functions.items():
        setattr(owner, name, function)
    with several:
        model = _model()
        model.compile("sgd", "sparse_categorical_crossentropy")
    try:
        model.fit(*_data()[0], batch_size=8, verbose=0)
    except Exception:
        return True
    return False


def _jax_one(folder, index):
    """One process, with one device and with two."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    results = {"start": _flat(_model().get_weights())}
    results["weights"] = _run(_model(), shuffle=False)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    assert jax.device_count() == 2
    results["two devices"] = _run(_model(), shuffle=False)
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*stem/kernel"] = ("model", None)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=layout, batch_dim_name="batch"
        )
    )
    model = _model()
    assert model.get_layer("stem").kernel.value.sharding.spec[0] == "model"
    results["split"] = _run(model, shuffle=False)
    return results


def _jax_two(folder, index):
    """Two processes, each with its part of every batch."""
    keras.distribution.initialize(os.environ["WORKERS"], 2, index)
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )
    folder = os.path.join(folder, f"folder{index}")
    options = {"shuffle": False, "batch_size": 4, "checkpoint_dir": folder}
    return {"weights": _run(_model(), own=index, **options)}


if __name__ == "__main__":
    job, folder, index = sys.argv[1:]
    results = globals()[f"_{job}"](folder, int(index))
    np.savez(os.path.join(folder, f"{job}{index}.npz"), **results)
