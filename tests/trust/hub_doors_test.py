"""What goes wrong is told at the door, in words that help."""

import sys
import types
import urllib.error

import keras
import numpy as np
import pytest

import finetune_keras as ft

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]


@pytest.mark.parametrize("through", ["text_backbone", "text_classifier"])
def test_a_length_that_the_backbone_cannot_read_is_told_when_it_is_made(
    through,
):
    """Not on the first text that is that long."""
    bert = hub.models.BertBackbone(
        vocabulary_size=7,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=16,
    )
    tokenizer = hub.tokenizers.BertTokenizer(WORDS)
    with pytest.raises(ValueError, match="at most 16 tokens"):
        if through == "text_backbone":
            ft.text_backbone(bert, tokenizer, sequence_length=32)
        else:
            base = ft.text_backbone(bert, tokenizer)
            ft.text_classifier(base, ["no", "yes"], sequence_length=32)


def test_fit_after_adapters_without_compiling_says_what_to_do():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    model.compile("adam", "mse", run_eagerly=True)
    data = np.ones((4, 4)), np.ones((4, 2))
    model.fit(*data, verbose=0)
    ft.add_adapters(model, ft.LoRA(rank=2), "body")
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="compile.*again.*adapter_default"):
            train(*data)
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(*data, verbose=0)


def test_a_handle_of_tf_hub_without_a_network_says_what_to_do(monkeypatch):
    def resolve(handle):
        raise urllib.error.URLError("Name or service not known")

    stand_in = types.SimpleNamespace(resolve=resolve)
    monkeypatch.setitem(sys.modules, "tensorflow_hub", stand_in)
    with pytest.raises(ValueError, match="is there a network.*URLError"):
        ft.HubLayer("https://tfhub.dev/google/nnlm/2")
