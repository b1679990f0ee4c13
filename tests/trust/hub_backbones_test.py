"""What is made of KerasHub's backbones can be loaded in a fresh process.

The whole table runs where the variable `FINETUNE_KERAS_BACKBONES` is set, to
`all` or to names of classes.
"""

import gc
import json
import os
import sys

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.models.readable import unreadable_layers, warn_if_unreadable
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.testing.weights import randomize
from tests.trust import hub_classes

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
pytestmark = [
    # KerasHub's and Keras's own.
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`"),
]
# Layers of these cannot be read one by one; BERT stands for all others.
FEW = ["BertBackbone", "Llama3Backbone", "MiTBackbone", "ViTBackbone"]
TABLE = {**hub_classes.BACKBONES, **hub_classes.AROUND}
BERT = hub_classes.BACKBONES["BertBackbone"]
IDS = {
    "token_ids": np.arange(16).reshape(2, 8) % 9 + 1,
    "padding_mask": np.ones((2, 8), "int32"),
    "segment_ids": np.zeros((2, 8), "int32"),
}
LOAD = """
import json, pathlib, sys
import keras, keras_hub, numpy as np
import finetune_keras
from tests.trust.hub_backbones_test import facts_of
found = {}
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
    try:
        model = keras.models.load_model(file)
        facts = facts_of(model)
        expected = json.loads(file.with_suffix(".json").read_text())
        np.testing.assert_allclose(facts[0], expected[0], atol=1e-5)
        assert facts[1:] == expected[1:]
        found[file.stem] = "equal"
    except Exception as error:
        found[file.stem] = repr(error)[:500]
print(json.dumps(found))
"""


def names():
    asked = os.environ.get("FINETUNE_KERAS_BACKBONES", "").split()
    return list(TABLE) if asked == ["all"] else asked or FEW


def arrays_for(model):
    random, arrays = np.random.default_rng(0), []
    for tensor in model.inputs:
        # Images of 32 pixels, texts of 8 tokens, where the size is free.
        free = 32 if len(tensor.shape) == 4 else 8
        shape = [2, *(size or free for size in tensor.shape[1:])]
        array = random.uniform(1, 9, shape).astype(tensor.dtype)
        if "mask" in tensor.name or "segment" in tensor.name:
            array = np.full(shape, "mask" in tensor.name, tensor.dtype)
        arrays.append(array)
    return keras.tree.pack_sequence_as(model.input, arrays)


def facts_of(model):
    """What a model computes, and how much of it trains."""
    outputs = model(arrays_for(model), training=False)
    outputs = keras.ops.convert_to_numpy(outputs).tolist()
    return [outputs, len(model.trainable_variables), len(model.weights)]


def with_new_head(name):
    backbone = hub_classes.build(hub, name)
    output = backbone.output
    if isinstance(output, dict) and "pooled_output" not in output:
        # Of several features one must be chosen, as the message says.
        with pytest.raises(ValueError, match="model with one output"):
            ft.replace_head(backbone, 2)
        best = [k for k in output if k.startswith("decoder")] or list(output)
        backbone = keras.Model(backbone.input, output[best[-1]])
    return ft.replace_head(backbone, 2)


def train_and_save(name, folder):
    if name in hub_classes.REFUSED:
        with pytest.raises(ValueError, match=hub_classes.REFUSED[name]):
            with_new_head(name)
        return "refused"
    model = with_new_head(name)
    ft.freeze(model, "backbone")
    ft.unfreeze(model, ft.layer_groups(model)[-2].layers, batch_norm="train")
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(arrays_for(model), np.array([0, 1]), verbose=0)
    assert not unreadable_layers(model)
    model.save(folder / f"{name}.keras")
    (folder / f"{name}.json").write_text(json.dumps(facts_of(model)))


def test_a_new_head_on_a_backbone_of_keras_hub_loads_elsewhere(tmp_path):
    keras.utils.set_random_seed(0)
    found = {}
    for name in names():
        try:
            found[name] = train_and_save(name, tmp_path)
        except Exception as error:
            found[name] = repr(error)[:500]
        keras.backend.clear_session()
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = FreshProcess("-c", LOAD, tmp_path, env={**os.environ, **paths})
    assert process.wait() == 0, process.stderr
    found.update(json.loads(process.stdout.splitlines()[-1]))
    print(json.dumps(found, indent=1))
    refused = dict.fromkeys(hub_classes.REFUSED, "refused")
    expected = {**dict.fromkeys(names(), "equal"), **refused}
    assert found == {name: expected[name] for name in names()}


def test_a_model_that_stays_whole_is_trained_and_cut_as_any_other():
    """Its blocks are groups, and what is frozen in it is cached."""
    model = with_new_head("ViTBackbone")
    backbone = hub_classes.build(hub, "ViTBackbone")
    blocks = [group.name for group in ft.layer_groups(backbone)]
    groups = [group.name for group in ft.layer_groups(model)]
    assert groups == [*blocks, "head"]
    data = np.ones((4, 16, 16, 3), "float32"), np.arange(4) % 2
    plan = ft.Plan([ft.Phase("head", epochs=1, learning_rate=0.1)])
    history = ft.fine_tune(model, plan, data, verbose=0)
    assert "activations after" in history.phases[0]["cache"]
    task = hub.models.ViTImageClassifier(
        hub_classes.build(hub, "ViTBackbone"), num_classes=2
    )
    with pytest.warns(UserWarning, match="stay closed"):
        flat = ft.inline_models(task)
    assert not unreadable_layers(flat)


@keras.saving.register_keras_serializable(package="hub_backbones_test")
class Forgets(keras.layers.Dense):
    """A layer whose config its constructor refuses."""

    def get_config(self):
        return {**super().get_config(), "surprise": 1}


def forgetful():
    inputs = keras.Input((4,))
    x = Forgets(4, name="body")(inputs)
    outputs = keras.layers.Dense(2, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs)


def test_that_a_model_cannot_be_loaded_is_told_before_it_is_trained():
    data = np.ones((4, 4)), np.arange(4) % 2
    plan = ft.Plan([ft.Phase("head", epochs=1, learning_rate=0.1)])
    with pytest.warns(UserWarning, match="could not be read again: {'body'"):
        ft.fine_tune(forgetful(), plan, data, verbose=0)


def test_a_bundle_that_cannot_be_loaded_is_not_reported_as_saved(tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(ValueError, match="cannot be read, so there is no"):
        ft.save_bundle(forgetful(), path, classes=["cat", "dog"])
    assert not list(tmp_path.iterdir())


def test_a_look_at_the_layers_draws_no_random_numbers():
    model, drawn = forgetful(), []
    for look in (str, unreadable_layers):
        keras.utils.set_random_seed(1)
        look(model)
        drawn.append(np.array(keras.layers.Dense(3)(np.ones((1, 2)))))
    np.testing.assert_array_equal(*drawn)


@pytest.fixture
def little_to_collect():
    """Keras collects all garbage after each layer that it quantises."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def check_loaded(loaded, model):
    np.testing.assert_allclose(model(IDS), loaded(IDS), atol=1e-6)
    kinds = [v.dtype for v in loaded.weights]
    assert kinds == [v.dtype for v in model.weights] and "int8" in kinds
    trained = len(model.trainable_variables)
    assert len(loaded.trainable_variables) == trained


@pytest.mark.usefixtures("little_to_collect")
def test_an_int8_base_comes_back_as_it_was_saved(tmp_path):
    backbone = hub.models.BertBackbone(**BERT)
    model = randomize(ft.replace_head(backbone, 2))
    model.quantize("int8")
    ft.freeze(model, "backbone")
    model.save(tmp_path / "model.keras")
    check_loaded(keras.models.load_model(tmp_path / "model.keras"), model)


@pytest.mark.usefixtures("little_to_collect")
def test_a_bundle_of_an_int8_base_with_adapters_can_be_loaded(tmp_path):
    backbone = hub.models.BertBackbone(**BERT)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    tokenizer = hub.tokenizers.BertTokenizer(words)
    model = ft.text_classifier(backbone, ["no", "yes"], tokenizer=tokenizer)
    randomize(model).quantize("int8")
    ft.add_adapters(model, ft.LoRA(rank=2))
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    gc.freeze()
    path = ft.save_bundle(model, tmp_path / "model.keras")
    check_loaded(ft.load_bundle(path).model, model)


@pytest.mark.usefixtures("little_to_collect")
def test_that_an_int8_task_cannot_be_loaded_is_told():
    backbone = hub.models.BertBackbone(**BERT)
    task = hub.models.BertTextClassifier(backbone, num_classes=2)
    task.quantize("int8")
    with pytest.warns(UserWarning, match="does not write which layers"):
        warn_if_unreadable(task)
