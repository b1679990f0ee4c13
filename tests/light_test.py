"""What works with Keras, NumPy and one backend alone, and what is said."""

import pathlib

import keras
import pytest

from finetune_keras.testing.processes import FreshProcess

CORE = pathlib.Path(__file__).with_name("light_core.py")
MISSING = {
    *("keras-hub", "keras-tuner", "matplotlib", "pillow", "pyyaml"),
    *("safetensors", "scikit-learn", "tensorflow-datasets"),
}


@pytest.mark.backends
def test_the_core_needs_keras_and_a_backend_alone(tmp_path):
    process = FreshProcess(CORE, tmp_path)
    assert process.wait() == 0, process.stderr[-3000:]
    lines = [line.split("\t") for line in process.stdout.splitlines()]
    told = dict(line for line in lines if len(line) == 2)
    assert told.pop("cache").endswith("in memory")
    head = told.pop("head")
    if keras.backend.backend() == "jax":
        assert head.startswith(("ridge", "logistic"))
    else:
        # What cannot be solved is trained, and the history says so.
        assert head.startswith("off: ") and "`pip install scipy`" in head
    assert set(told) == MISSING
    for name, message in told.items():
        assert f"`pip install {name}`" in message
