"""The official weights files, where they are."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest

import finetune_keras as ft

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("FINETUNE_KERAS_DATA", ROOT.parent / "shared" / "data")
WEIGHTS = Path(DATA) / "weights"
FILES = {
    "MobileNet": ("mobilenet_2_5_224_tf_no_top.h5", 0.25),
    "MobileNetV2": ("mobilenet_v2_0.35_224_no_top.h5", 0.35),
}
pytestmark = pytest.mark.skipif(
    not WEIGHTS.is_dir(), reason=f"needs the real weights in {WEIGHTS}"
)


def values(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize("name", FILES)
def test_official_file_gives_the_features_of_keras(name):
    file, alpha = FILES[name]
    path = str(WEIGHTS / file)
    shape = (96, 96, 3)
    backbone = ft.backbone(name, shape, weights=path, alpha=alpha)
    plain = getattr(keras.applications, name)(
        input_shape=shape, weights=path, alpha=alpha, include_top=False
    )
    raw = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("f4")
    expected = values(plain(raw / 127.5 - 1))
    got = values(backbone(raw))
    np.testing.assert_allclose(got, expected, atol=1e-4)
    gray = ft.backbone(name, (96, 96, 1), weights=path, alpha=alpha)
    expected = values(plain(raw[..., [0, 0, 0]] / 127.5 - 1))
    got = values(gray(raw[..., :1]))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_official_file_of_another_model():
    path = str(WEIGHTS / FILES["MobileNet"][0])
    with pytest.raises(ValueError, match="mobilenetv2_0.35_96.*104.*54"):
        ft.backbone("MobileNetV2", (96, 96, 3), weights=path, alpha=0.35)
