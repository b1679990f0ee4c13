import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.cache.flat_model import FlatModel
from finetune_keras.engine import graph
from finetune_keras.testing import randomize, weights_snapshot
from finetune_keras.text.generation import for_answers
from finetune_keras.text.prompt_tokens import tokenize, windows_of

keras_hub = pytest.importorskip(
    "keras_hub", reason="needs finetune_keras[text]"
)
pytestmark = [
    pytest.mark.usefixtures("op_by_op"),
    pytest.mark.filterwarnings("ignore:.*does not"),
]
QUESTIONS = ["is a", "is b?", "a b a: b", "b"] * 2
ANSWERS = ["yes", "no", "no b", "a"] * 2


def flat_of(model, packing=False):
    def make(model, steps):
        return for_answers(model, steps, packing)

    return FlatModel(ft.layer_groups(model), make)


def scores(model, parts, packing=False):
    """Scores of each learnt token, in the order of what is learnt."""
    found = []
    flat = flat_of(model, packing)
    with flat.opened() as opened:
        for x, y, weights in parts.parts:
            out = keras.ops.convert_to_numpy(opened(x))
            known = weights > 0
            found += list(zip(y[known], out[known], strict=True))
    return found


@pytest.mark.backends("Llama3")
@pytest.mark.parametrize("kind", ["GPT2", "Llama3"])
def test_answers_are_scored_as_the_model_scores_them(small_writer, kind):
    """Packed windows too: each example sees itself alone."""
    model = small_writer(kind)
    randomize(model)
    data = ft.prompts(QUESTIONS[:4], ANSWERS[:4])
    together = ft.prompts(QUESTIONS[:4], ANSWERS[:4], packing=True)
    alone = scores(model, tokenize(model, data))
    wanted = []
    for ids, learnt in windows_of(model, data)[0]:
        x = {
            "token_ids": ids[None, :-1],
            "padding_mask": np.ones((1, len(ids) - 1)),
        }
        out = keras.ops.convert_to_numpy(model(x))[0]
        places = np.flatnonzero(learnt[1:])
        wanted += [(int(ids[i + 1]), out[i]) for i in places]
    packed = scores(model, tokenize(model, together), packing=True)

    def order(pairs):
        return np.stack(
            [s for _, s in sorted(pairs, key=lambda p: (p[0], p[1][0]))]
        )

    np.testing.assert_allclose(order(alone), order(wanted), atol=2e-5)
    np.testing.assert_allclose(order(packed), order(wanted), atol=2e-5)


def test_where_examples_of_a_window_are_joined_a_warning_says_so():
    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=16,
        num_layers=1,
        num_query_heads=1,
        num_key_value_heads=1,
        hidden_dim=4,
        intermediate_dim=8,
        head_dim=4,
    )
    flat = flat_of(keras_hub.models.GemmaCausalLM(backbone), packing=True)
    with pytest.warns(UserWarning, match="takes no attention mask"):
        with flat.opened():
            pass


def test_adapters_learn_answers(small_writer):
    model = small_writer("Llama3")
    data = ft.prompts(QUESTIONS, ANSWERS)
    names = [group.name for group in ft.layer_groups(model)]
    assert names == ["embeddings", "transformer_layer_0", "transformer_layer_1"]
    ft.add_adapters(model, ft.LoRA(rank=4))
    before = weights_snapshot(model.backbone)
    plan = ft.plans.adapters(epochs=2, learning_rate=3e-2)
    history = ft.fine_tune(model, plan, data, data, batch_size=8, verbose=0)
    losses = history.history["val_loss"]
    assert losses[-1] < losses[0]
    judged = ft.evaluate(model, data, bootstrap=0, verbose=0)
    assert abs(np.log(judged.metrics["perplexity"]) - losses[-1]) < 1e-3
    after = weights_snapshot(model.backbone)
    moved = {
        name for name in before if not np.array_equal(before[name], after[name])
    }
    assert moved and all("adapter_default" in name for name in moved)
    with pytest.raises(ValueError, match="'head'"):
        ft.fine_tune(model, ft.plans.linear_probe(), data, verbose=0)


@pytest.mark.backends
def test_blocks_below_those_that_train_are_computed_once(small_writer):
    results = []
    for cache, packing in (("off", False), ("auto", False), ("auto", True)):
        keras.utils.set_random_seed(1)
        model = small_writer()
        data = ft.prompts(QUESTIONS, ANSWERS, packing=packing)
        phase = ft.Phase("transformer_layer_1", 1, 1e-2, optimizer="sgd")
        history = ft.fine_tune(
            model, ft.Plan([phase]), data, cache=cache, verbose=0
        )
        results.append((history, model.get_weights()))
    (off, one), (on, other), (packed, _) = results
    assert off.phases[0]["cache"].startswith("off")
    assert "after 'transformer_layer_0'" in on.phases[0]["cache"]
    assert "after 'transformer_layer_0'" in packed.phases[0]["cache"]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(
        off.history["loss"], on.history["loss"], atol=1e-5
    )


def test_texts_are_learnt_as_a_whole(small_writer):
    tf = pytest.importorskip("tensorflow")
    losses, texts = [], ["a b yes no", "b a is"]
    for data in ((texts,), tf.data.Dataset.from_tensor_slices(texts).batch(2)):
        keras.utils.set_random_seed(1)
        model = small_writer(layers=1)
        history = ft.fine_tune(
            model, ft.plans.full(epochs=1), data, batch_size=8, verbose=0
        )
        losses += history.history["loss"]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="both must be"):
        arrays = {"token_ids": np.ones((2, 4), int)}, np.ones((2, 4), int)
        ft.fine_tune(model, ft.plans.full(epochs=1), (texts,), arrays)


def test_a_run_goes_on_and_is_tried_first(small_writer, tmp_path):
    data = ft.prompts(QUESTIONS, ANSWERS)
    plan = ft.plans.full(epochs=2, learning_rate=1e-2)

    def run(folder, **options):
        keras.utils.set_random_seed(1)
        model = small_writer(layers=1)
        ft.fine_tune(
            model, plan, data, checkpoint_dir=folder, verbose=0, **options
        )
        return model

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=1)
    model = run(tmp_path / "parts")
    for a, b in zip(whole.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    before = model.get_weights()
    sweep = ft.find_learning_rate(
        model, data, 1e-3, num_steps=2, batch_size=8, verbose=0
    )
    assert np.isfinite(sweep.losses).all()
    forecast = ft.dry_run(model, plan, data)
    assert forecast.rows[0]["trainable"] == model.count_params()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_adapters_of_a_model_that_writes_come_back(small_writer, tmp_path):
    model = small_writer(layers=1)
    model.save_to_preset(tmp_path / "preset")
    ft.add_adapters(model, ft.LoRA(rank=2))
    for layer in graph.all_layers(model):
        if layer.name.startswith("adapter_"):
            randomize(layer)
            layer.switch.assign(1.0)
    x = {"token_ids": np.arange(6)[None], "padding_mask": np.ones((1, 6))}
    wanted = keras.ops.convert_to_numpy(model(x))
    ft.save_adapters(model, tmp_path / "adapters.safetensors")
    again = keras_hub.models.CausalLM.from_preset(str(tmp_path / "preset"))
    ft.load_adapters(again, tmp_path / "adapters.safetensors")
    np.testing.assert_allclose(again(x), wanted, atol=1e-5)
    ft.merge_adapters(again)
    again.save_to_preset(tmp_path / "merged")
    merged = keras_hub.models.CausalLM.from_preset(str(tmp_path / "merged"))
    np.testing.assert_allclose(merged(x), wanted, atol=1e-5)
