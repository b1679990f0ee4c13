"""Which devices train: one, several, several machines, or a TPU."""

import json
import os
import random

import keras

from finetune_keras.arguments import check, one_of
from finetune_keras.engine import backend
from finetune_keras.engine.multi_worker import mend_fit
from finetune_keras.engine.packages import tensorflow as tf
from finetune_keras.engine.workers import workers_of_strategy

_KINDS = ("auto", "tpu", "multi_worker", "mirrored", "one_device")


def distribution(kind="auto", devices=None, verbose=1):
    """Picks a strategy of `tf.distribute`, and says what it picked.

    Build and compile the model within it; `fine_tune` then trains it on all
    devices, inside or outside. `batch_size` is the global batch, which Keras
    splits between the replicas, and the learning rate is not scaled.

    With `"auto"` it is `TPUStrategy` where there is a TPU,
    `MultiWorkerMirroredStrategy` where the environment variable `TF_CONFIG`
    names several workers, `MirroredStrategy` where there are several GPUs, and
    TensorFlow's default for one device otherwise.

    With several workers, call it before any model or tensor is made. All
    workers then get the random state of the first, the chief, so that they
    shuffle alike, and the multi-worker `fit` of Keras is mended where it needs
    it.

    Args:
        kind: `"auto"`, `"tpu"`, `"multi_worker"`, `"mirrored"` or
            `"one_device"`. Defaults to `"auto"`.
        devices: List of strings such as `["GPU:0", "GPU:1"]`, the devices of
            `"mirrored"` or the one of `"one_device"`, each of them there.
            Defaults to `None`, all that there are.
        verbose: Integer, 0 prints nothing. Defaults to `1`.

    Returns:
        A `Distribution`, to be used in `with`.

    Raises:
        ValueError: If the kind is unknown or refused, if what it needs is not
            there, or if the backend is not TensorFlow.

    Example:

    ```python
    import keras
    import finetune_keras as ft

    with ft.distribution():
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        model.compile("adam", "mse")
    ```

    Reference:

    - [Distributed training with TensorFlow](
      https://www.tensorflow.org/guide/distributed_training)
    """
    _check(kind)
    if devices is not None:
        _check_devices(kind, devices)
    pickers = {
        "tpu": _tpu,
        "multi_worker": _multi_worker,
        "mirrored": _mirrored,
        "one_device": _one_device,
    }
    if kind == "auto":
        kind = _kind_here(devices)
    picked = pickers[kind](devices)
    if verbose:
        print(picked)
    return picked


class Distribution:
    """A strategy and why it was picked; a context in which to build a model.

    Args:
        strategy: A `tf.distribute.Strategy`.
        name: String, what users call it.
        reason: String, why it was picked.

    Attributes:
        strategy: The `tf.distribute.Strategy`; `with` gives it as well.
        name: String, such as `"MirroredStrategy"`.
        reason: String, what was found.
        replicas: Integer, copies of the model that train in step.
    """

    def __init__(self, strategy, name, reason):
        self.strategy = strategy
        self.name = name
        self.reason = reason
        self.replicas = strategy.num_replicas_in_sync
        self._entered = []

    def scope(self):
        """Returns the scope of the strategy, as TensorFlow has it."""
        return self.strategy.scope()

    def __enter__(self):
        self._entered.append(self.scope())
        return self._entered[-1].__enter__()

    def __exit__(self, *details):
        return self._entered.pop().__exit__(*details)

    def __str__(self):
        text = f"Strategy: {self.name}, as {self.reason}."
        if self.replicas == 1:
            return f"{text} 1 replica."
        return (
            f"{text} {self.replicas} replicas in sync. `batch_size` is the "
            f"global batch, which Keras splits: {32 * self.replicas} gives "
            "each replica 32. The learning rate is not scaled for you."
        )

    __repr__ = __str__


def _check(kind):
    if not backend.on("tensorflow"):
        raise ValueError(
            "`strategy` picks a strategy of tf.distribute, for the TensorFlow "
            "backend. On JAX, call `keras.distribution.set_distribution("
            "keras.distribution.DataParallel())` before the model is built. On "
            f"PyTorch Keras has neither. Received: backend={backend.name()!r}"
        )
    if kind == "parameter_server":
        _refuse_parameter_servers(f"kind={kind!r}")
    check(kind=(kind, one_of(*_KINDS)))
    if tf.distribute.has_strategy():
        raise ValueError(
            "`strategy` is called within another strategy. One program trains "
            f"by one strategy. Received: kind={kind!r} within "
            f"{type(tf.distribute.get_strategy()).__name__}"
        )


def _check_devices(kind, devices):
    if kind == "one_device" and len(devices) > 1:
        raise ValueError(
            'One device is asked for. Give one, or take kind="mirrored". '
            f"Received: devices={devices!r}"
        )
    there = tf.config.list_logical_devices()
    there = [device.name.removeprefix("/device:") for device in there]
    listed = isinstance(devices, (list, tuple)) and len(devices) > 0
    named = [str(name).lstrip("/").upper() for name in devices or ()]
    named = [name.removeprefix("DEVICE:") for name in named]
    if not listed or len({*named}) < len(named) or not {*named} <= {*there}:
        raise ValueError(
            "`devices` must be a list of different devices of this machine, "
            f"which has {there}. Received: devices={devices!r}"
        )
    if len(workers_named()) > 1:
        raise ValueError(
            "`TF_CONFIG` names several workers, each of which takes all of its "
            "devices. Leave `devices` out, or unset `TF_CONFIG`. "
            f"Received: devices={devices!r}"
        )


def _refuse_parameter_servers(received):
    raise ValueError(
        "`ParameterServerStrategy` is refused: Keras 3 does not support it in "
        "`fit`, and its replicas update the weights at different times, so "
        "that no phase ends for all at one step. Use workers that go in step: "
        'a `TF_CONFIG` with "worker" jobs alone. '
        f"Received: {received}"
    )


def _kind_here(devices):
    if devices is not None:
        return "mirrored" if len(devices) > 1 else "one_device"
    if _tpu_name():
        return "tpu"
    if len(workers_named()) > 1:
        return "multi_worker"
    return "mirrored" if len(_gpus()) > 1 else "one_device"


def _gpus():
    return tf.config.list_logical_devices("GPU")


# === One machine ===


def _one_device(devices):
    if devices:
        chosen = tf.distribute.OneDeviceStrategy(devices[0])
        reason = f"{devices[0]} is asked for"
        return Distribution(chosen, "one device", reason)
    reason = f"the number of GPUs is {len(_gpus())}"
    return Distribution(tf.distribute.get_strategy(), "one device", reason)


def _mirrored(devices):
    if devices is None and not _gpus():
        raise ValueError(
            "Several replicas are asked for, and there is no GPU. Name the "
            'devices, or take kind="one_device". Received: kind="mirrored", '
            "devices=None"
        )
    chosen = tf.distribute.MirroredStrategy(devices)
    reason = f"the number of GPUs is {len(_gpus())}"
    if devices is not None:
        reason = f"{', '.join(devices)} are asked for"
    return Distribution(chosen, "MirroredStrategy", reason)


# === Several machines ===


def _multi_worker(devices):
    workers = workers_named()
    if len(workers) < 2 or devices is not None:
        raise ValueError(
            "Several workers are named by the environment variable "
            "`TF_CONFIG`, a JSON object with all addresses and the place of "
            'this one: {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}. Each takes all of its '
            "devices. Received: "
            f"TF_CONFIG={os.environ.get('TF_CONFIG')!r}, devices={devices!r}"
        )
    mend_fit()
    try:
        chosen = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(
            "The workers cannot be joined any more, as TensorFlow has begun "
            "to compute. Call `strategy` first in the program, before any "
            f"model or tensor is made. Received: {error}"
        ) from error
    _seed_alike(chosen)
    resolver = chosen.cluster_resolver
    place = f"{resolver.task_type} {resolver.task_id}"
    reason = f"TF_CONFIG names {len(workers)} workers, and this is {place}"
    return Distribution(chosen, "MultiWorkerMirroredStrategy", reason)


def _seed_alike(chosen):
    """Gives all workers the random state of the chief.

    Each reads its part of a batch out of the whole order: in different orders
    some examples would come twice in an epoch, and others never.
    """
    seed = str(random.randrange(2**31)).encode()
    seed = workers_of_strategy(chosen).ask_chief(lambda: seed)
    keras.utils.set_random_seed(int(seed))


def workers_named():
    """Lists the addresses of the workers that `TF_CONFIG` names."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        jobs = {kind: list(cluster[kind]) for kind in cluster}
        kind, index = task.get("type"), task.get("index")
        if any(isinstance(addresses, str) for addresses in cluster.values()):
            raise TypeError("addresses stand in a list")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            "The environment variable `TF_CONFIG` must be a JSON object like "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": '
            '{"type": "worker", "index": 0}}. '
            f"Received: TF_CONFIG={text!r}"
        ) from error
    if "ps" in jobs:
        _refuse_parameter_servers(f"TF_CONFIG={text!r}")
    workers = [*jobs.get("chief", []), *jobs.get("worker", [])]
    several = range(len(jobs.get(kind, ())))
    known = kind in ("chief", "worker") and index in several
    if len(workers) > 1 and not known:
        raise ValueError(
            "`TF_CONFIG` must say which worker this process is, by "
            '{"task": {"type": "worker", "index": 0}}. An evaluator has no '
            f"part in training. Received: TF_CONFIG={text!r}"
        )
    return workers


# === TPU ===


def _tpu_name():
    here = "local" if tf.config.list_physical_devices("TPU") else None
    return os.environ.get("TPU_NAME") or here


def _tpu(devices):
    name = _tpu_name()
    if name is None or devices is not None:
        raise ValueError(
            "There is no TPU here: TensorFlow lists none, and the environment "
            "variable `TPU_NAME` names none. All of its cores train, so leave "
            f'`devices` out. Received: kind="tpu", devices={devices!r}'
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ValueError(
            "The TPU does not answer. Check its name, or take "
            'kind="one_device". '
            f"Received: TPU_NAME={name!r}, and the error {error}"
        ) from error
    chosen = tf.distribute.TPUStrategy(resolver)
    return Distribution(chosen, "TPUStrategy", f"there is the TPU {name!r}")
