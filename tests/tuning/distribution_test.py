"""`strategy`, and plans under the strategies that it picks.

Devices and workers must be set before a backend starts, so the runs are made
by this file as a script, in processes of their own.
"""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from finetune_keras.tuning import distribution
from finetune_keras.tuning.distribution import strategy

ROOT = pathlib.Path(__file__).parents[2]
RUNS = ("auto", "off")
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute"
)


# === What is picked, and what is refused ===


@tensorflow_only
def test_one_device_is_picked_where_there_is_nothing_else(capsys):
    picked = strategy()
    assert "one device" in capsys.readouterr().out
    with picked as entered, picked:
        assert entered is picked.strategy
    assert picked.replicas == 1
    assert strategy("one_device", ["CPU:0"], verbose=0).replicas == 1
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
    ],
)
def test_refused(arguments, config, message, monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distribution, "_gpus", lambda: [])
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match=message):
        strategy(*arguments)


@tensorflow_only
def test_refused_within_another():
    outer = strategy("one_device", ["CPU:0"], verbose=0)
    with outer, pytest.raises(ValueError, match="within another strategy"):
        strategy()


@pytest.mark.backends
def test_other_backends_are_told_what_to_use():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("it has tf.distribute")
    with pytest.raises(ValueError, match="keras.distribution.DataParallel"):
        strategy()


# === Runs in processes of their own ===


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Weights of one device and of two replicas, made in one process."""
    folder = tmp_path_factory.mktemp("one")
    _wait([_start("single", folder)])
    return dict(np.load(folder / "single0.npz"))


def _assert_equal(found, one_device):
    for name in RUNS:
        expected = one_device[name]
        assert np.abs(expected - one_device["start"]).max() > 1e-2
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5)


@tensorflow_only
def test_two_replicas_equal_one_device(one_device):
    found = {name: one_device[f"mirrored {name}"] for name in RUNS}
    _assert_equal(found, one_device)


@tensorflow_only
def test_two_workers_equal_one_device(one_device, tmp_path):
    _wait(_start_two("worker", tmp_path))
    for index in (0, 1):
        found = dict(np.load(tmp_path / f"worker{index}.npz"))
        _assert_equal(found, one_device)
    # The folder that the other worker was given is not even made.
    assert (tmp_path / "folder0" / "state.npz").exists()
    assert not (tmp_path / "folder1").exists()


@tensorflow_only
def test_a_killed_worker_loses_nothing(one_device, tmp_path):
    chief, other = _start_two("killed", tmp_path)
    assert other.wait(60) == -signal.SIGKILL
    chief.kill()
    chief.wait(10)
    assert (tmp_path / "folder0" / "state.npz").exists()
    _wait(_start_two("restarted", tmp_path))
    for index in (0, 1):
        found = dict(np.load(tmp_path / f"restarted{index}.npz"))
        np.testing.assert_allclose(
            found["auto"], one_device["auto"], rtol=0, atol=1e-5
        )
        assert found["epochs"].tolist() == [2, 3]


@tensorflow_only
def test_the_fit_of_keras_still_needs_the_mend(tmp_path):
    """Once it fails, `multi_worker.py` can go."""
    processes = _start_two("unmended", tmp_path)
    assert [process.wait(60) for process in processes] == [3, 3]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")
@tensorflow_only
def test_data_parallel_of_jax_equals_one_device(tmp_path):
    alone = [_start(f"jax_{n}", tmp_path, backend="jax") for n in ("one", "up")]
    _wait(alone)
    _wait(_start_two("jax_two", tmp_path, backend="jax"))
    one = dict(np.load(tmp_path / "jax_one0.npz"))
    assert np.abs(one["weights"] - one["start"]).max() > 1e-2
    for name in ("up0", "two0", "two1"):
        found = dict(np.load(tmp_path / f"jax_{name}.npz"))["weights"]
        np.testing.assert_allclose(found, one["weights"], rtol=0, atol=1e-5)
    assert not (tmp_path / "folder1").exists()


def _start(job, folder, index=0, ports=(), backend="tensorflow"):
    addresses = [f"localhost:{port}" for port in ports]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
        "WORKERS": ",".join(addresses),
    }
    environment.pop("TF_CONFIG", None)
    if addresses and backend == "tensorflow":
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment["TF_CONFIG"] = json.dumps(config)
    return subprocess.Popen(
        [sys.executable, __file__, job, str(folder), str(index)],
        env=environment,
    )


def _start_two(job, folder, backend="tensorflow"):
    ports = _free_ports(2)
    return [_start(job, folder, i, ports, backend) for i in (0, 1)]


def _wait(processes):
    try:
        assert [process.wait(60) for process in processes] == [0] * len(
            processes
        )
    finally:
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
            ft.Phase("head", epochs=2, learning_rate=1e-2),
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
    assert len(history.epochs) == 4
    return _flat(model.get_weights())


def _own(array, index):
    """The part of each batch of 8 that is for one of two processes."""
    parts = array.reshape(-1, 2, 4, *array.shape[1:])[:, index]
    return parts.reshape(-1, *array.shape[1:])


def _flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


class _Watch(keras.callbacks.Callback):
    """Counts epochs; kills the process amid one, if it is told to."""

    def __init__(self, killed):
        super().__init__()
        self.killed, self.epochs = killed, []

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
    mirrored = strategy(devices=["CPU:0", "CPU:1"])
    results = {"start": _flat(_model().get_weights())}
    for name in RUNS:
        options = {"cache": name}
        if name == "auto":
            options["checkpoint_dir"] = os.path.join(folder, "one")
        results[name] = _run(_model(), **options)
        if name == "auto":
            options["checkpoint_dir"] = os.path.join(folder, "mirrored")
        with mirrored:
            model = _model()
        results[f"mirrored {name}"] = _run(model, **options)
    return results


def _worker(folder, index, runs=RUNS, killed=False):
    several = strategy()
    results = {}
    for name in runs:
        watch = _Watch(killed and index == 1)
        options = {"cache": name, "callbacks": [watch]}
        if name == "auto":
            options["checkpoint_dir"] = os.path.join(folder, f"folder{index}")
        with several:
            model = _model()
        results[name] = _run(model, **options)
        results["epochs"] = np.array(watch.epochs)
    return results


def _killed(folder, index):
    return _worker(folder, index, ["auto"], killed=True)


def _restarted(folder, index):
    return _worker(folder, index, ["auto"])


def _unmended(folder, index):
    import tensorflow as tf

    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = _model()
        model.compile("sgd", "sparse_categorical_crossentropy")
    try:
        model.fit(*_data()[0], batch_size=8, verbose=0)
    except Exception as error:
        print(repr(error)[:300], flush=True)  # TEMP
        os._exit(3)
    return {}


def _jax_one(folder, index):
    start = _flat(_model().get_weights())
    return {"start": start, "weights": _run(_model(), shuffle=False)}


def _jax_up(folder, index):
    """One process, two devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    assert jax.device_count() == 2
    return {"weights": _run(_model(), shuffle=False)}


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
