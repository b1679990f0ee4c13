"""Every application: groups, one training step, a file, a fresh process.

The default is two that differ. All 40, one after another:

    FINETUNE_KERAS_APPLICATIONS=all pytest tests/models/applications_test.py
"""

import json
import os

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing.processes import FreshProcess

pytestmark = [
    pytest.mark.applications,
    pytest.mark.usefixtures("op_by_op"),
]
SOME = [
    "MobileNetV3Small",
    "ResNet50V2",
]
ALL = [name for name in dir(keras.applications) if name[0].isupper()]
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
SWITCH = "FINETUNE_KERAS_APPLICATIONS"
CHOSEN = [
    # Gradients of convolutions in groups: on a CPU TensorFlow has them in XLA
    # alone.
    pytest.param(name, marks=[pytest.mark.traced] * ("ConvNeXt" in name))
    for name in (ALL if os.environ.get(SWITCH) == "all" else SOME)
]

LOAD = """
import json
import keras, numpy as np
model = keras.models.load_model("model.keras")
y = model(np.load("x.npy"), training=False)
np.save("y.npy", keras.ops.convert_to_numpy(y))
flags = [[v.name, v.trainable] for v in model.weights]
norms = {
    layer.name: layer.trainable for layer in model.layers
    if isinstance(layer, keras.layers.BatchNormalization)
}
print(json.dumps([flags, norms]))
"""


@pytest.mark.parametrize("name", CHOSEN)
def test_application(name, tmp_path):
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    size = SIZES.get(name, 32)
    backbone = ft.backbone(name, input_shape=(size, size, 3), weights=None)
    model = ft.image_classifier(backbone, num_classes=3)
    groups = ft.layer_groups(model)
    grouped = [v.path for group in groups for v in group.variables]
    assert sorted(grouped) == sorted(v.path for v in model.weights)
    assert groups[-1].name == "head" and len(groups) > 4
    assert [x.name for x in groups[-1].layers] == ["head_predictions"]

    ft.freeze(model)
    ft.unfreeze(model, groups[-2:])
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, size=(6, size, size, 3)).astype("float32")
    # Random weights let gradients vanish; Lion steps by their sign alone.
    model.compile("lion", "sparse_categorical_crossentropy")
    model.train_on_batch(x, np.array([0, 1, 2, 0, 1, 2]))
    assert 2 < len(model.trainable_variables) < len(model.weights)
    for variable in model.weights:
        now = keras.ops.convert_to_numpy(variable)
        same = np.array_equal(before[variable.path], now)
        assert same != variable.trainable, variable.path

    model.save(tmp_path / "model.keras", include_optimizer=False)
    np.save(tmp_path / "x.npy", x)
    process = FreshProcess("-c", LOAD, cwd=tmp_path)
    assert process.wait() == 0, process.stderr
    flags, norms = json.loads(process.stdout.splitlines()[-1])
    assert flags == [[v.name, v.trainable] for v in model.weights]
    assert norms == {
        layer.name: layer.trainable
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    loaded = np.load(tmp_path / "y.npy")
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(loaded, expected, atol=1e-5)
    os.remove(tmp_path / "model.keras")
