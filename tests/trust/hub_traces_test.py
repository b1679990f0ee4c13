"""Whatever changes what a model computes forgets what was traced before."""

import gc

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.engine import graph
from finetune_keras.engine.retrace import retrace
from finetune_keras.testing.weights import randomize

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
PROMPT = np.array([[1, 2, 3, 0, 0, 0, 0, 0]])


def writer():
    """A small generative task that has been used, and so is traced."""
    keras.utils.set_random_seed(3)
    backbone = hub.models.GPT2Backbone(
        vocabulary_size=32,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    task = hub.models.GPT2CausalLM(backbone)
    task.compile(sampler="greedy")
    randomize(task)
    return task, write(task)


def write(task):
    inputs = {"token_ids": PROMPT, "padding_mask": PROMPT > 0}
    return task.generate(inputs, stop_token_ids=None)["token_ids"]


def learn(model):
    """Gives the adapters of a model weights that are not zero."""
    for adapter in graph.all_layers(model):
        if adapter.name.startswith("adapter_"):
            randomize(adapter)
            adapter.switch.assign(1.0)


@pytest.mark.backends
@pytest.mark.filterwarnings("ignore:.*does not")
def test_generate_writes_with_the_adapters_of_now():
    """Here of the backbone, of which the task around it must hear."""
    task, before = writer()
    ft.add_adapters(task.backbone, ft.LoRA(rank=2, alpha=64))
    learn(task.backbone)
    adapted = write(task)
    assert not np.array_equal(adapted, before)
    with ft.disable_adapters(task.backbone):
        np.testing.assert_array_equal(write(task), before)
    ft.merge_adapters(task.backbone)
    assert task.generate_function is None
    np.testing.assert_array_equal(write(task), adapted)


@pytest.mark.filterwarnings("ignore:.*does not")
def test_predict_of_a_model_around_an_adapted_one_has_the_adapters():
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, keras.layers.Dense(4, name="body")(inputs))
    outer = keras.Sequential([inner, keras.layers.Dense(2)])
    x = np.ones((3, 4), "float32")
    before = outer.predict(x, verbose=0)
    # As a search does, and servers before they fork.
    gc.freeze()
    ft.add_adapters(inner, ft.LoRA(rank=2), "body")
    learn(inner)
    after = outer.predict(x, verbose=0)
    assert np.abs(after - before).max() > 1e-3
    called = keras.ops.convert_to_numpy(outer(x))
    np.testing.assert_allclose(after, called, atol=1e-5)


def test_retrace_lets_a_task_write_anew():
    task, _ = writer()
    assert task.generate_function is not None
    retrace(task)
    assert task.generate_function is None
