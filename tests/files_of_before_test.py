"""Files that earlier code wrote load as ever.

Written by code of before the rooms were rebuilt: a convolutional network with
a new head and LoRA, trained for five epochs, and its adapters alone.
"""

import pathlib

import keras
import numpy as np
import pytest

import finetune_keras as ft

# No Keras reads what a later one wrote.
pytestmark = pytest.mark.needs("3.15")
FILES = pathlib.Path(__file__).with_name("files_of_before")


@pytest.fixture
def answers():
    with np.load(FILES / "answers.npz") as stored:
        return dict(stored)


def test_a_model_predicts_and_trains_what_it_did(answers):
    model = keras.models.load_model(FILES / "model.keras")
    found = model.predict(answers["x"], verbose=0)
    np.testing.assert_allclose(found, answers["y"], atol=1e-6)
    trained = [v.path for v in model.trainable_variables]
    assert trained == answers["names"].tolist()
    before = model.get_weights()
    model.fit(answers["x"], np.array([0, 1, 2, 0]), verbose=0)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(before, model.get_weights(), strict=True)
    ]
    assert sum(moved) == len(trained)


@pytest.mark.backends
def test_adapters_change_the_model_that_they_were_made_for(answers):
    model = keras.models.load_model(FILES / "model.keras")
    ft.remove_adapters(model)
    bare = model.predict(answers["x"], verbose=0)
    assert np.abs(bare - answers["y"]).max() > 1e-3
    ft.load_adapters(model, FILES / "adapters.safetensors")
    found = model.predict(answers["x"], verbose=0)
    np.testing.assert_allclose(found, answers["y"], atol=1e-6)
