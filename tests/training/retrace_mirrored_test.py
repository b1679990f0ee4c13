"""Under `MirroredStrategy`, a change of `trainable` equals one device.

Logical devices must be set before TensorFlow starts, so the runs are made by
this file as a script, in a process of their own.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import pytest

from finetune_keras.testing.processes import FreshProcess

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute"
)
def test_two_replicas_equal_one_device(tmp_path):
    target = tmp_path / "weights.npz"
    paths = {"PYTHONPATH": str(ROOT)}
    process = FreshProcess(__file__, target, env={**os.environ, **paths})
    assert process.wait() == 0, process.stderr
    results = dict(np.load(target))
    assert np.abs(results["one"] - results["start"]).max() > 1e-2
    np.testing.assert_allclose(
        results["mirrored"], results["one"], rtol=0, atol=1e-6
    )
    # Both replicas hold the same weights and slots.
    np.testing.assert_array_equal(*results["replicas"])


def _model():
    keras.utils.set_random_seed(5)
    inputs = outputs = keras.Input((4,))
    for layer in ("stem", "low", "mid"):
        outputs = keras.layers.Dense(4, "tanh", name=layer)(outputs)
    outputs = keras.layers.Dense(1, name="head")(outputs)
    model = keras.Model(inputs, outputs)
    model.get_layer("low").trainable = False
    # It has slots, averages, and a state that is of no variable.
    optimizer = keras.optimizers.Nadam(0.01, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def _train(model):
    from finetune_keras.engine.retrace import retrace

    rng = np.random.default_rng(2)
    x = rng.normal(size=(16, 4)).astype("float32")
    y = np.tanh(x @ np.array([[0.5], [-1.0], [2.0], [0.3]], "float32"))

    class Change(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            low = self.model.get_layer("low")
            if batch == 2 and not low.trainable:
                low.trainable = True
                assert len(retrace(self.model)["added"]) == 2

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.get_layer("mid").trainable = False
                assert len(retrace(self.model)["removed"]) == 2

    options = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(x, y, **options, epochs=2, callbacks=[Change()])
    return _flat(model.get_weights())


def _flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def _replicas(model):
    variables = model.weights + model.optimizer.variables
    values = [v.value.values for v in variables if hasattr(v.value, "values")]
    assert len(values) > len(model.weights)
    return [_flat([value[i].numpy() for value in values]) for i in (0, 1)]


def _main(target):
    import tensorflow as tf

    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {"start": _flat(_model().get_weights())}
    results["one"] = _train(_model())
    with strategy.scope():
        model = _model()
    results["mirrored"] = _train(model)
    results["replicas"] = np.stack(_replicas(model))
    np.savez(target, **results)


if __name__ == "__main__":
    _main(sys.argv[1])
