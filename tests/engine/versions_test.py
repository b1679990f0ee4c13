import keras
import pytest

import finetune_keras as ft
from finetune_keras.engine import versions


def small_model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: ft.layerwise_optimizer("muon", small_model()),
        lambda: ft.trainable_summary(small_model(), "Muon"),
        lambda: ft.Phase("head", optimizer="muon"),
        lambda: ft.Phase("head", optimizer={"class_name": "Muon"}),
        lambda: ft.Phase(
            "head",
            optimizer={"registered_name": "finetune_keras>LayerwiseMuon"},
        ),
    ],
)
def test_what_an_older_keras_lacks_is_told_with_its_version(ask, monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.8.0")
    with pytest.raises(ValueError, match=r"Muon` works in Keras from 3\.13 on"):
        ask()


def test_a_format_that_an_older_keras_does_not_write(monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.8.0")
    with pytest.raises(ValueError, match=r"'litert' works in Keras from 3\.13"):
        versions.refuse_unknown_format("litert")
    versions.refuse_unknown_format("onnx")


def test_the_table_says_what_this_keras_has():
    here = list(map(int, keras.__version__.split(".")[:2]))
    for name, since in versions.SINCE.items():
        if here >= list(map(int, since.split("."))):
            assert versions.find(name) is not None, name
